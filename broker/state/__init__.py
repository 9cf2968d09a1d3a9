"""WHAT IS KEPT AND CARRIED: the bus, behind its port of the core."""
