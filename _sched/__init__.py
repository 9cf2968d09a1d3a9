"""The scheduler's data structures at native speed.

Numbers only inside, objects by handle: Python keeps `handle -> object`. Memory is one arena, sized
at construction; full is an answer, not a reallocation. `reference.py` is the same in plain Python
and the oracle of the tests.
"""
