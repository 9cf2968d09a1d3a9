"""What is seen of the work: what waits, what comes and in what bursts, the longest of it."""

from __future__ import annotations

import pytest

from broker.core.work_seen import (
    BURST_KEPT_NS,
    BURST_NS_MIN,
    GATHER_NS,
    LOAD_UNSEEN,
    LOAD_WINDOW_NS,
    RATES,
    Flow,
    Longest,
    WaitingWork,
)

SECOND_NS = 1_000_000_000
HIGHEST = len(RATES) - 1


def test_what_waits_is_known_by_runner_and_in_all() -> None:
    work = WaitingWork()
    for runner, change_ns in (("a", 5), ("b", 7), ("a", 2), ("b", -7)):
        work.change(runner, change_ns)
    assert (work.of("a"), work.of("b"), work.of("c"), work.of_all) == (7, 0, 0, 7)


def test_the_longest_is_slowly_forgotten() -> None:
    longest = Longest()
    assert longest.ns == 0
    longest.add(1_000)
    longest.add(10)
    assert longest.ns == pytest.approx(999)
    for _ in range(10_000):
        longest.add(10)
    assert longest.ns == 10


def test_a_flow_that_nobody_has_watched_yet_counts_as_one_that_a_bound_just_bears() -> None:
    flow = Flow(2, 0)
    assert flow.load(0) == LOAD_UNSEEN
    assert flow.load(10 * LOAD_WINDOW_NS) == pytest.approx(0, abs=1e-4)


def test_the_load_is_the_part_of_all_slots_that_comes() -> None:
    flow = Flow(4, 0)
    for second in range(5 * LOAD_WINDOW_NS // SECOND_NS):
        flow.add(2 * SECOND_NS, second * SECOND_NS)  # two slots' work each second
    assert flow.load(5 * LOAD_WINDOW_NS) == pytest.approx(0.5, abs=0.01)


def steady(flow: Flow, seconds: int, rate: float) -> None:
    """So much of what the slots do comes each second."""
    for second in range(seconds):
        flow.add(int(rate * flow.slots * SECOND_NS), second * SECOND_NS)


def test_what_comes_at_once_is_a_burst_and_what_comes_evenly_is_none() -> None:
    flow = Flow(2, 0)
    steady(flow, 1_000, 0.5)
    assert flow.burst_ns(HIGHEST, 1_000 * SECOND_NS) == BURST_NS_MIN
    flow.add(2 * 600 * SECOND_NS, 1_000 * SECOND_NS)
    later_ns = 1_000 * SECOND_NS + 5_000 * SECOND_NS
    assert flow.burst_ns(HIGHEST, later_ns) == pytest.approx(600 * SECOND_NS, rel=0.01)


def test_of_a_burst_that_has_come_only_the_rest_may_still_come() -> None:
    flow = Flow(1, 0)
    flow.add(600 * SECOND_NS, GATHER_NS)
    assert flow.burst_ns(HIGHEST, GATHER_NS) == BURST_NS_MIN
    worked_off_ns = int(200 * SECOND_NS / RATES[HIGHEST])
    assert flow.burst_ns(HIGHEST, GATHER_NS + worked_off_ns) == pytest.approx(200 * SECOND_NS)


def test_a_burst_is_larger_where_less_is_taken_off() -> None:
    flow = Flow(1, 0)
    steady(flow, 1_000, 0.9)
    long_after_ns = 100_000 * SECOND_NS
    bursts = [flow.burst_ns(at, long_after_ns) for at in range(len(RATES))]
    assert bursts == sorted(bursts, reverse=True)
    assert bursts[0] == pytest.approx(1_000 * (0.9 - RATES[0]) * SECOND_NS, rel=0.01)


def test_bursts_of_long_ago_are_forgotten() -> None:
    flow = Flow(1, 0)
    flow.add(600 * SECOND_NS, GATHER_NS)
    for hour in range(1, 73):
        flow.add(SECOND_NS, hour * 3_600 * SECOND_NS)
    assert 72 * 3_600 * SECOND_NS > 3 * BURST_KEPT_NS
    assert flow.burst_ns(HIGHEST, 73 * 3_600 * SECOND_NS) == BURST_NS_MIN


def test_what_comes_within_a_moment_is_put_together_and_nothing_is_lost() -> None:
    flow, whole = Flow(1, 0), Flow(1, 0)
    for number in range(100):
        flow.add(6 * SECOND_NS, GATHER_NS + number)
    flow.add(0, 2 * GATHER_NS + 100)
    whole.add(600 * SECOND_NS, 2 * GATHER_NS + 100)
    assert flow.load(2 * GATHER_NS + 100) == pytest.approx(whole.load(2 * GATHER_NS + 100))
