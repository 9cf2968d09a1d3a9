"""THE LOOP: performs what the engine decides. The only place that calls `Engine.handle`."""
