"""Alerts: judged with every sample of the sensors, told when they change."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from broker.core.alert_rules import (
    AlertBook,
    AlertPolicy,
    FirstTokens,
    RetryWindow,
    Window,
    measured,
)
from broker.core.observer import Observer
from broker.core.snapshot import Snapshot
from broker.core.views import AlertView, LevelView

_log = structlog.get_logger("broker.alerts")


class Alerting:
    """Asks for what the rules look at, and tells the observer and the log of what changes."""

    def __init__(
        self,
        policy: AlertPolicy,
        snapshot: Callable[[], Snapshot],
        level: Callable[[], LevelView],
        first_tokens: Callable[[], FirstTokens],
        observer: Observer,
    ) -> None:
        self._policy = policy
        self._snapshot = snapshot
        self._level = level
        self._first_tokens = first_tokens
        self._observer = observer
        self._window = Window()
        self._retries = RetryWindow()
        self._book = AlertBook()
        self._firing: tuple[AlertView, ...] = ()

    def firing(self) -> tuple[AlertView, ...]:
        """The alerts that fire, by the last tick."""
        return self._firing

    def configure(self, policy: AlertPolicy) -> None:
        """From the next tick on this holds."""
        self._policy = policy

    def on_tick(self) -> None:
        """Judges what is measured now."""
        snapshot, policy = self._snapshot(), self._policy
        mean_ns = self._window.mean_ns(snapshot.at_ns, policy.window_ns, self._first_tokens())
        retries = sum(each.retries for each in snapshot.backends)
        per_minute = self._retries.per_minute(snapshot.at_ns, retries)
        firing = self._book.judge(measured(snapshot, self._level(), mean_ns, per_minute), policy)
        before, self._firing = self._firing, firing
        names_before, names = {each.name for each in before}, {each.name for each in firing}
        if names == names_before:
            return  # a figure in the words may be another one; that is no news
        for each in firing:
            if each.name not in names_before:
                _log.warning(
                    "alert fires",
                    alert=each.name,
                    severity=each.severity,
                    summary=each.summary,
                    runbook=each.runbook,
                )
        for each in before:
            if each.name not in names:
                _log.info("alert is over", alert=each.name)
        self._observer.alerts_changed(firing)
