"""Several observers as one, of whom one that fails harms neither the others nor the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from broker.core.effects import TellBreaker, TellHealing, TellLevel, TellPriority, TellSwitch
from broker.core.observer import Observer
from broker.core.views import (
    AlertView,
    AttemptReport,
    LoadReport,
    PreemptionReport,
    RequestReport,
    RequestStart,
)

_log = structlog.get_logger(__name__)

_Ears = tuple[Callable[..., None], ...]


class Observers:
    """Passes everything on, in order. Of none it is an observer that hears nothing.

    What an observer raises ends here: it is called within a turn of the engine, and a turn that is
    left half done ends the broker. Each kind of failure is logged once, as an observer that is
    broken may fail with every request.
    """

    __slots__ = (
        "_alerts",
        "_attempt",
        "_backends",
        "_breaker",
        "_ended",
        "_failed",
        "_healing",
        "_level",
        "_loads",
        "_preempted",
        "_priority",
        "_stalled",
        "_started",
        "_switching",
    )

    def __init__(self, those: Iterable[Observer] = ()) -> None:
        those = tuple(those)
        self._started: _Ears = tuple(each.request_started for each in those)
        self._ended: _Ears = tuple(each.request_ended for each in those)
        self._attempt: _Ears = tuple(each.attempt_failed for each in those)
        self._preempted: _Ears = tuple(each.attempt_preempted for each in those)
        self._breaker: _Ears = tuple(each.breaker_changed for each in those)
        self._healing: _Ears = tuple(each.healing for each in those)
        self._switching: _Ears = tuple(each.switching for each in those)
        self._loads: _Ears = tuple(each.load_ended for each in those)
        self._stalled: _Ears = tuple(each.loop_stalled for each in those)
        self._level: _Ears = tuple(each.level_changed for each in those)
        self._priority: _Ears = tuple(each.priority_changed for each in those)
        self._backends: _Ears = tuple(each.backends_changed for each in those)
        self._alerts: _Ears = tuple(each.alerts_changed for each in those)
        self._failed: set[tuple[str, str]] = set()  # where, and with what kind of error

    def request_started(self, start: RequestStart) -> None:
        self._tell(self._started, start)

    def request_ended(self, report: RequestReport) -> None:
        self._tell(self._ended, report)

    def attempt_failed(self, report: AttemptReport) -> None:
        self._tell(self._attempt, report)

    def attempt_preempted(self, report: PreemptionReport) -> None:
        self._tell(self._preempted, report)

    def breaker_changed(self, told: TellBreaker) -> None:
        self._tell(self._breaker, told)

    def healing(self, told: TellHealing) -> None:
        self._tell(self._healing, told)

    def switching(self, told: TellSwitch) -> None:
        self._tell(self._switching, told)

    def load_ended(self, report: LoadReport) -> None:
        self._tell(self._loads, report)

    def loop_stalled(self, stalled_ns: int, where: str) -> None:
        self._tell(self._stalled, stalled_ns, where)

    def level_changed(self, told: TellLevel) -> None:
        self._tell(self._level, told)

    def priority_changed(self, told: TellPriority) -> None:
        self._tell(self._priority, told)

    def backends_changed(self) -> None:
        self._tell(self._backends)

    def alerts_changed(self, firing: tuple[AlertView, ...]) -> None:
        self._tell(self._alerts, firing)

    def _tell(self, ears: _Ears, *told: object) -> None:
        for hear in ears:
            try:
                hear(*told)
            except Exception as error:  # noqa: BLE001  # see the class
                self._note(hear, error)

    def _note(self, hear: Callable[..., None], error: Exception) -> None:
        where = hear.__qualname__
        kind = (where, type(error).__name__)
        if kind not in self._failed:
            self._failed.add(kind)
            _log.error(
                "an observer failed: this is a bug of the broker; the like is not told again",
                observer=where,
                exc_info=error,
            )
