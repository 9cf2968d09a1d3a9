"""Several observers as one."""

from __future__ import annotations

from collections.abc import Iterable

from broker.core.effects import TellLevel, TellPriority
from broker.core.observer import Observer
from broker.core.views import AlertView, RequestReport, RequestStart


class Observers:
    """Passes everything on, in order. Of none it is an observer that hears nothing."""

    __slots__ = ("_those",)

    def __init__(self, those: Iterable[Observer] = ()) -> None:
        self._those = tuple(those)

    def request_started(self, start: RequestStart) -> None:
        for each in self._those:
            each.request_started(start)

    def request_ended(self, report: RequestReport) -> None:
        for each in self._those:
            each.request_ended(report)

    def level_changed(self, told: TellLevel) -> None:
        for each in self._those:
            each.level_changed(told)

    def priority_changed(self, told: TellPriority) -> None:
        for each in self._those:
            each.priority_changed(told)

    def backends_changed(self) -> None:
        for each in self._those:
            each.backends_changed()

    def alerts_changed(self, firing: tuple[AlertView, ...]) -> None:
        for each in self._those:
            each.alerts_changed(firing)
