"""Which backends there are, and which of them get work: the configuration adds them and takes them
out, operators drain them.

A backend that was taken out leaves in order. Nothing more is started there, and what runs may end.
Its models are forgotten as soon as every backend that stays has said what it has, so that one which
was given another name in the same breath can take over what waits. When nothing is under way there
any more, and nothing waits for what only it has, it is gone. What it holds is not told to leave:
nobody renews its keep_alive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from broker.core.backlog import Backlog
from broker.core.effects import BackendGone, Effect
from broker.core.healing import Health
from broker.core.placement import BackendPolicy, BackendState
from broker.core.record import Attempt, Record
from broker.core.requests import AttemptId, RequestKey
from broker.core.stimuli import BackendDrainAsked


class Membership:
    """See the module. `backends` is the one mapping that all parts of the engine share. `emit`
    takes effects; `forget` has a backend list no models; `on_gone` hears of one that is gone, while
    it is still among the others; `on_change` that what waits may be served elsewhere, or here
    again."""

    def __init__(
        self,
        backends: dict[str, BackendState],
        attempts: Mapping[AttemptId, Attempt],
        records: Mapping[RequestKey, Record],
        emit: Callable[[Effect], None],
        forget: Callable[[str, int], None],
        on_gone: Callable[[BackendState, int], None],
        on_change: Callable[[int], None],
    ) -> None:
        self._backends = backends
        self._attempts = attempts
        self._records = records
        self._emit = emit
        self._forget = forget
        self._on_gone = on_gone
        self._on_change = on_change
        self._leaving = list[BackendState]()

    def configure(self, policies: Sequence[BackendPolicy]) -> None:
        """From now on there are these, in this order; those that leave are the last."""
        before = dict(self._backends)
        self._backends.clear()
        for policy in policies:
            backend = before.pop(policy.name, None)
            if backend is None:
                backend = BackendState(policy)
            elif backend.is_leaving:  # taken back: what it has is heard anew
                backend.is_leaving, backend.is_draining = False, False
                backend.up, backend.problem = False, "not asked yet"
                backend.is_listed = False
            backend.policy = policy
            self._backends[policy.name] = backend
        for backend in before.values():
            backend.is_leaving = True
            self._backends[backend.name] = backend
        self._leaving = list(before.values())

    def drain(self, asked: BackendDrainAsked, now_ns: int) -> None:
        """An operator wants nothing started on it, or something again. One that is unknown may have
        left meanwhile."""
        backend = self._backends.get(asked.backend)
        if backend is not None and backend.is_draining is not asked.is_draining:
            backend.is_draining = asked.is_draining
            self._on_change(now_ns)

    def settle(self, now_ns: int) -> None:
        """Takes those that leave one step further, where that is due."""
        if not self._leaving:
            return
        stay = [each for each in self._backends.values() if not each.is_leaving]
        if all(each.is_listed for each in stay):
            for backend in self._leaving:
                if backend.by_runner:
                    self._forget(backend.name, now_ns)
        for backend in [each for each in self._leaving if self._may_go(each)]:
            self._leaving.remove(backend)
            self._on_gone(backend, now_ns)
            del self._backends[backend.name]
            self._emit(BackendGone(backend.name))

    def _may_go(self, backend: BackendState) -> bool:
        if backend.is_switching or backend.health is Health.RESTARTING:
            return False
        if any(each.backend == backend.name for each in self._attempts.values()):
            return False
        if not backend.by_runner:
            return True  # its models are forgotten, and what waited for them has heard so
        return not any(each.line[0] in backend.by_runner for each in self._records.values())


def left_on(
    backend: BackendState,
    backends: Mapping[str, BackendState],
    attempts: Mapping[AttemptId, Attempt],
    backlog: Backlog,
) -> tuple[int, int]:
    """(requests that wait for what no other backend has, requests that run) on this backend."""
    others = [each for each in backends.values() if each is not backend and not each.is_leaving]
    queued = sum(
        line.size
        for (runner, _), line in backlog.lines.items()
        if runner in backend.by_runner and not any(runner in each.by_runner for each in others)
    )
    running = sum(each.backend == backend.name for each in attempts.values())
    return queued, running
