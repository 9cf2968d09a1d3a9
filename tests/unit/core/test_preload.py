"""What is learned of the use of models: the hour, successors, and what was asked for lately."""

from __future__ import annotations

import random

import pytest

from broker.core.habits import AGENTS_MAX, Habits
from broker.core.preload import (
    DAY_NS,
    SECOND_NS,
    SLOT_NS,
    SLOTS,
    SLOTS_PER_DAY,
    Learned,
    PreloadPolicy,
)
from broker.core.successors import SUCCESSORS_MAX

MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS
MONDAY_NS = 4 * DAY_NS  # 5 January 1970


def habits(**policy: object) -> Habits:
    """It is Monday, midnight, at 0 of the engine's clock."""
    made = Habits(PreloadPolicy(is_enabled=True, **policy))  # type: ignore[arg-type]
    made.clock_set(MONDAY_NS, 0)
    return made


def days_of(made: Habits, model: str, hour: int, *, days: range, every_ns: int) -> None:
    """On each of these days it is asked for through this hour, by others each time."""
    for day in days:
        begun_ns = day * DAY_NS + hour * HOUR_NS
        for number, at_ns in enumerate(range(begun_ns, begun_ns + HOUR_NS, every_ns)):
            made.asked(model, f"{model}-{number}", at_ns)


def test_what_is_needed_at_an_hour_is_expected_at_that_hour_of_the_next_day() -> None:
    made = habits()
    days_of(made, "m", 9, days=range(4), every_ns=10 * MINUTE_NS)
    made.roll(4 * DAY_NS)
    at_nine = made.forecasts(4 * DAY_NS + 9 * HOUR_NS)["m"]
    at_three = made.forecasts(4 * DAY_NS + 3 * HOUR_NS)["m"]
    # Six an hour; nothing has come today, which counts as well.
    assert 2.9 / 3600 < at_nine.per_s <= 6 / 3600
    assert at_three.per_s < at_nine.per_s / 100
    assert at_nine.low_per_s < at_nine.per_s < at_nine.high_per_s
    assert at_nine.why == "usually asked for at 09:00"


def test_it_is_expected_shortly_before() -> None:
    made = habits(horizon_ns=HOUR_NS)
    days_of(made, "m", 9, days=range(4), every_ns=5 * MINUTE_NS)
    made.roll(4 * DAY_NS)
    early, late = (
        made.forecasts(4 * DAY_NS + 8 * HOUR_NS + minutes * MINUTE_NS)["m"].per_s
        for minutes in (1, 45)
    )
    assert 0 <= early < late


def test_weekends_have_habits_of_their_own() -> None:
    made = habits()
    days_of(made, "m", 9, days=range(5), every_ns=10 * MINUTE_NS)
    made.roll(7 * DAY_NS)  # Saturday and Sunday go by without it
    saturday = made.forecasts(12 * DAY_NS + 9 * HOUR_NS)["m"]
    monday = made.forecasts(7 * DAY_NS + 9 * HOUR_NS)["m"]
    assert saturday.per_s < monday.per_s / 100


def test_a_habit_that_has_ended_is_forgotten_in_time() -> None:
    made = habits(days=2)
    days_of(made, "m", 9, days=range(5), every_ns=10 * MINUTE_NS)
    made.roll(7 * DAY_NS)
    before = made.forecasts(7 * DAY_NS + 9 * HOUR_NS)["m"].per_s
    made.roll(21 * DAY_NS)
    assert made.forecasts(21 * DAY_NS + 9 * HOUR_NS)["m"].per_s < before / 10


def test_what_was_asked_for_lately_is_expected_whatever_the_hour() -> None:
    made = Habits(PreloadPolicy(is_enabled=True))  # nobody has told the time
    for number in range(10):
        made.asked("m", f"a-{number}", number * MINUTE_NS)
    found = made.forecasts(10 * MINUTE_NS)["m"]
    assert 0.5 / 60 < found.per_s < 2 / 60
    assert found.why == "often asked for lately"
    assert made.forecasts(10 * HOUR_NS)["m"].per_s < found.per_s / 1000


def test_a_session_is_one_need() -> None:
    often, seldom = habits(), habits()
    for number in range(20):
        often.asked("m", "a", number * SECOND_NS)
    seldom.asked("m", "a", 0)
    at_ns = 20 * MINUTE_NS
    assert often.forecasts(at_ns)["m"].per_s == seldom.forecasts(at_ns)["m"].per_s


