"""The token buckets keep their promises, and do what their exact oracle does."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from _sched.bucket import BucketArray
from _sched.reference import BucketArray as Oracle

SECOND_NS = 10**9
# Halves, so that what the oracle calls enough and what it calls short by one ns lie further apart
# than the tolerance: the two then agree on every grant.
RATES = st.integers(2, 400).map(lambda halves: halves / 2)
BURSTS = st.integers(1, 200).map(lambda halves: halves / 2)
AMOUNTS = st.integers(0, 60).map(lambda halves: halves / 2)
ANY_RATE = st.floats(1e-3, 1e9)
ANY_BURST = st.floats(1e-3, 1e9)
SHARE = st.floats(0, 1)


class BucketMachine(RuleBasedStateMachine):
    """Every bucket is known by a pair of handles: the array's and the oracle's."""

    pairs = Bundle("pairs")

    def __init__(self) -> None:
        super().__init__()
        self.buckets = BucketArray()
        self.oracle = Oracle()
        self.now_ns = 1_700_000_000 * SECOND_NS
        self.live: set[tuple[int, int]] = set()

    @rule(by_ns=st.one_of(st.integers(0, 100), st.integers(0, 2 * SECOND_NS)))
    def wait(self, by_ns: int) -> None:
        self.now_ns += by_ns

    @rule(by_ns=st.integers(1, SECOND_NS))
    def turn_the_clock_back(self, by_ns: int) -> None:
        self.now_ns -= by_ns

    @rule(target=pairs, rate=RATES, burst=BURSTS)
    def add(self, rate: float, burst: float) -> tuple[int, int]:
        mine = self.buckets.add(rate, burst, self.now_ns)
        assert mine not in {pair[0] for pair in self.live}
        pair = mine, self.oracle.add(rate, burst, self.now_ns)
        self.live.add(pair)
        return pair

    @rule(pair=consumes(pairs))
    def remove(self, pair: tuple[int, int]) -> None:
        assert self.buckets.remove(pair[0])
        assert self.oracle.remove(pair[1])
        self.live.remove(pair)
        assert not self.buckets.remove(pair[0])
        with pytest.raises(KeyError):
            self.buckets.acquire(pair[0], 0, self.now_ns)

    @rule(pair=pairs, amount=AMOUNTS)
    def acquire(self, pair: tuple[int, int], amount: float) -> None:
        mine = self.buckets.acquire(pair[0], amount, self.now_ns)
        self._same_wait(mine, self.oracle.acquire(pair[1], amount, self.now_ns))

    @rule(pair=pairs, amount=AMOUNTS)
    def wait_as_told(self, pair: tuple[int, int], amount: float) -> None:
        told_ns = self.buckets.acquire(pair[0], amount, self.now_ns)
        self._same_wait(told_ns, self.oracle.acquire(pair[1], amount, self.now_ns))
        if told_ns > 0:
            # One ns earlier can be enough by rounding, two cannot.
            assert told_ns < 3 or self.buckets.time_until(
                pair[0], amount, self.now_ns + told_ns - 2
            )
            assert self.buckets.time_until(pair[0], amount, self.now_ns + told_ns) == 0
            self.now_ns += told_ns + 1  # the exact one may need the part of a ns that we round off
            assert self.buckets.acquire(pair[0], amount, self.now_ns) == 0
            assert self.oracle.acquire(pair[1], amount, self.now_ns) == 0

    @rule(pair=pairs, amount=AMOUNTS)
    def refund(self, pair: tuple[int, int], amount: float) -> None:
        self.buckets.refund(pair[0], amount, self.now_ns)
        self.oracle.refund(pair[1], amount, self.now_ns)

    @rule(pair=pairs, reserved=AMOUNTS, used=AMOUNTS)
    def settle(self, pair: tuple[int, int], reserved: float, used: float) -> None:
        assume(self.buckets.level(pair[0], self.now_ns) > -200)
        self.buckets.settle(pair[0], reserved, used, self.now_ns)
        self.oracle.settle(pair[1], reserved, used, self.now_ns)

    @rule(pair=pairs, rate=RATES, burst=BURSTS)
    def configure(self, pair: tuple[int, int], rate: float, burst: float) -> None:
        self.buckets.configure(pair[0], rate, burst, self.now_ns)
        self.oracle.configure(pair[1], rate, burst, self.now_ns)
        assert self.buckets.rate_of(pair[0]) == rate
        assert self.buckets.burst_of(pair[0]) == burst

    @invariant()
    def agrees(self) -> None:
        assert len(self.buckets) == len(self.oracle) == len(self.live)
        for mine, theirs in self.live:
            exact = float(self.oracle.level(theirs, self.now_ns))
            assert self.buckets.level(mine, self.now_ns) == pytest.approx(exact, abs=1e-6)
            wait_ns = self.buckets.time_until(mine, 1, self.now_ns)
            self._same_wait(wait_ns, self.oracle.time_until(theirs, 1, self.now_ns))
            assert self.buckets.is_full(mine, self.now_ns + 1) or not self.oracle.is_full(
                theirs, self.now_ns
            )

    @staticmethod
    def _same_wait(mine: int, theirs: int) -> None:
        assert abs(mine - theirs) <= 1
        assert (mine == -1) == (theirs == -1)


BucketMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50)
TestBuckets = BucketMachine.TestCase


@given(
    rate=ANY_RATE,
    burst=ANY_BURST,
    asked=st.lists(st.tuples(st.integers(-10, 2 * SECOND_NS), SHARE), min_size=1, max_size=40),
)
def test_no_window_grants_more_than_the_burst_and_what_flowed_in(
    rate: float, burst: float, asked: list[tuple[int, float]]
) -> None:
    buckets = BucketArray()
    handle = buckets.add(rate, burst, 0)
    granted: list[tuple[int, float]] = []
    now_ns = 0
    for by_ns, share in asked:
        now_ns += by_ns
        if buckets.acquire(handle, share * burst, now_ns) == 0:
            granted.append((now_ns, share * burst))
    # The clock may have gone back: what has passed is what it has shown at most.
    latest_ns = list(accumulate((at_ns for at_ns, _ in granted), max, initial=0))[1:]
    for first in range(len(granted)):
        total = 0.0
        for last in range(first, len(granted)):
            total += granted[last][1]
            passed_s = (latest_ns[last] - latest_ns[first]) / SECOND_NS
            assert total <= (burst + rate * passed_s) * (1 + 1e-9)


# Thirteen days. In a century of nanoseconds a double has lost its last ten bits.
LONG_NS = 2**50


@given(
    rate=ANY_RATE,
    burst=ANY_BURST,
    start_ns=st.integers(-(2**61), 2**61),
    debt=st.floats(0, 1e6),
    taken=SHARE,
    wanted=SHARE,
    looks=st.lists(SHARE, max_size=10),
)
def test_who_waits_as_told_is_granted_whatever_is_looked_at_meanwhile(
    rate: float,
    burst: float,
    start_ns: int,
    debt: float,
    taken: float,
    wanted: float,
    looks: list[float],
) -> None:
    buckets = BucketArray()
    handle = buckets.add(rate, burst, start_ns)
    assert buckets.acquire(handle, taken * burst, start_ns) == 0
    buckets.settle(handle, 0, debt * burst, start_ns)
    amount = wanted * burst
    told_ns = buckets.time_until(handle, amount, start_ns)
    assert told_ns >= 0
    assume(told_ns < LONG_NS and start_ns + told_ns < 2**63)
    for share in sorted(looks):
        now_ns = start_ns + int(told_ns * share)
        # Changes that change nothing may round; looking may not even do that.
        buckets.settle(handle, amount, amount, now_ns)
        buckets.level(handle, now_ns)
        buckets.time_until(handle, amount, now_ns)
    assert buckets.acquire(handle, amount, start_ns + told_ns) == 0


@given(rate=ANY_RATE, burst=ANY_BURST, taken=SHARE, used=st.floats(0, 3))
def test_refunds_and_settles_lose_and_make_nothing(
    rate: float, burst: float, taken: float, used: float
) -> None:
    buckets = BucketArray()
    handle = buckets.add(rate, burst, 0)
    assert buckets.acquire(handle, taken * burst, 0) == 0
    left = buckets.level(handle, 0)
    buckets.settle(handle, taken * burst, used * burst, 0)
    expected = min(burst, left + (taken - used) * burst)
    assert buckets.level(handle, 0) == pytest.approx(expected, rel=1e-9, abs=1e-9 * burst)
    buckets.refund(handle, 10 * burst, 0)
    assert buckets.level(handle, 0) == burst
    assert buckets.is_full(handle, 0)


def test_a_debt_is_paid_off_by_the_rate_before_anything_is_granted() -> None:
    buckets = BucketArray()
    handle = buckets.add(10, 20, 0)
    assert buckets.acquire(handle, 20, 0) == 0
    buckets.settle(handle, 20, 50, 0)
    assert buckets.level(handle, 0) == -30
    assert buckets.acquire(handle, 0, 0) == 3 * SECOND_NS
    assert buckets.acquire(handle, 5, SECOND_NS) == 2.5 * SECOND_NS
    assert buckets.acquire(handle, 5, int(3.5 * SECOND_NS)) == 0


def test_more_than_the_burst_is_never_granted() -> None:
    buckets = BucketArray()
    handle = buckets.add(10, 20, 0)
    assert buckets.acquire(handle, 20.5, 0) == -1
    buckets.configure(handle, 10, 21, 0)
    assert buckets.acquire(handle, 20.5, 0) == SECOND_NS // 20


def test_a_new_rate_does_not_change_what_was_gathered_at_the_old_one() -> None:
    buckets = BucketArray()
    handle = buckets.add(10, 100, 0)
    assert buckets.acquire(handle, 100, 0) == 0
    buckets.configure(handle, 1000, 50, SECOND_NS)
    assert buckets.level(handle, SECOND_NS) == pytest.approx(10)
    assert buckets.level(handle, 2 * SECOND_NS) == 50


def test_extreme_numbers_neither_overflow_nor_hang() -> None:
    buckets = BucketArray()
    slow = buckets.add(5e-324, 1e308, -(2**63))
    assert buckets.acquire(slow, 1e308, -(2**63)) == 0
    assert buckets.acquire(slow, 1e307, 2**63 - 1) == 2**63 - 1
    fast = buckets.add(1.7e308, 1e-300, -(2**63))
    for _ in range(3):
        buckets.settle(fast, 0, 1.7e308, -(2**63))
    assert math.isfinite(buckets.level(fast, -(2**63)))
    assert buckets.level(fast, 2**63 - 1) == 1e-300


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_or_burst_that_is_none_is_refused_by_name(value: float) -> None:
    buckets = BucketArray()
    handle = buckets.add(1, 2, 0)
    with pytest.raises(ValueError, match=f"rate_per_s must .* not {value}"):
        buckets.add(value, 1, 0)
    with pytest.raises(ValueError, match=f"burst must .* not {value}"):
        buckets.add(1, value, 0)
    with pytest.raises(ValueError, match=f"rate_per_s must .* not {value}"):
        buckets.configure(handle, value, 1, 0)
    with pytest.raises(ValueError, match=f"burst must .* not {value}"):
        buckets.configure(handle, 1, value, 0)
    assert (len(buckets), buckets.rate_of(handle), buckets.burst_of(handle)) == (1, 1, 2)


@pytest.mark.parametrize("value", [-0.5, math.nan, math.inf])
def test_an_amount_that_is_none_is_refused_by_name(value: float) -> None:
    buckets = BucketArray()
    handle = buckets.add(1, 2, 0)
    with pytest.raises(ValueError, match=f"amount must .* not {value}"):
        buckets.acquire(handle, value, 0)
    with pytest.raises(ValueError, match=f"amount must .* not {value}"):
        buckets.time_until(handle, value, 0)
    with pytest.raises(ValueError, match=f"amount must .* not {value}"):
        buckets.refund(handle, value, 0)
    with pytest.raises(ValueError, match=f"reserved must .* not {value}"):
        buckets.settle(handle, value, 0, 0)
    with pytest.raises(ValueError, match=f"used must .* not {value}"):
        buckets.settle(handle, 0, value, 0)
    assert buckets.level(handle, 0) == 2


def test_a_stale_handle_is_refused_after_its_slot_is_used_again() -> None:
    buckets = BucketArray()
    old = buckets.add(1, 2, 0)
    assert buckets.remove(old)
    new = buckets.add(3, 4, 0)
    assert new != old
    assert not buckets.remove(old)
    for refused in (old, 0, 2**64 - 1, new + 1):
        with pytest.raises(KeyError):
            buckets.level(refused, 0)
        with pytest.raises(KeyError):
            buckets.rate_of(refused)
    assert buckets.burst_of(new) == 4
