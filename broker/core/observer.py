"""The port of those who are told what happened: logs, metrics, traces, subscribers."""

from __future__ import annotations

from typing import Protocol

from broker.core.effects import TellBreaker, TellHealing, TellLevel, TellPriority, TellSwitch
from broker.core.views import (
    AlertView,
    AttemptReport,
    LoadReport,
    PreemptionReport,
    RequestReport,
    RequestStart,
)


class Observer(Protocol):
    """Hears of things right after the turn in which they happened. Neither blocks nor raises, and
    is cheap: it is called on the way of every request. Who inherits it hears only of what it
    overrides."""

    def request_started(self, start: RequestStart) -> None:
        """A request was given to a backend, for the first time or again."""
        return

    def request_ended(self, report: RequestReport) -> None:
        """Once for each request, those refused at once too; not for a call that took over."""
        return

    def attempt_failed(self, report: AttemptReport) -> None:
        """A call to a backend came to nothing; its request may be tried again, or has ended."""
        return

    def attempt_preempted(self, report: PreemptionReport) -> None:
        """A call to a backend was set aside for urgent work; its request waits again."""
        return

    def breaker_changed(self, told: TellBreaker) -> None:
        return

    def healing(self, told: TellHealing) -> None:
        return

    def switching(self, told: TellSwitch) -> None:
        return

    def load_ended(self, report: LoadReport) -> None:
        """A load that the broker asked for is over, well or not."""
        return

    def loop_stalled(self, stalled_ns: int, where: str) -> None:
        """The broker's own loop did nothing for so long; `where` it stood, in words."""
        return

    def level_changed(self, told: TellLevel) -> None:
        return

    def priority_changed(self, told: TellPriority) -> None:
        return

    def backends_changed(self) -> None:
        """A backend, or a model on one, may be in another state than before."""
        return

    def alerts_changed(self, firing: tuple[AlertView, ...]) -> None:
        """These alerts fire now, and others than before."""
        return
