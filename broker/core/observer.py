"""The port of those who are told what happened: logs, metrics, traces, subscribers."""

from __future__ import annotations

from typing import Protocol

from broker.core.effects import TellLevel, TellPriority
from broker.core.views import AlertView, RequestReport, RequestStart


class Observer(Protocol):
    """Hears of things right after the turn in which they happened. Neither blocks nor raises, and
    is cheap: it is called on the way of every request."""

    def request_started(self, start: RequestStart) -> None:
        """A request was given to a backend, for the first time or again."""

    def request_ended(self, report: RequestReport) -> None:
        """Once for each request, those refused at once too; not for a call that took over."""

    def level_changed(self, told: TellLevel) -> None: ...

    def priority_changed(self, told: TellPriority) -> None: ...

    def backends_changed(self) -> None:
        """A backend, or a model on one, may be in another state than before."""

    def alerts_changed(self, firing: tuple[AlertView, ...]) -> None:
        """These alerts fire now, and others than before."""
