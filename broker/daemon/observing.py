"""Puts together what the broker shows of itself: counts, log lines, spans, alerts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from broker.config.schema import Config
from broker.core.alert_rules import AlertPolicy, FirstTokens
from broker.core.events import Bus
from broker.core.model_list import ListState
from broker.core.observer import Observer
from broker.core.pull_entries import PullsState
from broker.models.usage_books import UsageBooks
from broker.observability.alerting import Alerting
from broker.observability.exposition import Exposition
from broker.observability.prometheus import Picture, metrics_registry
from broker.observability.recorder import Recorder
from broker.observability.request_log import RequestLog
from broker.observability.tracing import Tracing
from broker.runtime.driver import Driver

_MS = 1_000_000
_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Observing:
    """Those who are told of requests, and what they write to."""

    registry: CollectorRegistry
    recorder: Recorder
    request_log: RequestLog
    tracing: Tracing | None

    @property
    def observers(self) -> tuple[Observer, ...]:
        """In the order in which they are to be told."""
        always = (self.recorder, self.request_log)
        return always if self.tracing is None else (*always, self.tracing)

    def alerting(self, config: Config, driver: Driver, observer: Observer) -> Alerting:
        """The judge of this driver, which tells `observer`."""
        return Alerting(alert_policy(config), driver.snapshot, driver.level, self._sums, observer)

    def exposition(
        self,
        driver: Driver,
        alerting: Alerting,
        bus: Bus,
        books: UsageBooks | None,
        model_list: Callable[[], ListState],
        pulls: Callable[[], PullsState],
    ) -> Exposition:
        """All that is counted, and how these are."""

        def look() -> Picture:
            return Picture(
                snapshot=driver.snapshot(),
                level=driver.level(),
                firing=alerting.firing(),
                bus=bus.counts(),
                usage=books.health() if books is not None else None,
                model_list=model_list(),
                pulls=pulls(),
            )

        return Exposition(self.registry, look)

    def _sums(self) -> FirstTokens:
        return self.recorder.first_tokens

    def close(self) -> None:
        """Sends the last spans."""
        if self.tracing is not None:
            self.tracing.close()


def observing(config: Config, version: str) -> Observing:
    """What the configuration asks for. TracingMissing where it cannot be had."""
    shown = config.observability
    registry = metrics_registry()
    return Observing(
        registry=registry,
        recorder=Recorder(registry),
        request_log=RequestLog(tells_requests=shown.log_requests, shows_prompts=shown.log_prompts),
        tracing=Tracing(version, shows_prompts=shown.log_prompts) if shown.tracing else None,
    )


def alert_policy(config: Config) -> AlertPolicy:
    """[alerts] in the words of the core."""
    return AlertPolicy(
        first_token_ns_mean=config.alerts.first_token_ms_mean * _MS,
        window_ns=config.alerts.window_s * _S,
        queue_share=config.alerts.queue_percent / 100,
        retries_per_minute=config.alerts.retries_per_minute,
    )
