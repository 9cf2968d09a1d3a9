"""Several observers as one: all are told, and one that raises harms nobody."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from broker.core.effects import TellLevel, TellPriority
from broker.core.level import Level
from broker.core.observer import Observer
from broker.core.requests import Outcome
from broker.core.stimuli import Scope
from broker.core.views import AlertView, LoadReport, RequestReport, RequestStart
from broker.runtime.observers import Observers
from tests.unit.observability.ended import report

START = RequestStart(
    key=("a", "r"),
    agent_type="t",
    model="m",
    backend="b",
    priority=5,
    level=Level.NORMAL,
    queue_wait_ns=1,
    load_wait_ns=0,
)
TOLD = TellLevel(level=Level.LEVEL_1, before=Level.NORMAL, why="why")
BOOST = TellPriority(
    scope=Scope(agent_id="a"),
    weight_factor=2.0,
    rate_factor=1.0,
    priority_best=0,
    is_blocked=False,
    is_paused=False,
)
LOAD = LoadReport(backend="b", model="m", took_ns=1, problem="")
ALERT = AlertView(name="NoBackend", severity="critical", summary="", runbook="", since_ns=0)


class Listener(Observer):
    """Notes what it is told, and then raises where it is to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.told: list[object] = []

    def _hear(self, what: object) -> None:
        self.told.append(what)
        if self.error is not None:
            raise self.error

    def request_started(self, start: RequestStart) -> None:
        self._hear(start)

    def request_ended(self, ended: RequestReport) -> None:
        self._hear(ended)

    def load_ended(self, load: LoadReport) -> None:
        self._hear(load)

    def level_changed(self, told: TellLevel) -> None:
        self._hear(told)

    def priority_changed(self, told: TellPriority) -> None:
        self._hear(told)

    def backends_changed(self) -> None:
        self._hear("backends")

    def alerts_changed(self, firing: tuple[AlertView, ...]) -> None:
        self._hear(firing)


def tell_all(observers: Observers) -> list[object]:
    """Everything that there is to tell, once."""
    ended = report(outcome=Outcome.COMPLETED)
    observers.request_started(START)
    observers.request_ended(ended)
    observers.load_ended(LOAD)
    observers.level_changed(TOLD)
    observers.priority_changed(BOOST)
    observers.backends_changed()
    observers.alerts_changed((ALERT,))
    return [START, ended, LOAD, TOLD, BOOST, "backends", (ALERT,)]


@pytest.mark.parametrize("error", [RuntimeError("broken"), AssertionError("not so")])
def test_one_that_raises_is_told_all_and_so_are_those_behind_it(error: Exception) -> None:
    broken, well = Listener(error), Listener()
    with capture_logs():
        told = tell_all(Observers((broken, well)))
    assert broken.told == well.told == told


def test_each_kind_of_failure_is_logged_once() -> None:
    broken = Listener(RuntimeError("broken"))
    observers = Observers((broken,))
    with capture_logs() as logged:
        for _ in range(3):
            observers.backends_changed()
            observers.level_changed(TOLD)
        broken.error = KeyError("other")
        observers.backends_changed()
    assert [(each["observer"], repr(each["exc_info"])) for each in logged] == [
        ("Listener.backends_changed", "RuntimeError('broken')"),
        ("Listener.level_changed", "RuntimeError('broken')"),
        ("Listener.backends_changed", "KeyError('other')"),
    ]
    assert {each["log_level"] for each in logged} == {"error"}


def test_what_is_no_error_of_the_observer_goes_on() -> None:
    class Ending(Listener):
        def backends_changed(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Observers((Ending(),)).backends_changed()
