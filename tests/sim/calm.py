"""What must hold again once faults are over: waits below what is stated, no gate left closed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from broker.core.effects import Effect, StartAttempt
from broker.core.engine import Engine
from broker.core.level import Level
from broker.core.requests import RequestKey
from broker.core.stimuli import Arrived, Stimulus
from broker.sim.workload import Task
from tests.sim.books import must
from tests.sim.draw_tasks import PATIENT_NS
from tests.sim.scenario import SECOND_NS, Scenario

COUNT: Final = 12
EVERY_NS: Final = 5 * SECOND_NS // 2


def trickle(scenario: Scenario, at_ns: int) -> tuple[Task, ...]:
    """Patient requests for every model in turn, at half of what one slot can do at least."""
    names = scenario.model_names
    return tuple(
        Task(
            at_ns=at_ns + number * EVERY_NS,
            agent_id=f"wave-{number % 5}",
            request_id=f"calm-{number}",
            model=names[number % len(names)],
            priority=1 + number * 7 % 10,
            prompt_tokens=50,
            output_tokens=20 + number,
            patience_ns=PATIENT_NS,
        )
        for number in range(COUNT)
    )


class StatedWaits:
    """Holds the engine to the bound of the wait that it states of each request that comes from
    `begin` on. `stated` counts those of which it stated one."""

    def __init__(self, engine: Engine) -> None:
        self.stated = 0
        self._engine = engine
        self._is_on = False
        self._came_ns: dict[RequestKey, int] = {}

    def begin(self) -> None:
        self._is_on = True

    def turned(self, stimulus: Stimulus, effects: Sequence[Effect], now_ns: int) -> None:
        if not self._is_on:
            return
        if isinstance(stimulus, Arrived):
            self._came_ns[stimulus.spec.key] = now_ns
        for effect in effects:
            if isinstance(effect, StartAttempt):
                self._started(effect.key, now_ns)

    def _started(self, key: RequestKey, now_ns: int) -> None:
        came_ns = self._came_ns.pop(key, None)
        bound = self._engine.records[key].bound
        if came_ns is None or bound is None or bound.ns is None:
            return
        self.stated += 1
        waited_ns = now_ns - came_ns
        within = f"was to start within {bound.ns / SECOND_NS:.1f} s"
        must(waited_ns <= bound.ns, f"{key} {within}, and waited {waited_ns / SECOND_NS:.1f} s")


def check_gates(engine: Engine, now_ns: int) -> None:
    """Nothing waits, so that nothing may be held back, and every slot must be free."""
    must(engine.level is Level.NORMAL, f"all is well, and the level is {engine.level}")
    for name, running, _ in engine.bulkheads.limited():
        must(not running, f"nothing runs, and {running} are counted in bulkhead {name}")
    for backend in engine.backends.values():
        name = backend.name
        must(backend.is_open, f"{name} is well, and takes nothing")
        must(backend.may_load, f"{name} is well, and nothing may be loaded there")
        must(not backend.broken, f"{name} is well, and breakers of {backend.broken} are open")
        held = [runner for runner, until_ns in backend.held_until_ns.items() if until_ns > now_ns]
        must(not held, f"{name} is well, and {held} are left alone for having failed")
        for runner, residency in backend.residents.items():
            must(not residency.running, f"nothing runs, and slots of {runner} are taken")
