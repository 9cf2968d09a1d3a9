"""Keeps each phase of a request to its time-out: the tightest of its caller's, its model's and the
configuration's. A phase that nothing bounds costs no timer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from broker.core.errors import BrokerError, TimedOut
from broker.core.placement import BackendState
from broker.core.record import Attempt, Record
from broker.core.requests import AttemptId, RequestSpec
from broker.core.residency import ResidencyState
from broker.core.stimuli import Quiet
from broker.core.time_outs import NO_TIME_OUTS, Phase, TimeOutPolicy, TimeOuts, tightest
from broker.core.timers import Timers

SECOND_NS: Final = 1e9


class Phases:
    """`on_wait_over` hears of a request that has waited for too long, in which phase and how long
    it might; `on_late` of an attempt whose backend is too slow."""

    def __init__(
        self,
        policy: TimeOutPolicy,
        backends: Mapping[str, BackendState],
        timers: Timers,
        on_wait_over: Callable[[Record, Phase, int, int], None],
        on_late: Callable[[AttemptId, BrokerError, int], None],
    ) -> None:
        self._backends = backends
        self._timers = timers
        self._on_wait_over = on_wait_over
        self._on_late = on_late
        self._on_look = self._look  # one for all: each look makes a new object
        self._on_no_token = self._no_token
        self._set(policy)

    def _set(self, policy: TimeOutPolicy) -> None:
        self._of_all = policy.of_all
        self._by_model = {
            model: tightest(those, policy.of_all) for model, those in policy.by_model.items()
        }
        # What the configuration leaves alone is not looked at with each request.
        house = (policy.of_all, *policy.by_model.values())
        self._bounds_waits = any(
            each.queue_ns is not None or each.load_ns is not None for each in house
        )
        self._bounds_all = any(each.total_ns is not None for each in house)

    def configure(self, policy: TimeOutPolicy) -> None:
        """What comes or starts from now on is held to these; what waits is for the ledger to hold
        to them. What runs has the time that it was given."""
        self._set(policy)

    def limits(self, record: Record) -> TimeOuts:
        """Of each phase the time-out that counts."""
        return self.limits_of(record.spec, record.model)

    def limits_of(self, spec: RequestSpec, model: str) -> TimeOuts:
        """The same of one that may come to wait for this model (comparison key)."""
        of_model = self._by_model.get(model, self._of_all)
        own = spec.time_outs
        return of_model if own is NO_TIME_OUTS else tightest(own, of_model)

    def deadline_ns(self, record: Record, asked_ns: int) -> int:
        """When its time is over, whose caller gives it until `asked_ns`."""
        if not self._bounds_all and record.spec.time_outs is NO_TIME_OUTS:
            return asked_ns
        total_ns = self.limits(record).total_ns
        return asked_ns if total_ns is None else min(asked_ns, record.arrived_ns + total_ns)

    def due_ns(self, spec: RequestSpec, model: str, now_ns: int) -> int:
        """The same of one that comes now, and is to be answered by this model (comparison key)."""
        total_ns = self.limits_of(spec, model).total_ns
        return spec.deadline_ns if total_ns is None else min(spec.deadline_ns, now_ns + total_ns)

    def waits_until_ns(self, record: Record) -> int:
        """When its wait is over at the latest."""
        queue_ns = self.limits(record).queue_ns
        if queue_ns is None:
            return record.deadline_ns
        return min(record.deadline_ns, record.waiting_since_ns + queue_ns)

    # While it waits

    def waits(self, record: Record, now_ns: int) -> None:
        """It has come, or has lost its slot."""
        record.waiting_since_ns = now_ns
        if self._bounds_waits or record.spec.time_outs is not NO_TIME_OUTS:
            self._arm(record, now_ns)

    def waits_on(self, record: Record, now_ns: int) -> None:
        """It goes on waiting, by other time-outs than before."""
        self.left(record)
        self._arm(record, now_ns)

    def left(self, record: Record) -> None:
        """It waits no longer, for whatever reason."""
        if record.wait_timer:
            self._timers.cancel(record.wait_timer)
            record.wait_timer = 0

    def _arm(self, record: Record, now_ns: int) -> None:
        """Looks again when it may have waited for too long at the earliest. A load that begins
        later is noticed then, and has its whole time."""
        limits = self.limits(record)
        if limits.queue_ns is None and limits.load_ns is None:
            return
        moments = list[int]()
        if limits.queue_ns is not None:
            moments.append(record.waiting_since_ns + limits.queue_ns)
        if limits.load_ns is not None:
            since_ns = self._loading_since(record)
            moments.append((now_ns if since_ns is None else since_ns) + limits.load_ns)
        record.wait_timer = self._timers.set(min(moments), self._on_look, record)

    def _look(self, record: Record, now_ns: int) -> None:
        record.wait_timer = 0
        limits = self.limits(record)
        queue_ns, load_ns = limits.queue_ns, limits.load_ns
        if queue_ns is not None and now_ns - record.waiting_since_ns >= queue_ns:
            self._on_wait_over(record, Phase.QUEUE, queue_ns, now_ns)
            return
        since_ns = None if load_ns is None else self._loading_since(record)
        if load_ns is not None and since_ns is not None and now_ns - since_ns >= load_ns:
            self._on_wait_over(record, Phase.LOAD, load_ns, now_ns)
            return
        self._arm(record, now_ns)

    def _loading_since(self, record: Record) -> int | None:
        """Since when it waits for nothing but a load; None where it does not: nobody loads its
        model, or some backend has it and only lacks a slot."""
        runner, began = record.line[0], list[int]()
        for backend in self._backends.values():
            residency = backend.resident(runner)
            if residency is None or not backend.takes(runner):
                continue
            if residency.state is ResidencyState.RESIDENT:
                return None
            if residency.state is ResidencyState.LOADING:
                began.append(residency.load_started_ns)
        return max(min(began), record.waiting_since_ns) if began else None

    # While it runs

    def starts(self, attempt: Attempt, now_ns: int) -> None:
        """A backend has it."""
        record = attempt.record
        if record.wait_timer:
            self.left(record)
        limit_ns = self.limits(record).first_token_ns
        if limit_ns is not None:
            at_ns = now_ns + limit_ns
            attempt.first_token_timer = self._timers.set(at_ns, self._on_no_token, attempt)

    def has_first_token(self, attempt: Attempt) -> None:
        """It came, or its call is over."""
        if attempt.first_token_timer:
            self._timers.cancel(attempt.first_token_timer)
            attempt.first_token_timer = 0

    def _no_token(self, attempt: Attempt, now_ns: int) -> None:
        attempt.first_token_timer = 0
        after_s = (now_ns - attempt.started_ns) / SECOND_NS
        words = f"{attempt.backend} gave no first token within {after_s:.1f} s"
        self._on_late(attempt.id, TimedOut(words, Phase.FIRST_TOKEN), now_ns)

    def quiet(self, attempt: Attempt, quiet: Quiet, now_ns: int) -> None:
        """No piece of a stream has come for a while: is that longer than may be?"""
        limit_ns = self.limits(attempt.record).token_gap_ns
        if limit_ns is not None and now_ns - quiet.since_ns >= limit_ns:
            for_s = (now_ns - quiet.since_ns) / SECOND_NS
            words = f"{attempt.backend} gave nothing for {for_s:.1f} s after {quiet.pieces} pieces"
            self._on_late(attempt.id, TimedOut(words, Phase.TOKEN_GAP), now_ns)
