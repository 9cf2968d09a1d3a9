"""What may be asked of the engine: answered from what is, and changing nothing."""

from __future__ import annotations

from collections.abc import Collection

from broker.core.engine import Engine
from broker.core.errors import BackendNotFound
from broker.core.lifecycle import State
from broker.core.membership import left_on
from broker.core.model_name import comparison_key, nearest
from broker.core.requests import RequestKey
from broker.core.requirements import Requirements
from broker.core.resolution import Resolution, resolve
from broker.core.snapshot import Snapshot, take_snapshot
from broker.core.story import explain, requests_called
from broker.core.views import AgentView, Explanation, LevelView, QuotaView
from broker.runtime.clock import Clock


class Inquiries:
    """See the module. The driver is one of these, and alone moves the engine."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def explain(self, agent_id: str, request_id: str) -> Explanation:
        """The story of a request that is under way or lately ended. RequestUnknown else."""
        return explain(self._engine, (agent_id, request_id), self._clock.monotonic_ns())

    def requests_called(self, request_id: str) -> list[RequestKey]:
        """Requests with this id that can be explained, of whatever agent."""
        return requests_called(self._engine, request_id)

    def requests_under_way(self, request_id: str) -> list[RequestKey]:
        """Requests with this id that have not ended, of whatever agent."""
        return [key for key in self._engine.records if key[1] == request_id]

    def quota(self, agent_id: str) -> QuotaView:
        """What an agent may use, also one never seen. AgentUnknown where it may nothing."""
        queued_max = self._engine.policy.queue.queued_per_agent_max
        return self._engine.agents.quota(agent_id, queued_max, self._clock.monotonic_ns())

    def agents(self) -> list[AgentView]:
        """The agents that are remembered, in the order of their ids."""
        return self._engine.agents.views(self._clock.monotonic_ns())

    def check_backend(self, name: str) -> None:
        """BackendNotFound, with the nearest names, where there is no such backend."""
        if name not in self._engine.backends:
            raise BackendNotFound(name, nearest(name, list(self._engine.backends)))

    def left_on(self, name: str) -> tuple[int, int]:
        """(requests that wait for what no other backend has, requests that run) on a backend."""
        engine = self._engine
        backend = engine.backends[name]
        return left_on(backend, engine.backends, engine.attempts, engine.backlog)

    def work_on(self, model: str, backends: Collection[str]) -> tuple[int, int]:
        """(requests that wait, requests that run) for this model on these backends. What waits may
        yet be served elsewhere."""
        engine, key = self._engine, comparison_key(model)
        waiting, running = set[str](), 0
        for name in backends:
            backend = engine.backends.get(name)
            spec = None if backend is None else backend.models.get(key)
            if spec is None:
                continue
            waiting.add(spec.runner)
            running += sum(
                each.backend == name and comparison_key(each.model) == key
                for each in engine.attempts.values()
            )
        queued = sum(
            each.state is State.QUEUED
            and each.line[0] in waiting
            and comparison_key(each.model) == key
            for each in engine.records.values()
        )
        return queued, running

    def type_of(self, agent_id: str) -> str:
        """The type of an agent, also of one never seen. AgentUnknown where its id is of none."""
        return self._engine.agents.type_of(agent_id).name

    @property
    def is_leaving(self) -> bool:
        """Does the broker take no new requests?"""
        return self._engine.draining

    def is_up(self, backend: str) -> bool:
        """Did it answer when it was last asked?"""
        state = self._engine.backends.get(backend)
        return state is not None and state.up

    def agent_types(self) -> tuple[str, ...]:
        """The names of the types that the configuration knows."""
        return self._engine.agents.types()

    def is_alias(self, name: str) -> bool:
        """Does this word stand for models, whatever models are called the same?"""
        return self._engine.choosing.alias(name) is not None

    def resolve(self, name: str, wants: Requirements | None) -> Resolution:
        """Which model would answer a request that names this model or alias, or says only what it
        wants. Raises what such a request would be refused with."""
        return resolve(self._engine, name, wants, self._clock.monotonic_ns())

    def level(self) -> LevelView:
        """The level, and what decides it."""
        return self._engine.degradation.view(self._clock.monotonic_ns())

    def snapshot(self, requests_max: int = 0) -> Snapshot:
        return take_snapshot(self._engine, self._clock.monotonic_ns(), requests_max=requests_max)

    def now_ns(self) -> int:
        """The engine's clock: deadlines are on it."""
        return self._clock.monotonic_ns()