def test_what_an_agent_turns_to_is_expected_after_it() -> None:
    made = habits()
    for number in range(10):
        begun_ns = number * HOUR_NS
        made.asked("embed", "rag", begun_ns)
        made.asked("chat", "rag", begun_ns + 4 * SECOND_NS)
    at_ns = 20 * HOUR_NS
    before = made.forecasts(at_ns)["chat"].per_s
    made.asked("embed", "rag", at_ns)
    soon = made.forecasts(at_ns + SECOND_NS)["chat"]
    assert soon.per_s > 0.1 > 100 * before
    assert soon.why == "usually asked for after embed"
    assert made.forecasts(at_ns + 2 * MINUTE_NS)["chat"].per_s < 0.01, "it would have come by now"


def test_one_agent_turns_to_what_another_does_not() -> None:
    made = habits()
    for number in range(20):
        begun_ns = number * HOUR_NS
        made.asked("embed", "rag", begun_ns)
        made.asked("chat", "rag", begun_ns + 4 * SECOND_NS)
        made.asked("embed", "index", begun_ns + 10 * MINUTE_NS)
    at_ns = 40 * HOUR_NS
    made.asked("embed", "index", at_ns)
    assert made.forecasts(at_ns + SECOND_NS)["chat"].per_s < 0.03
    made.asked("embed", "rag", at_ns + 2 * SECOND_NS)
    assert made.forecasts(at_ns + 3 * SECOND_NS)["chat"].per_s > 0.1


def test_of_a_restart_no_more_is_lost_than_the_half_hour() -> None:
    made = habits()
    days_of(made, "m", 9, days=range(4), every_ns=10 * MINUTE_NS)
    made.asked("n", "m-0", 3 * DAY_NS + 10 * HOUR_NS)
    made.roll(4 * DAY_NS)
    learned = made.learned()
    again = habits()
    again.restore(learned)
    at_ns = 9 * HOUR_NS
    # Nothing is known of today yet: what is usual counts alone.
    usual = again.forecasts(at_ns)["m"].per_s
    assert usual == pytest.approx(2 * made.forecasts(4 * DAY_NS + at_ns)["m"].per_s, rel=0.01)
    assert again.learned() == learned


def test_what_was_learned_for_other_slots_is_not_taken() -> None:
    made = habits()
    made.restore(Learned(days=(1.0,), models=()))
    assert made.learned().days == (0.0,) * SLOTS


def test_a_clock_that_is_set_is_another_hour_and_one_that_drifts_is_not() -> None:
    made = habits()
    made.asked("m", "a", MINUTE_NS)
    made.clock_set(MONDAY_NS + SECOND_NS, 2 * MINUTE_NS)
    assert made.closed == 0
    made.clock_set(MONDAY_NS + 5 * HOUR_NS, 3 * MINUTE_NS)
    assert made.closed == 1
    made.asked("m", "b", 4 * MINUTE_NS)
    made.roll(5 * HOUR_NS)
    needs = made.learned().models[0].needs
    assert (needs[0], needs[10]) == (1.0, 1.0)


def test_a_long_silence_is_as_many_days_without_any_need() -> None:
    made = habits()
    made.asked("m", "a", MINUTE_NS)
    made.roll(400 * DAY_NS)
    days = made.learned().days
    assert all(each > 0 for each in days)
    assert made.learned().models[0].needs[0] < 0.01 * days[0] + 1.0


def test_the_same_requests_are_the_same_forecast() -> None:
    def told(seed: int) -> list[object]:
        chance, made, at_ns = random.Random(seed), habits(), 0
        found: list[object] = []
        for _ in range(500):
            at_ns += chance.randrange(5 * MINUTE_NS)
            made.asked(chance.choice("mnop"), f"a-{chance.randrange(9)}", at_ns)
            found.append(made.forecasts(at_ns))
        return found

    assert told(1) == told(1)


def test_all_of_it_is_bounded() -> None:
    made = habits(models_max=8)
    for number in range(3 * AGENTS_MAX):
        made.asked(f"m-{number % 50}", f"a-{number}", number * SECOND_NS)
        made.asked(f"m-{number % 49}", f"a-{number}", number * SECOND_NS + 1)
    assert len(made) == 8
    assert len(made._agents) == AGENTS_MAX
    assert all(len(each.successors) <= SUCCESSORS_MAX for each in made.learned().models)
    made.configure(PreloadPolicy(models_max=3))
    assert len(made) == 3


@pytest.mark.parametrize("wrong", [{"margin": 0.5}, {"probability_min": 2.0}, {"days": 0.0}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be|from 0 to 1"):
        PreloadPolicy(**wrong)  # type: ignore[arg-type]


def test_a_day_has_its_slots() -> None:
    assert SLOT_NS * SLOTS_PER_DAY == DAY_NS
