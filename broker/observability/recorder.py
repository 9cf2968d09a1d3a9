"""Counts requests as they go by. On the way of every request: a look-up and an addition for each
metric, and never a label looked up by prometheus-client, which costs more than the counting."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from broker.core.alert_rules import FirstTokens
from broker.core.breaker import BreakerState
from broker.core.effects import TellBreaker, TellHealing, TellLevel
from broker.core.observer import Observer
from broker.core.requests import PRIORITY_HIGHEST, PRIORITY_LOWEST, Outcome
from broker.core.views import AttemptReport, RequestReport, RequestStart
from broker.observability.bounded import OTHER, Bounded
from broker.observability.metric_catalog import (
    AGENTS_MAX,
    CHOICES_MAX,
    KINDS_MAX,
    REASONS_MAX,
    RUNNERS_MAX,
    MetricCatalog,
)

_S: Final = 1e9
_DROPPED: Final = frozenset({Outcome.REFUSED, Outcome.SHED, Outcome.DISPLACED, Outcome.EXPIRED})
_PAIR_OTHER: Final = (OTHER, OTHER)


class _Kind:
    """What is counted for an agent type and a model."""

    __slots__ = ("duration", "first_token")

    def __init__(self, catalog: MetricCatalog, pair: tuple[str, str]) -> None:
        self.first_token: Histogram = catalog.first_token.labels(*pair)
        self.duration: Histogram = catalog.duration.labels(*pair)


class _Runner:
    """What is counted for a model on a backend."""

    __slots__ = ("load_wait", "output_tokens", "per_token", "prompt_tokens")

    def __init__(self, catalog: MetricCatalog, pair: tuple[str, str]) -> None:
        self.per_token: Histogram = catalog.per_token.labels(*pair)
        self.load_wait: Histogram = catalog.load_wait.labels(*pair)
        self.prompt_tokens: Counter = catalog.prompt_tokens.labels(*pair)
        self.output_tokens: Counter = catalog.output_tokens.labels(*pair)


class _Agent:
    """What is counted for an agent."""

    __slots__ = ("requests", "tokens")

    def __init__(self, catalog: MetricCatalog, agent_id: str) -> None:
        self.requests: dict[Outcome, Counter] = {
            each: catalog.agent_requests.labels(agent_id, each.value) for each in Outcome
        }
        self.tokens: Counter = catalog.agent_tokens.labels(agent_id)


class Recorder(Observer):
    """An observer that counts. `first_tokens` is what alerts are judged by."""

    def __init__(self, registry: CollectorRegistry) -> None:
        catalog = self._catalog = MetricCatalog(registry)
        self._queue_wait = {
            priority: catalog.queue_wait.labels(str(priority))
            for priority in range(PRIORITY_HIGHEST, PRIORITY_LOWEST + 1)
        }
        self._kinds: Bounded[tuple[str, str], _Kind] = Bounded(
            KINDS_MAX, lambda pair: _Kind(catalog, pair), _Kind(catalog, _PAIR_OTHER)
        )
        self._runners: Bounded[tuple[str, str], _Runner] = Bounded(
            RUNNERS_MAX, lambda pair: _Runner(catalog, pair), _Runner(catalog, _PAIR_OTHER)
        )
        self._agents: Bounded[str, _Agent] = Bounded(
            AGENTS_MAX, lambda agent_id: _Agent(catalog, agent_id), _Agent(catalog, OTHER)
        )
        self._dropped: Bounded[tuple[Outcome, str], Counter] = Bounded(
            REASONS_MAX,
            lambda pair: catalog.dropped.labels(pair[0].value, pair[1]),
            catalog.dropped.labels(OTHER, OTHER),
        )
        self._failed: Bounded[tuple[str, str], Counter] = Bounded(
            REASONS_MAX,
            lambda pair: catalog.failed.labels(*pair),
            catalog.failed.labels(*_PAIR_OTHER),
        )
        self._attempts_failed: Bounded[tuple[str, str], Counter] = Bounded(
            REASONS_MAX,
            lambda pair: catalog.attempts_failed.labels(*pair),
            catalog.attempts_failed.labels(*_PAIR_OTHER),
        )
        self._breaker_changes: Bounded[tuple[str, str, str], Counter] = Bounded(
            RUNNERS_MAX * len(BreakerState),
            lambda each: catalog.breaker_changes.labels(*each),
            catalog.breaker_changes.labels(OTHER, OTHER, OTHER),
        )
        self._substituted: Bounded[str, Counter] = Bounded(
            RUNNERS_MAX, catalog.substituted.labels, catalog.substituted.labels(OTHER)
        )
        self._chosen: Bounded[tuple[str, str], Counter] = Bounded(
            CHOICES_MAX,
            lambda pair: catalog.chosen.labels(*pair),
            catalog.chosen.labels(*_PAIR_OTHER),
        )
        self._first_tokens = 0
        self._first_token_ns_sum = 0

    @property
    def first_tokens(self) -> FirstTokens:
        """All first tokens since the start."""
        return FirstTokens(count=self._first_tokens, ns_sum=self._first_token_ns_sum)

    def request_started(self, start: RequestStart) -> None:
        self._queue_wait[start.priority].observe(start.queue_wait_ns / _S)
        if start.load_wait_ns:
            runner = self._runners.of((start.backend, start.model))
            runner.load_wait.observe(start.load_wait_ns / _S)

    def request_ended(self, report: RequestReport) -> None:
        outcome = report.outcome
        if report.first_token_ns:
            self._first_tokens += 1
            self._first_token_ns_sum += report.first_token_ns
            kind = self._kinds.of((report.agent_type, report.model))
            kind.first_token.observe(report.first_token_ns / _S)
        if report.agent_type:  # else it is nobody of ours, and may call itself anything
            agent = self._agents.of(report.key[0])
            agent.requests[outcome].inc()
            tokens = report.prompt_tokens + report.output_tokens
            if tokens:
                agent.tokens.inc(tokens)
        if outcome is Outcome.COMPLETED and report.model:  # a default answer takes no time
            kind = self._kinds.of((report.agent_type, report.model))
            kind.duration.observe(report.total_ns / _S)
        elif outcome in _DROPPED:
            # By no model: those refused may have asked for any name at all.
            self._dropped.of((outcome, report.reason)).inc()
        elif outcome is Outcome.FAILED:
            self._failed.of((report.backend, report.reason)).inc()
        if report.backend:
            self._ran(report)

    def _ran(self, report: RequestReport) -> None:
        """Of one that reached a backend."""
        runner = self._runners.of((report.backend, report.model))
        if report.per_token_ns:
            runner.per_token.observe(report.per_token_ns / _S)
        if report.prompt_tokens:
            runner.prompt_tokens.inc(report.prompt_tokens)
        if report.output_tokens:
            runner.output_tokens.inc(report.output_tokens)
        if report.substituted_for:
            self._substituted.of(report.model).inc()
        if report.chosen_for:
            self._chosen.of((report.chosen_for, report.model)).inc()

    def level_changed(self, told: TellLevel) -> None:
        if told.level is not told.before:
            self._catalog.level_changes.labels(told.level.word).inc()

    def attempt_failed(self, report: AttemptReport) -> None:
        self._attempts_failed.of((report.backend, report.reason)).inc()

    def breaker_changed(self, told: TellBreaker) -> None:
        self._breaker_changes.of((told.backend, told.model, told.after.value)).inc()

    def healing(self, told: TellHealing) -> None:
        self._catalog.healing.labels(told.backend, told.step.value).inc()  # backends are few

    def loop_stalled(self, stalled_ns: int, where: str) -> None:
        self._catalog.loop_stalls.inc()
        self._catalog.loop_stalled.inc(stalled_ns / _S)
