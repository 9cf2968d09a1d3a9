"""THE USE CASES: what a call means, between the wire and the loop."""
