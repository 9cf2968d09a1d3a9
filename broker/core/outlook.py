"""When the next request of a runner will start, as far as can be told: where it is loaded, when a
slot is free; where it is not, when it will be its turn to be loaded.

That is played forward model by model and not request by request: a resident model is done with
what waits for it, then the next one is loaded in its place, and so on in the order of what each
would serve per second of load and work, as the placement rule has it (`worth.py`; its finer points
are left out). Who comes meanwhile is not known. The cost is that of the models that are waited for,
once in `LOOK_NS`, and constant for each request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from broker.core.backlog import Backlog
from broker.core.calibration import Situation
from broker.core.effects import WaitReason
from broker.core.estimates import Estimates
from broker.core.placement import BackendState, serves, slots_for
from broker.core.queueing import LineKey
from broker.core.record import Record
from broker.core.residency import Residency, ResidencyState

# How long what was played forward is believed.
LOOK_NS: Final = 100_000_000

# What a measurement of service tells the length of; the rest waits for somebody, or for health.
_TOLD: Final = frozenset({WaitReason.SLOT, WaitReason.LOADING, WaitReason.SWAP})


_LEAVING: Final = frozenset(
    {ResidencyState.DRAINING, ResidencyState.UNLOADING, ResidencyState.FREEING}
)


class Prospect(NamedTuple):
    """How the requests of a runner will start: the first in `before_ns`, then one after the other
    on so many slots, each of which takes so long as those before it run."""

    situation: Situation
    before_ns: float
    service_ns: float  # what one takes on average
    slots: int

    def point_ns(self, ahead_ns: float) -> float:
        """When the one starts that has so much work before it."""
        return self.before_ns + ahead_ns / self.slots


class _Place:
    """Where a model can be: from when on, on which backend."""

    __slots__ = ("backend", "free_ns")

    def __init__(self, backend: BackendState, free_ns: float) -> None:
        self.backend = backend
        self.free_ns = free_ns


class Outlook:
    """See the module."""

    def __init__(
        self, backends: Mapping[str, BackendState], backlog: Backlog, estimates: Estimates
    ) -> None:
        self._backends = backends
        self._backlog = backlog
        self._estimates = estimates
        self._ready_ns: dict[str, float] = {}  # by runner, at the moment of the last look
        self._free_ns: dict[str, float] = {}  # by backend: when those are done that come there
        self._looked_ns = -LOOK_NS

    def prospect(self, record: Record, reason: WaitReason, now_ns: int) -> Prospect | None:
        """How those like this one will start; None where nothing that was measured tells."""
        runner = record.line[0]
        service_ns = self._estimates.service_ns(runner) or float(record.service_ns)
        if service_ns <= 0 or reason not in _TOLD:
            return None
        if reason is WaitReason.SLOT:
            return self._of_resident(record.line, service_ns)
        slots = self._slots(runner)
        for backend in self._backends.values():
            residency = backend.resident(runner)
            if residency is not None and residency.state is ResidencyState.LOADING:
                before_ns = self._rest_of_load_ns(backend, residency, now_ns)
                if before_ns is not None:
                    return Prospect(Situation.LOADING, before_ns, service_ns, slots)
        if not self._estimates.load_ns(runner):
            return None
        before_ns = self._until_loaded_ns(runner, now_ns)
        if before_ns is None:
            return None
        return Prospect(self._situation(runner), before_ns, service_ns, slots)

    def _of_resident(self, line: LineKey, service_ns: float) -> Prospect:
        """A slot of several that are busy is free after a part of what one takes."""
        slots = free = 0
        for backend in self._backends.values():
            if backend.takes(line[0]) and serves(backend, line):
                residency = backend.residents[line[0]]
                slots += residency.slots
                free += max(0, residency.slots - residency.running)
        if free:
            return Prospect(Situation.FREE, 0.0, service_ns, slots)
        return Prospect(Situation.RESIDENT, service_ns / max(1, slots), service_ns, max(1, slots))

    def _slots(self, runner: str) -> int:
        """That it has where it has most."""
        return max(
            (
                backend.by_runner[runner].slots
                for backend in self._backends.values()
                if runner in backend.by_runner
            ),
            default=1,
        )

    def _rest_of_load_ns(
        self, backend: BackendState, residency: Residency, now_ns: int
    ) -> float | None:
        load_ns = self._estimates.load_ns_on(backend.name, residency.runner)
        return max(0.0, load_ns - (now_ns - residency.load_started_ns)) if load_ns else None

    def _situation(self, runner: str) -> Situation:
        """Of what has to be loaded first."""
        for backend in self._backends.values():
            if backend.promised == runner:
                return Situation.NEXT
            residency = backend.residents.get(runner)
            if residency is not None:
                return Situation.LEAVING
        return Situation.AWAY

    def soonest_ns(self, backend: str, runner: str, load_ns: float, now_ns: int) -> float | None:
        """Until a runner can be ready on this backend after what waits now, from now on, where its
        load takes so long; None where nothing is loaded there."""
        if now_ns - self._looked_ns >= LOOK_NS:
            self._look(now_ns)
        passed_ns = now_ns - self._looked_ns
        if runner in self._ready_ns:
            return max(0.0, self._ready_ns[runner] - passed_ns)
        free_ns = self._free_ns.get(backend)
        return None if free_ns is None else max(0.0, free_ns - passed_ns) + load_ns

    # Model by model

    def _until_loaded_ns(self, runner: str, now_ns: int) -> float | None:
        """From now on; None where no backend will load it as far as can be told."""
        is_old = now_ns - self._looked_ns >= LOOK_NS
        if is_old or runner not in self._ready_ns:
            self._look(now_ns)
        ready_ns = self._ready_ns.get(runner)
        return None if ready_ns is None else max(0.0, ready_ns - (now_ns - self._looked_ns))

    def _look(self, now_ns: int) -> None:
        self._looked_ns = now_ns
        self._ready_ns = ready_ns = {}
        queued: dict[str, int] = {}
        for (runner, _), line in self._backlog.lines.items():
            queued[runner] = queued.get(runner, 0) + line.size
        places = self._places(queued, now_ns)
        for runner in self._in_order(queued):
            best: tuple[float, _Place] | None = None
            for place in places:
                if runner not in place.backend.by_runner:
                    continue
                load_ns = self._load_ns(place.backend, runner)
                at_ns = place.free_ns + load_ns
                if best is None or at_ns < best[0]:
                    best = at_ns, place
            if best is not None:
                ready_ns[runner], place = best
                place.free_ns = best[0] + self._work_ns(place.backend, runner, queued[runner])
        self._free_ns = {}
        for place in places:
            name = place.backend.name
            self._free_ns[name] = min(place.free_ns, self._free_ns.get(name, place.free_ns))

    def _places(self, queued: Mapping[str, int], now_ns: int) -> list[_Place]:
        """Where models can be, and when what is there has nothing left to do."""
        places = list[_Place]()
        for backend in self._backends.values():
            if not backend.is_open or not backend.may_load or backend.policy.keeps_models:
                continue
            for each in backend.residents.values():
                if each.managed:
                    free_ns = self._until_exhausted_ns(backend, each, queued, now_ns)
                    places.append(_Place(backend, free_ns))
            empty = backend.policy.resident_max - len(backend.residents)
            places += [_Place(backend, 0.0) for _ in range(min(empty, len(backend.by_runner)))]
        return places

    def _until_exhausted_ns(
        self,
        backend: BackendState,
        residency: Residency,
        queued: Mapping[str, int],
        now_ns: int,
    ) -> float:
        """When a resident model has nothing left to do, were nobody else to come."""
        service_ns = self._estimates.service_ns(residency.runner) or 0.0
        is_leaving = residency.state in _LEAVING
        if is_leaving:
            return service_ns / 2 if residency.running else 0.0
        left_ns = self._work_ns(backend, residency.runner, queued.get(residency.runner, 0))
        left_ns += service_ns if residency.running else 0.0
        if residency.state is ResidencyState.LOADING:
            left_ns += self._rest_of_load_ns(backend, residency, now_ns) or 0.0
        return left_ns

    def _in_order(self, queued: Mapping[str, int]) -> list[str]:
        """What has to be loaded, what something leaves for already first."""
        promised = {each.promised for each in self._backends.values()}
        ranked = list[tuple[bool, float, str]]()
        for runner, size in queued.items():
            having = [each for each in self._backends.values() if runner in each.by_runner]
            if not having or any(slots_for(each, (runner, 0)) for each in having):
                continue
            turn_ns = self._load_ns(having[0], runner) + self._work_ns(having[0], runner, size)
            ranked.append((runner not in promised, -size / max(1.0, turn_ns), runner))
        return [runner for _, _, runner in sorted(ranked)]

    def _load_ns(self, backend: BackendState, runner: str) -> float:
        return self._estimates.load_ns_on(backend.name, runner)

    def _work_ns(self, backend: BackendState, runner: str, size: int) -> float:
        """How long so many of them take there, with all slots busy."""
        spec = backend.by_runner.get(runner)
        service_ns = self._estimates.service_ns(runner) or 0.0
        return size * service_ns / (spec.slots if spec else 1)
