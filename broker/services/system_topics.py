"""The topics that the broker itself writes: an observer that passes on what others may hear.

It is on the way of every request, so it builds nothing that nobody listens to. Changes of the
level, of priorities and of alerts are told as they happen. Capacity and models change with nearly
every request: while somebody listens they are looked at a few times a second, and told where they
are others than before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from broker.core.effects import TellHealing, TellLevel, TellPriority
from broker.core.events import (
    AlertsState,
    Bus,
    CapacityState,
    HealthChange,
    LevelState,
    ModelsState,
    RequestChange,
)
from broker.core.level import Level
from broker.core.observer import Observer
from broker.core.preemption import PREEMPTED
from broker.core.residency import ResidencyState
from broker.core.snapshot import ResidencyView, Snapshot
from broker.core.topics import ALERTS, CAPACITY, HEALTH, LEVEL, MODELS, PRIORITY, REQUESTS
from broker.core.views import (
    AlertView,
    LevelView,
    PreemptionReport,
    RequestReport,
    RequestStart,
)

# Capacity and models are looked at so often while somebody listens: a look is 50 us.
LOOK_INTERVAL_S: Final = 0.25
# A state that is not older than this is told to a newcomer as it is: a fleet that comes back all at
# once is told one state and not two thousand.
PRESENT_AGE_NS_MAX: Final = 100_000_000


class Machine(Protocol):
    """What is looked at: the driver."""

    def snapshot(self) -> Snapshot: ...

    def level(self) -> LevelView: ...

    def now_ns(self) -> int: ...


class SystemTopics(Observer):
    """See the module, and `broker.core.observer.Observer`. `machine` is asked for when it is
    needed: the driver is made with its observers. `changed_unix_ms` tells when the list of models
    last changed."""

    def __init__(
        self, bus: Bus, machine: Callable[[], Machine], changed_unix_ms: Callable[[], int] = int
    ) -> None:
        self._bus = bus
        self._machine = machine
        self._changed_unix_ms = changed_unix_ms
        self._timer: asyncio.TimerHandle | None = None
        self._capacity: CapacityState | None = None  # as last told or kept
        self._models: tuple[object, ...] | None = None  # what of them was last told or kept
        self._firing: tuple[AlertView, ...] = ()
        self._ups: dict[str, bool] = {}  # whether backends answered when that was last looked at
        self._present_ns: int | None = None

    # The observer

    def request_started(self, start: RequestStart) -> None:
        if not self._bus.is_heard(REQUESTS):
            return
        change = _change(start, "started", queue_wait_ns=start.queue_wait_ns)
        self._bus.publish(REQUESTS, change)

    def request_ended(self, report: RequestReport) -> None:
        if not self._bus.is_heard(REQUESTS):
            return
        change = replace(
            _change(report, report.outcome.value, report.reason, report.queue_wait_ns),
            first_token_ns=report.first_token_ns,
            total_ns=report.total_ns,
            prompt_tokens=report.prompt_tokens,
            output_tokens=report.output_tokens,
        )
        self._bus.publish(REQUESTS, change)

    def attempt_preempted(self, report: PreemptionReport) -> None:
        if not self._bus.is_heard(REQUESTS):
            return
        self._bus.publish(REQUESTS, _change(report, "requeued", PREEMPTED))

    def level_changed(self, told: TellLevel) -> None:
        machine = self._machine()
        self._bus.publish(LEVEL, LevelState(at_ns=machine.now_ns(), view=machine.level()))

    def priority_changed(self, told: TellPriority) -> None:
        self._bus.publish(PRIORITY, told, key=told.scope)
        if _is_void(told):
            self._bus.forget(PRIORITY, key=told.scope)

    def healing(self, told: TellHealing) -> None:
        if self._bus.is_heard(HEALTH):
            restarts = {each.name: each.restarts for each in self._machine().snapshot().backends}
            self._tell_health(
                told.backend,
                told.model,
                told.step.value,
                told.evidence,
                restarts.get(told.backend, 0),
            )

    def backends_changed(self) -> None:
        """Of capacity and models that is seen at the next look. Whether a backend answers is told
        at once, to who listened when it last changed."""
        if self._bus.is_heard(HEALTH):
            self._tell_ups(self._machine().snapshot())

    def _tell_ups(self, snapshot: Snapshot) -> None:
        before, self._ups = self._ups, {each.name: each.up for each in snapshot.backends}
        for each in snapshot.backends:
            if before.get(each.name, each.up) is not each.up:
                step, why = ("up", "it answers again") if each.up else ("down", each.problem)
                self._tell_health(each.name, "", step, why, each.restarts)

    def _tell_health(self, backend: str, model: str, step: str, why: str, restarts: int) -> None:
        change = HealthChange(
            backend=backend, model=model, step=step, detail=why, restarts=restarts
        )
        self._bus.publish(HEALTH, change)

    def alerts_changed(self, firing: tuple[AlertView, ...]) -> None:
        self._firing = firing
        self._bus.publish(ALERTS, AlertsState(at_ns=self._machine().now_ns(), firing=firing))

    # The looks

    def look(self) -> None:
        """Brings the states up to date for somebody who is about to listen, and begins to look at
        what is looked at while somebody does."""
        machine = self._machine()
        now_ns = machine.now_ns()
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(LOOK_INTERVAL_S, self._look_again)
        if self._present_ns is not None and now_ns - self._present_ns < PRESENT_AGE_NS_MAX:
            return
        self._present_ns = now_ns
        snapshot, level = machine.snapshot(), machine.level()
        self._show_capacity(capacity_of(snapshot, level.level))
        self._show_models(models_of(snapshot, self._changed_unix_ms()))
        if self._bus.is_heard(HEALTH):
            self._tell_ups(snapshot)  # who listened before must not miss what is seen just now
        else:
            self._ups = {each.name: each.up for each in snapshot.backends}
        self._bus.keep(LEVEL, LevelState(at_ns=now_ns, view=level))
        self._bus.keep(ALERTS, AlertsState(at_ns=now_ns, firing=self._firing))

    def _show_capacity(self, capacity: CapacityState) -> None:
        """What a newcomer is told those who listen already are told, too, where it is another one:
        the next look tells nothing if it finds again what was before."""
        before = self._capacity
        if before is not None and capacity != before and self._bus.is_heard(CAPACITY):
            self._bus.publish(CAPACITY, capacity)
        else:
            self._bus.keep(CAPACITY, capacity)
        self._capacity = capacity

    def list_changed(self) -> None:
        """The list of models is another one: who listens to what becomes of them hears so now."""
        if self._bus.is_heard(MODELS):
            snapshot = self._machine().snapshot()
            self._show_models(models_of(snapshot, self._changed_unix_ms()))

    def _show_models(self, models: ModelsState) -> None:
        """As with capacity."""
        counts, before = _what_counts(models), self._models
        if before is not None and counts != before and self._bus.is_heard(MODELS):
            self._bus.publish(MODELS, models)
        else:
            self._bus.keep(MODELS, models)
        self._models = counts

    def _look_again(self) -> None:
        self._timer = None
        hears_capacity, hears_models = self._bus.is_heard(CAPACITY), self._bus.is_heard(MODELS)
        if not (hears_capacity or hears_models):
            return
        machine = self._machine()
        snapshot = machine.snapshot()
        if hears_capacity:
            self._show_capacity(capacity_of(snapshot, machine.level().level))
        if hears_models:
            self._show_models(models_of(snapshot, self._changed_unix_ms()))
        self._timer = asyncio.get_running_loop().call_later(LOOK_INTERVAL_S, self._look_again)

    def close(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _change(
    told: RequestStart | RequestReport | PreemptionReport,
    state: str,
    reason: str = "",
    queue_wait_ns: int = 0,
) -> RequestChange:
    """What all steps of a request are told with."""
    agent_id, request_id = told.key
    return RequestChange(
        agent_id=agent_id,
        request_id=request_id,
        state=state,
        model=told.model,
        backend=told.backend,
        priority=told.priority,
        reason=reason,
        level=told.level,
        queue_wait_ns=queue_wait_ns,
    )


def _is_void(told: TellPriority) -> bool:
    """Does nothing of it differ any more from what the configuration says?"""
    is_boost = (told.weight_factor, told.rate_factor, told.priority_best) != (1.0, 1.0, 0)
    return not (is_boost or told.is_blocked or told.is_paused)


def capacity_of(snapshot: Snapshot, level: Level) -> CapacityState:
    """How much there is to have, at the moment of the snapshot."""
    up = [each for each in snapshot.backends if each.up]
    return CapacityState(
        level=level,
        queued=snapshot.queued,
        queued_max=snapshot.queued_max,
        running=snapshot.running,
        slots=sum(
            resident.slots
            for backend in up
            for resident in backend.residents
            if resident.state is ResidencyState.RESIDENT
        ),
        backends_up=tuple(each.name for each in up),
        backends_down=tuple(each.name for each in snapshot.backends if not each.up),
    )


def models_of(snapshot: Snapshot, changed_unix_ms: int) -> ModelsState:
    """The models that occupy backends, at the moment of the snapshot, and when the list of all of
    them last changed."""
    return ModelsState(
        changed_unix_ms=changed_unix_ms,
        models=tuple(
            (backend.name, each) for backend in snapshot.backends for each in backend.residents
        ),
    )


def _what_counts(state: ModelsState) -> tuple[object, ...]:
    """What of it makes a change: not how many run or wait, which the other topics tell."""

    def of(backend: str, each: ResidencyView) -> tuple[object, ...]:
        memory = (each.memory_bytes, each.gpu_memory_bytes)
        return (backend, each.model, each.state, each.managed, each.slots, each.num_ctx, *memory)

    return (state.changed_unix_ms, *(of(backend, each) for backend, each in state.models))
