"""Tells the observer how requests fared: one start for each attempt, one report for each end."""

from __future__ import annotations

from broker.core.content import Completion
from broker.core.effects import Finish, StartAttempt
from broker.core.engine import Engine
from broker.core.errors import BrokerError
from broker.core.observer import Observer
from broker.core.requests import Outcome, RequestKey, RequestSpec
from broker.core.views import RequestReport, RequestStart
from broker.runtime.attempts import Errand
from broker.runtime.clock import Clock


class Reports:
    """Puts together what the engine remembers of a request and what only the shell knows."""

    __slots__ = ("_clock", "_engine", "_observer")

    def __init__(self, engine: Engine, clock: Clock, observer: Observer) -> None:
        self._engine = engine
        self._clock = clock
        self._observer = observer

    def started(self, start: StartAttempt) -> None:
        record = self._engine.records[start.key]
        self._observer.request_started(
            RequestStart(
                key=start.key,
                agent_type=record.agent.type.name,
                model=start.model,
                backend=start.backend,
                priority=record.priority,
                level=start.level,
                queue_wait_ns=start.queue_wait_ns,
                load_wait_ns=start.load_wait_ns,
            )
        )

    def ended(self, finish: Finish, errand: Errand) -> None:
        """Of a request that was let in. What an attempt that is being aborted has used is known
        only later: counted are the pieces that came."""
        record = self._engine.ledger.journal.ended[finish.key].record
        spec, attempt, done = record.spec, record.attempt, errand.done
        started, error = errand.stream.started, finish.error
        total_ns = self._clock.monotonic_ns() - record.arrived_ns
        result = done.result if done is not None else None
        output_tokens = errand.stream.pieces_count
        if result is not None:
            output_tokens = result.output_tokens if isinstance(result, Completion) else 0
        self._observer.request_ended(
            RequestReport(
                key=finish.key,
                agent_type=record.agent.type.name,
                kind=spec.kind,
                model=(started.model if started is not None else "") or record.model,
                backend=started.backend if started is not None else "",
                priority=record.priority,
                level=started.level if started is not None else self._engine.level,
                outcome=finish.outcome,
                reason=error.reason if error is not None else "",
                message=error.message if error is not None else "",
                arrived_unix_ns=self._clock.unix_ns() - total_ns,
                queue_wait_ns=attempt.started_ns - record.arrived_ns if attempt else total_ns,
                load_wait_ns=done.timings.load_wait_ns if done is not None else 0,
                first_token_ns=(
                    attempt.first_token_ns - record.arrived_ns
                    if attempt and attempt.first_token_ns
                    else 0
                ),
                per_token_ns=done.timings.per_token_ns if done is not None else 0,
                total_ns=total_ns,
                prompt_tokens=result.prompt_tokens if result is not None else 0,
                output_tokens=output_tokens,
                tries=record.tries,
                substituted_for=record.substituted_for,
                changes=started.changes if started is not None else (),
                traceparent=errand.traceparent,
                content=errand.content,
            )
        )

    def refused(self, spec: RequestSpec, errand: Errand, error: BrokerError) -> None:
        """Of one that was not."""
        self._observer.request_ended(
            RequestReport(
                key=spec.key,
                agent_type=self._type_of(spec.key),
                kind=spec.kind,
                model=spec.model,
                backend="",
                priority=spec.priority,
                level=self._engine.level,
                outcome=Outcome.REFUSED,
                reason=error.reason,
                message=error.message,
                arrived_unix_ns=self._clock.unix_ns(),
                queue_wait_ns=0,
                load_wait_ns=0,
                first_token_ns=0,
                per_token_ns=0,
                total_ns=0,
                prompt_tokens=0,
                output_tokens=0,
                tries=0,
                substituted_for="",
                changes=(),
                traceparent=errand.traceparent,
                content=errand.content,
            )
        )

    def _type_of(self, key: RequestKey) -> str:
        agent = self._engine.agents.find(key[0])
        return agent.type.name if agent is not None else ""
