"""Which models a backend holds: when to change, and what has to leave.

The rule: exhaust the resident model's queue before leaving it; then load the model whose requests
have waited longest, all together; one load at a time; the victim is gated and drained first; never
touch what the broker does not manage. Measured on a real Ollama, every rule that leaves a backlog
because somebody has waited a fixed time was slower than no broker at all (reference/SWAPS.md).
A bound on waiting that breathes with the load, urgent work and sizes come with a later rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from broker.core.queueing import Line
from broker.core.residency import Residency, ResidencyState
from broker.core.stimuli import ModelSpec

LineKey = tuple[str, int]  # (runner, context size; 0: the usual one)

# Memory of a model not yet measured, per byte on disk: weights, plus a context and compute buffers.
# 1.2 is what the recorded /api/ps rows show for models above 100 MB at small contexts.
MEMORY_PER_FILE_BYTE: Final = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendPolicy:
    """What the operator says of one backend.

    `resident_max` models fit together. `memory_bytes`, where known, must hold them all as well, and
    is what lets the broker load beside models that it does not manage. `exclusive`: the whole
    server is the broker's, so it may unload what others loaded.
    """

    name: str
    resident_max: int = 1
    memory_bytes: int | None = None
    exclusive: bool = False

    def __post_init__(self) -> None:
        if self.resident_max < 1:
            raise ValueError("resident_max must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementPolicy:
    """Times of the switch protocol. keep_alive is short enough that a dead broker pins nothing."""

    keep_alive_ns: int = 600_000_000_000
    failed_load_hold_ns: int = 60_000_000_000
    num_ctx_hold_ns: int = 600_000_000_000
    slot_grace_ns: int = 300_000_000

    def __post_init__(self) -> None:
        if min(self.keep_alive_ns, self.failed_load_hold_ns, self.num_ctx_hold_ns) <= 0:
            raise ValueError("placement times must be positive")


@dataclass(slots=True)
class BackendState:
    """One backend as the engine knows it."""

    policy: BackendPolicy
    up: bool = False
    problem: str = "not asked yet"
    models: dict[str, ModelSpec] = field(default_factory=dict)  # by comparison key
    by_runner: dict[str, ModelSpec] = field(default_factory=dict)
    residents: dict[str, Residency] = field(default_factory=dict)  # by runner
    memory_seen: dict[str, int] = field(default_factory=dict)  # bytes by runner, last measured
    held_until_ns: dict[str, int] = field(default_factory=dict)  # runners whose load failed
    loads: int = 0
    loads_failed: int = 0

    @property
    def name(self) -> str:
        return self.policy.name

    @property
    def is_switching(self) -> bool:
        """Is a load or an unload under way? Then nothing else is asked of this backend."""
        busy = (ResidencyState.LOADING, ResidencyState.UNLOADING)
        return any(each.state in busy for each in self.residents.values())

    def draining(self) -> list[Residency]:
        return [r for r in self.residents.values() if r.state is ResidencyState.DRAINING]

    def holds_off(self, runner: str, now_ns: int) -> bool:
        return self.held_until_ns.get(runner, 0) > now_ns


@dataclass(slots=True)
class Demand:
    """The requests for one runner that this backend cannot serve as it is."""

    runner: str
    num_ctx: int = 0
    size: int = 0
    waited_ns: int = 0
    is_placed_elsewhere: bool = False


def serves(backend: BackendState, key: LineKey) -> bool:
    """Does this backend take work from this line now?"""
    residency = backend.residents.get(key[0])
    return (
        residency is not None
        and residency.state is ResidencyState.RESIDENT
        and residency.fits(key[1])
    )


def serving_slots(backends: Iterable[BackendState], key: LineKey) -> int:
    """Slots on all backends that serve this line, or will when a load under way ends."""
    slots = 0
    for backend in backends:
        residency = backend.residents.get(key[0])
        if residency is None or not backend.up or not residency.fits(key[1]):
            continue
        if residency.state in (ResidencyState.RESIDENT, ResidencyState.LOADING):
            slots += residency.slots
    return slots


def choose_target(
    backend: BackendState,
    others: Iterable[BackendState],
    lines: Mapping[LineKey, Line],
    now_ns: int,
) -> Demand | None:
    """The runner to load next here: the longest total wait, among those that nobody serves first.

    A runner that another backend serves is wanted here too only while its backlog exceeds the slots
    it has there: one model on two servers costs two loads.
    """
    demands: dict[str, Demand] = {}
    for key, line in lines.items():
        runner, num_ctx = key
        if runner not in backend.by_runner or backend.holds_off(runner, now_ns):
            continue
        if serves(backend, key):
            continue
        elsewhere = serving_slots(others, key)
        if elsewhere and line.size <= elsewhere:
            continue
        demand = demands.setdefault(runner, Demand(runner))
        demand.num_ctx = max(demand.num_ctx, num_ctx)
        demand.size += line.size
        demand.waited_ns += line.waited_ns(now_ns)
        demand.is_placed_elsewhere = demand.is_placed_elsewhere or elsewhere > 0
    return min(
        demands.values(),
        key=lambda each: (each.is_placed_elsewhere, -each.waited_ns, each.runner),
        default=None,
    )


def memory_needed(backend: BackendState, runner: str) -> int:
    """Bytes that a runner takes: as measured, else estimated from its file."""
    seen = backend.memory_seen.get(runner)
    if seen:
        return seen
    return int(backend.by_runner[runner].size_bytes * MEMORY_PER_FILE_BYTE)


def has_room(backend: BackendState, runner: str) -> bool:
    """May this runner be loaded beside what is there, without Ollama evicting anything by itself?

    An empty server always takes one. Otherwise the configuration must say so: by count among models
    of ours, and by bytes as well where it gives them; beside a stranger only by bytes.
    """
    others = [each for each in backend.residents.values() if each.runner != runner]
    if runner in backend.residents:
        return False
    if not others:
        return True
    if len(others) >= backend.policy.resident_max:
        return False
    if backend.policy.memory_bytes is None:
        return all(each.managed for each in others)
    taken = sum(each.memory_bytes or memory_needed(backend, each.runner) for each in others)
    return taken + memory_needed(backend, runner) <= backend.policy.memory_bytes


def choose_victim(
    backend: BackendState, target: Demand, lines: Mapping[LineKey, Line]
) -> Residency | None:
    """What leaves for `target`: a managed model whose queue is exhausted, idle longest.

    The target's own runner leaves first where it is there with too small a context.
    """
    own = backend.residents.get(target.runner)
    if own is not None:
        return own if _may_leave(own, lines) else None
    candidates = [each for each in backend.residents.values() if _may_leave(each, lines)]
    return min(candidates, key=lambda each: (each.running, each.used_ns, each.runner), default=None)


def _may_leave(residency: Residency, lines: Mapping[LineKey, Line]) -> bool:
    if not residency.managed or residency.state is not ResidencyState.RESIDENT:
        return False
    return not any(
        runner == residency.runner and residency.fits(num_ctx) for runner, num_ctx in lines
    )
