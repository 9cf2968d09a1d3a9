"""Intervals come true as often as they say, however wrong the estimates are."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.calibration import (
    BUCKETS_MAX,
    JUDGED_MAX,
    RATIOS_MAX,
    RATIOS_MIN,
    Calibration,
    Interval,
    Situation,
    Word,
)

SECOND_NS = 1_000_000_000

# Estimators: the real wait for a point, in seconds.
Real = Callable[[random.Random, int, float], float]


def _twice(chance: random.Random, number: int, point_s: float) -> float:
    return 2 * point_s


def _scattered(chance: random.Random, number: int, point_s: float) -> float:
    return point_s * chance.lognormvariate(0, 1)


def _unrelated(chance: random.Random, number: int, point_s: float) -> float:
    return chance.expovariate(1 / 20)


def _growing(chance: random.Random, number: int, point_s: float) -> float:
    """The load rises tenfold while it is learned."""
    return point_s * (1 + number / 300) * chance.lognormvariate(0, 0.3)


def _sudden(chance: random.Random, number: int, point_s: float) -> float:
    return point_s * (8.0 if 1_000 < number < 2_000 else 0.5) * chance.lognormvariate(0, 0.4)


@pytest.mark.parametrize("real", [_twice, _scattered, _unrelated, _growing, _sudden])
def test_four_of_five_start_inside_whatever_is_wrong_with_the_estimates(real: Real) -> None:
    chance = random.Random(7)
    waits = Calibration()
    for number in range(3_000):
        point_s = chance.uniform(0.5, 60)
        word = waits.word(Situation.AWAY, point_s * SECOND_NS, 0)
        waits.started(word, int(real(chance, number, point_s) * SECOND_NS))
    share = waits.inside / waits.judged
    least, most = (0.75, 0.85) if real is not _twice else (0.75, 1.0)  # which is all alike
    assert least <= share <= most


def test_good_estimates_have_narrow_intervals_and_bad_ones_wide() -> None:
    widths = {}
    for name, sigma in (("good", 0.1), ("bad", 1.0)):
        chance, waits = random.Random(3), Calibration()
        for _ in range(500):
            word = waits.word(Situation.RESIDENT, 20 * SECOND_NS, 0)
            waits.started(word, int(20 * chance.lognormvariate(0, sigma) * SECOND_NS))
        low_ns, _, high_ns = waits.interval(Situation.RESIDENT, 20 * SECOND_NS)
        widths[name] = high_ns - low_ns
    assert widths["good"] < 8 * SECOND_NS < widths["bad"]


def test_the_middle_follows_what_points_turn_out_to_be() -> None:
    waits = learned(ratio=3.0)
    assert waits.interval(Situation.AWAY, 20 * SECOND_NS).middle_ns == pytest.approx(
        60 * SECOND_NS, rel=0.1
    )


def learned(*, ratio: float, count: int = 3 * RATIOS_MIN) -> Calibration:
    """All waits were so many times their points."""
    waits = Calibration()
    for _ in range(count):
        word = waits.word(Situation.AWAY, 20 * SECOND_NS, 0)
        waits.started(word, int(20 * ratio * SECOND_NS))
    return waits


def test_each_situation_learns_by_itself() -> None:
    waits = learned(ratio=5.0)
    assert waits.interval(Situation.RESIDENT, 20 * SECOND_NS).middle_ns == 20 * SECOND_NS


def test_a_length_of_wait_not_seen_yet_goes_by_the_others_of_its_situation() -> None:
    waits = learned(ratio=5.0)
    interval = waits.interval(Situation.AWAY, 200 * SECOND_NS)
    assert interval.middle_ns == pytest.approx(1_000 * SECOND_NS, rel=0.1)


def test_before_it_has_seen_enough_it_is_wide() -> None:
    interval = Calibration().interval(Situation.AWAY, 10 * SECOND_NS)
    assert interval.low_ns < 5 * SECOND_NS
    assert interval.middle_ns == 10 * SECOND_NS
    assert interval.high_ns > 20 * SECOND_NS


def test_who_left_after_the_end_is_a_miss_and_before_it_unknown() -> None:
    waits = Calibration()
    word = waits.word(Situation.AWAY, 10 * SECOND_NS, 0)
    waits.left(word, word.interval.high_ns)
    assert (waits.lately, waits.left_before) == ((0, 0), 1)
    waits.left(word, word.interval.high_ns + 1)
    assert (waits.judged, waits.inside, waits.lately) == (1, 0, (1, 0))


def test_who_still_waits_after_the_end_is_a_miss_at_once_and_only_once() -> None:
    waits = Calibration()
    word = waits.word(Situation.AWAY, 10 * SECOND_NS, 0)
    waits.overdue(word)
    assert (waits.judged, waits.inside) == (1, 0)
    waits.started(word, word.interval.high_ns + 1, is_judged=True)
    waits.left(word, word.interval.high_ns + 1, is_judged=True)
    assert (waits.judged, waits.inside, waits.left_before) == (1, 0, 0)
    assert waits.remembered == 4  # both waits are known now, in two lists each


def test_while_waits_grow_intervals_widen_before_anybody_starts() -> None:
    waits = learned(ratio=1.0)
    before = waits.interval(Situation.AWAY, 20 * SECOND_NS)
    for _ in range(20):
        waits.overdue(waits.word(Situation.AWAY, 20 * SECOND_NS, 0))
    assert waits.interval(Situation.AWAY, 20 * SECOND_NS).high_ns > before.high_ns


def test_the_impatient_do_not_make_waits_look_short() -> None:
    """Half of all would have waited for longer than anybody stays."""
    chance, waits = random.Random(5), Calibration()
    for _ in range(1_000):
        word = waits.word(Situation.AWAY, 30 * SECOND_NS, 0)
        real_ns = int(chance.uniform(10, 110) * SECOND_NS)
        stays_ns = 60 * SECOND_NS
        if real_ns <= stays_ns:
            waits.started(word, real_ns)
        else:
            waits.left(word, stays_ns)
    interval = waits.interval(Situation.AWAY, 30 * SECOND_NS)
    assert interval.middle_ns > 50 * SECOND_NS
    assert 0.75 <= waits.inside / waits.judged <= 0.9


def test_the_same_waits_give_the_same_intervals() -> None:
    found = []
    for _ in range(2):
        chance, waits = random.Random(11), Calibration()
        for _ in range(400):
            word = waits.word(Situation.NEXT, chance.uniform(0, 50) * SECOND_NS, 0)
            waits.started(word, int(chance.uniform(0, 90) * SECOND_NS))
        found.append([waits.interval(each, 20 * SECOND_NS) for each in Situation])
    assert found[0] == found[1]


def test_what_is_remembered_is_bounded() -> None:
    chance, waits = random.Random(2), Calibration()
    for _ in range(20_000):
        situation = chance.choice(list(Situation))
        word = waits.word(situation, chance.expovariate(1 / 3_000) * SECOND_NS, 0)
        waits.started(word, int(chance.expovariate(1 / 3_000) * SECOND_NS))
    most = len(Situation) * (BUCKETS_MAX + 2) * RATIOS_MAX
    assert waits.remembered <= most
    assert waits.judged == 20_000
    assert waits.lately[0] == JUDGED_MAX


@given(
    outcomes=st.lists(
        st.tuples(
            st.sampled_from(Situation),
            st.floats(0, 1e15),
            st.integers(0, 10**15),
            st.booleans(),
        ),
        max_size=150,
    ),
    asked=st.floats(0, 1e16),
)
def test_an_interval_is_in_order_and_contains_its_point(
    outcomes: list[tuple[Situation, float, int, bool]], asked: float
) -> None:
    waits = Calibration()
    words = list[Word]()
    for situation, point_ns, wait_ns, has_started in outcomes:
        word = waits.word(situation, point_ns, 0)
        words.append(word)
        (waits.started if has_started else waits.left)(word, wait_ns)
    intervals: list[Interval] = [each.interval for each in words]
    intervals += [waits.interval(each, asked) for each in Situation]
    assert all(0 <= each.low_ns <= each.middle_ns <= each.high_ns for each in intervals)
    assert 0 <= waits.inside <= waits.judged <= len(outcomes)
