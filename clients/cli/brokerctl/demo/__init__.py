"""`make run`: a small fleet of agents streams through a broker, to be watched.

`command` leads through it, `stage` sets up the broker and what is behind it, `fleet` are the modest
agents and `greedy` is the other one, `view` shows them, `summary` counts up.
"""
