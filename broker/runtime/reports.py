"""Tells the observer how requests fared: one start for each attempt, one report for each end."""

from __future__ import annotations

from broker.core.content import Completion
from broker.core.effects import Finish, StartAttempt
from broker.core.engine import Engine
from broker.core.errors import BrokerError, InvariantBroken
from broker.core.observer import Observer
from broker.core.requests import Outcome, RequestKey, RequestSpec
from broker.core.views import REQUIREMENTS, RequestReport, RequestStart
from broker.runtime.attempts import Errand
from broker.runtime.clock import Clock
from broker.runtime.streams import Done


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
        record = finish.record
        if record is None:
            raise InvariantBroken(f"{finish.key} ended, and nothing is known of it")
        attempt, done, error = finish.attempt, errand.done, finish.error
        started = errand.stream.started
        now_ns = self._clock.monotonic_ns()
        total_ns = now_ns - record.arrived_ns
        first_ns = attempt.first_token_ns if attempt is not None else 0
        gaps = errand.attempt_pieces - 1
        self._observer.request_ended(
            RequestReport(
                key=finish.key,
                agent_type=record.agent.type.name,
                kind=record.spec.kind,
                # A default answer has started, and no model gives it.
                model=started.model if started is not None else record.model,
                backend=started.backend if started is not None else "",
                priority=record.priority,
                level=started.level if started is not None else self._engine.level,
                outcome=finish.outcome,
                reason=error.reason if error is not None else "",
                message=error.message if error is not None else "",
                arrived_unix_ns=self._clock.unix_ns() - total_ns,
                queue_wait_ns=attempt.started_ns - record.arrived_ns if attempt else total_ns,
                load_wait_ns=errand.load_wait_ns,
                first_token_ns=first_ns - record.arrived_ns if first_ns else 0,
                per_token_ns=(now_ns - first_ns) // gaps if first_ns and gaps > 0 else 0,
                total_ns=total_ns,
                prompt_tokens=done.result.prompt_tokens if done is not None else 0,
                output_tokens=_output_tokens(done, errand.stream.pieces_count),
                tries=record.tries,
                substituted_for=record.substituted_for,
                changes=started.changes if started is not None else (),
                traceparent=errand.traceparent,
                content=errand.content,
                session_id=record.spec.session_id,
                expected_calls=record.spec.expected_calls,
                allowed_ns=record.spec.deadline_ns - record.arrived_ns,
                soft_ns=record.soft_ns,
                soft_met=record.soft_met,
                run_ns=now_ns - attempt.started_ns if attempt is not None else 0,
                gpu_share=attempt.residency.gpu_share if attempt is not None else 0.0,
                chosen_for=_chosen_for(record.sent),
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
                session_id=spec.session_id,
                expected_calls=spec.expected_calls,
                allowed_ns=max(0, spec.deadline_ns - self._clock.monotonic_ns()),
                soft_ns=max(0, spec.soft_deadline_ns - self._clock.monotonic_ns()),
            )
        )

    def _type_of(self, key: RequestKey) -> str:
        agent = self._engine.agents.find(key[0])
        return agent.type.name if agent is not None else ""


def _chosen_for(sent: RequestSpec | None) -> str:
    """An alias has a name of at most 63 characters, whatever their case: one of few."""
    return "" if sent is None else sent.model.lower() or REQUIREMENTS


def _output_tokens(done: Done | None, pieces: int) -> int:
    """As the backend counted them; where no end of its answer came, what did come."""
    if done is None:
        return pieces
    return done.result.output_tokens if isinstance(done.result, Completion) else 0
