from typing import final

@final
class BucketArray:
    """Token buckets, each of a rate and a burst of its own, known by their handles.

    A bucket fills at its rate up to its burst. Amounts are tokens of whatever is counted, at least
    0 and finite; rates and bursts are above 0 and finite; else ValueError, which names the argument
    and its value. `now_ns` is any clock's, passed in; where it goes back, no time has passed. A
    stale handle is a KeyError. After an error nothing has changed.

    Memory grows with use and is kept: `sys.getsizeof` tells it."""

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def __sizeof__(self) -> int: ...
    def add(self, rate_per_s: float, burst: float, now_ns: int) -> int:
        """Adds a full bucket and returns its handle, which is never 0. MemoryError, and nothing
        happens, if there is no memory to grow."""

    def remove(self, handle: int, /) -> bool:
        """Forgets a bucket. False, and nothing happens, if the handle is stale."""

    def acquire(self, handle: int, amount: float, now_ns: int, /) -> int:
        """0: the amount is taken. More: nothing is taken; so many ns from `now_ns` on it will be
        granted if nobody else takes (at most 2**63 - 1). -1: never, as it is more than the burst.
        In debt nothing is granted, not even 0 tokens."""

    def refund(self, handle: int, amount: float, now_ns: int, /) -> None:
        """Gives back what was taken and not used, up to the burst."""

    def settle(self, handle: int, reserved: float, used: float, now_ns: int, /) -> None:
        """What was taken as `reserved` came to `used`: the difference goes back, up to the burst,
        or is taken too, also where that leaves a debt, which the rate pays off."""

    def configure(self, handle: int, rate_per_s: float, burst: float, now_ns: int, /) -> None:
        """From `now_ns` on another rate and burst. What was gathered at the old rate stays, up to
        the new burst; so does a debt."""

    def level(self, handle: int, now_ns: int, /) -> float:
        """Tokens it holds; below 0 it is in debt."""

    def time_until(self, handle: int, amount: float, now_ns: int, /) -> int:
        """What `acquire` would answer, with nothing taken."""

    def is_full(self, handle: int, now_ns: int, /) -> bool:
        """Whether it holds its burst. Then it may be forgotten: a new one would be the same."""

    def rate_of(self, handle: int, /) -> float:
        """Tokens a second."""

    def burst_of(self, handle: int, /) -> float:
        """The most tokens it holds."""
