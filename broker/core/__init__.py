"""THE DECISIONS: pure and deterministic. No I/O, no clock, no chance of its own, no asyncio."""
