from typing import final

@final
class VirtualTokenCounters:
    """Flows in classes; of the active ones of a class the one served least per weight is next.

    With a grain, counters count as alike that are less than so much above the least (as a cost, and
    less than the largest charge), and of the flows with such the one of the least stand is next.
    Without, only equal ones do, and stands play no part. Costs are whole numbers from 0 to 2**40,
    weights positive and finite (ValueError otherwise).
    Source: VTC, arXiv 2401.00588; what a lift gives while nothing waits follows start-time fair
    queueing (Goyal, Vin, Cheng 1996), but not its virtual time, as charges here are estimates.
    """

    grain: int
    """0 to 2**40; 0: only equal counters count as alike. May be set at any time, in O(n)."""

    def __init__(self, parked_max: int = 1024, grain: int = 0) -> None: ...
    @property
    def parked_max(self) -> int:
        """How many idle flows of one class are remembered."""

    def __len__(self) -> int:
        """How many flows there are."""

    def open_class(self) -> int:
        """A new class, without flows."""

    def close_class(self, of: int) -> bool:
        """Forgets a class. False where it has flows, or is unknown."""

    def add_flow(self, of: int, weight: float) -> int:
        """A new flow, neither active nor parked, with a counter of 0. KeyError: no such class."""

    def remove_flow(self, flow: int) -> bool:
        """Forgets a flow, whatever it does. False if the handle is stale, here and below."""

    def set_weight(self, flow: int, weight: float) -> bool:
        """What is charged, settled or in flight counts by this weight from now on."""

    def activate(self, flow: int, lift: bool = True, stand_ns: int = 0) -> bool:
        """The flow has something to be served. False also where it is active already.

        It is lifted to the floor of its class (`floor_of`, itself left out), unless it comes back
        to where it was (`lift=False`).
        """

    def deactivate(self, flow: int) -> bool:
        """The flow has nothing to be served, or may not be. False also where it is not active."""

    def restand(self, flow: int, stand_ns: int) -> bool:
        """The stand of an active flow is another one now. False also where it is not active."""

    def charge(self, flow: int, cost: int) -> bool:
        """The flow is served from now until it is settled; its counter grows by the cost."""

    def settle(self, flow: int, charged: int, actual: int) -> bool:
        """What was charged is over and cost `actual`: the difference is charged, or given back down
        to 0. False also where nothing is in flight."""

    def least(self, of: int) -> int:
        """The active flow that is next; 0 where none is active.

        Among equals the one not charged for longest, then the oldest. KeyError: no such class.
        """

    def counter_of(self, flow: int) -> int | None:
        """This flow's counter in virtual units, or None if the handle is stale."""

    def floor_of(self, of: int) -> int | None:
        """The counter of the active flow that is next, or, where none is active, of the one that
        was the last to be; None where none was. KeyError: no such class."""

    def park(self, flow: int) -> bool:
        """The flow idles; `pop_spent` says when to forget it. False also unless it does idle."""

    def pop_spent(self, of: int) -> int:
        """The least parked flow, where the least counter that is active has reached it (where none
        is, the floor), or where there are too many; else 0.

        It is no longer parked, and what it knows is worth no more than a lift. KeyError: no such
        class.
        """

    def check(self) -> None:
        """Raises AssertionError where an inner law is broken. O(n)."""
