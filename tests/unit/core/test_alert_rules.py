"""When alerts fire, and when they are over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.alert_rules import (
    CLEAR_NS,
    FIRST_TOKENS_MIN,
    RETRY_WINDOW_NS,
    RULES,
    AlertBook,
    AlertPolicy,
    FirstTokens,
    Measured,
    RetryWindow,
    Window,
    measured,
)
from broker.core.breaker import BreakerState
from broker.core.healing import Health
from broker.core.level import Level
from broker.core.sensing import SensorState
from broker.core.snapshot import take_snapshot
from broker.core.views import BreakerView, SensorView
from tests.unit.core.scene import SECOND_NS, model, serving

POLICY = AlertPolicy()
WELL = Measured(
    at_ns=0,
    first_token_ns_mean=None,
    queued=0,
    queued_max=1000,
    backends_down=(),
    backends=2,
    breakers_open=(),
    retries_per_minute=0.0,
    wedged=(),
    contested=(),
    sensors_failing=(),
    level=Level.NORMAL,
    level_why="",
)
SICK = {
    "HighRequestLatency": replace(WELL, first_token_ns_mean=5.1e9),
    "QueueSaturation": replace(WELL, queued=801),
    "NoBackend": replace(WELL, backends_down=("a: no", "b: gone")),
    "CircuitBreakerOpen": replace(WELL, breakers_open=("m on a: 5 of 6 calls failed",)),
    "ExcessiveRetries": replace(WELL, retries_per_minute=11.0),
    "BackendWedged": replace(WELL, wedged=("a: two cures failed",)),
    "ModelsContested": replace(WELL, contested=("a: 3 times",)),
    "SensorFailing": replace(WELL, sensors_failing=("gpu: it hangs",)),
    "LevelCritical": replace(WELL, level=Level.CRITICAL, level_why="GPU memory"),
}
FIGURES = {
    "HighRequestLatency": ("5.1 s", "300 s", "5 s"),
    "QueueSaturation": ("801", "1000", "80%"),
    "NoBackend": ("a: no", "b: gone"),
    "CircuitBreakerOpen": ("m on a", "5 of 6"),
    "ExcessiveRetries": ("11", "10"),
    "BackendWedged": ("a: two cures failed",),
    "ModelsContested": ("a: 3 times", "5 minutes"),
    "SensorFailing": ("gpu: it hangs",),
    "LevelCritical": ("GPU memory",),
}
HOLDS = {rule.name: rule.hold_ns for rule in RULES}


def names(book: AlertBook, now: Measured, at_ns: int) -> list[str]:
    return [each.name for each in book.judge(replace(now, at_ns=at_ns), POLICY)]


def test_every_rule_has_its_case() -> None:
    assert set(SICK) == set(FIGURES) == {rule.name for rule in RULES}
    assert all(rule.runbook and rule.meaning for rule in RULES)
    assert {rule.severity for rule in RULES} == {"warning", "critical"}


@pytest.mark.parametrize("name", SICK)
def test_it_fires_once_it_has_held_and_tells_the_figures(name: str) -> None:
    book = AlertBook()
    assert names(book, WELL, 0) == []
    begun = 5 * SECOND_NS
    held = begun + HOLDS[name]
    if HOLDS[name]:
        assert names(book, SICK[name], begun) == []
        assert names(book, SICK[name], held - 1) == []
    alert, *others = book.judge(replace(SICK[name], at_ns=held), POLICY)
    assert (alert.name, others) == (name, [])
    assert alert.since_ns == (begun if HOLDS[name] else held)
    for each in FIGURES[name]:
        assert each in alert.summary


def test_a_level_that_is_no_longer_critical_is_no_alert() -> None:
    book = AlertBook()
    assert names(book, SICK["LevelCritical"], 0) == ["LevelCritical"]
    assert names(book, WELL, 1) == []


@pytest.mark.parametrize("name", [rule.name for rule in RULES if rule.clear_ns])
def test_it_is_over_when_it_has_been_well_for_a_while(name: str) -> None:
    book = AlertBook()
    names(book, SICK[name], 0)
    fired = HOLDS[name]
    assert names(book, SICK[name], fired) == [name]
    assert names(book, WELL, fired + CLEAR_NS - 1) == [name]
    assert names(book, SICK[name], fired + CLEAR_NS) == [name]  # the while begins again
    assert names(book, WELL, fired + 2 * CLEAR_NS - 1) == [name]
    assert names(book, WELL, fired + 2 * CLEAR_NS) == []


@pytest.mark.parametrize("name", [name for name, hold_ns in HOLDS.items() if hold_ns])
def test_what_comes_and_goes_before_it_has_held_never_fires(name: str) -> None:
    book = AlertBook()
    for step in range(10):
        at_ns = step * HOLDS[name]
        assert names(book, SICK[name], at_ns) == []
        assert names(book, WELL, at_ns + HOLDS[name] // 2) == []


def test_on_the_threshold_nothing_fires() -> None:
    edge = replace(
        WELL, first_token_ns_mean=5e9, queued=800, backends_down=("a: no",), level=Level.LEVEL_2
    )
    book = AlertBook()
    for at_s in range(60):
        assert names(book, edge, at_s * SECOND_NS) == []


def test_other_limits_hold_from_the_next_look_on() -> None:
    book = AlertBook()
    slow = replace(WELL, first_token_ns_mean=2e9)
    assert book.judge(slow, POLICY) == ()
    strict = replace(POLICY, first_token_ns_mean=SECOND_NS)
    assert [each.name for each in book.judge(slow, strict)] == ["HighRequestLatency"]


def test_a_broker_without_backends_waits_for_none() -> None:
    assert names(AlertBook(), replace(WELL, backends=0), 60 * SECOND_NS) == []


def sums(count: int, each_ns: int) -> FirstTokens:
    return FirstTokens(count=count, ns_sum=count * each_ns)


def test_the_mean_is_of_the_window_alone() -> None:
    window, width = Window(), 300 * SECOND_NS
    assert window.mean_ns(0, width, sums(0, 0)) is None
    assert window.mean_ns(2 * SECOND_NS, width, sums(10, 8)) == 8
    # Ten more of 2 each: with the first ten, 5; without them, 2.
    later = FirstTokens(count=20, ns_sum=100)
    assert window.mean_ns(200 * SECOND_NS, width, later) == 5
    assert window.mean_ns(302 * SECOND_NS, width, later) == 2
    assert window.mean_ns(600 * SECOND_NS, width, later) is None


def test_too_few_first_tokens_say_nothing() -> None:
    few = sums(FIRST_TOKENS_MIN - 1, 9)
    assert Window().mean_ns(0, SECOND_NS, few) is None
    assert Window().mean_ns(0, SECOND_NS, sums(FIRST_TOKENS_MIN, 9)) == 9


def test_what_came_before_the_first_look_counts() -> None:
    assert Window().mean_ns(7 * SECOND_NS, SECOND_NS, sums(10, 9)) == 9


def test_the_notes_of_a_window_are_bounded() -> None:
    window = Window()
    for at_ns in range(0, 2_560_000, 10):
        window.mean_ns(at_ns, 256_000, sums(at_ns, 1))
    assert len(window._sums) <= 258


def test_a_sensor_that_is_not_there_does_not_fail() -> None:
    engine = serving(model("m")).engine

    def failing(state: SensorState, *, is_stale: bool, detail: str = "") -> tuple[str, ...]:
        sensor = SensorView(name="gpu", state=state, is_stale=is_stale, detail=detail, at_ns=None)
        view = replace(engine.degradation.view(0), sensors=(sensor,))
        return measured(take_snapshot(engine, 0), view, None, 0.0).sensors_failing

    assert failing(SensorState.ABSENT, is_stale=True) == ()
    assert failing(SensorState.OK, is_stale=False) == ()
    assert failing(SensorState.OK, is_stale=True) == ("gpu: no answer lately",)
    assert failing(SensorState.FAILING, is_stale=False, detail="lost") == ("gpu: lost",)


def test_retries_count_for_a_minute_and_a_sum_that_falls_begins_anew() -> None:
    window = RetryWindow()
    assert window.per_minute(0, 100) == 0.0  # what was before says nothing of this minute
    assert window.per_minute(30 * SECOND_NS, 112) == 12.0
    assert window.per_minute(RETRY_WINDOW_NS + 31 * SECOND_NS, 112) == 0.0
    assert window.per_minute(RETRY_WINDOW_NS + 40 * SECOND_NS, 5) == 0.0  # a backend was taken out
    assert window.per_minute(RETRY_WINDOW_NS + 41 * SECOND_NS, 8) == 3.0


def test_what_is_open_and_what_is_wedged_is_named_with_its_reason() -> None:
    engine = serving(model("m")).engine
    picture = take_snapshot(engine, 0)
    breakers = tuple(
        BreakerView(model=state.value, state=state, failures=5, calls=6, until_ns=1, why="it fails")
        for state in BreakerState
    )
    backend = replace(picture.backends[0], breakers=breakers, health=Health.WEDGED, evidence="so")
    found = measured(replace(picture, backends=(backend,)), engine.degradation.view(0), None, 0.0)
    assert found.breakers_open == (f"open on {backend.name}: it fails",)
    assert found.wedged == (f"{backend.name}: so",)
