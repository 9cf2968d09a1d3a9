"""The scheduler's data structures at native speed.

Numbers only inside, objects by handle: Python keeps `handle -> object`. Memory is arenas of blocks
that grow with use up to a bound, keep what they have grown to, and allocate nothing for a single
entry. `reference.py`, `reference_queue.py` and `reference_vtc.py` are the same in plain Python and
the oracles of the tests.
"""
