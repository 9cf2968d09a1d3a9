"""Which models a backend holds: when to change, and what has to leave.

The rule: exhaust the resident model's queue before leaving it; then load the model whose requests
have waited longest, all together; one load at a time; the victim is gated and drained first, and
another model has its turn even if the victim's own requests gather meanwhile; never touch what the
broker does not manage. Measured on a real Ollama, every rule that leaves a backlog
because somebody has waited a fixed time was slower than no broker at all (reference/SWAPS.md).
A bound on waiting that breathes with the load, urgent work and sizes come with a later rule.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from broker.core.healing import Health
from broker.core.model_name import comparison_key
from broker.core.queueing import Line, LineKey
from broker.core.residency import Residency, ResidencyState
from broker.core.stimuli import ModelSpec

# Memory of a model not yet measured, per byte on disk: weights, plus a context and compute buffers.
# 1.2 is what the recorded /api/ps rows show for models above 100 MB at small contexts.
MEMORY_PER_FILE_BYTE: Final = 1.2

# How often the time for which a failed load is not tried again is doubled at most: 15 s are four
# minutes then. Longer would keep away for nothing what could be loaded again.
HOLD_DOUBLED_MAX: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendPolicy:
    """What the operator says of one backend.

    `is_local`: it runs on this host, so that this host's sensors speak of it. `weight`: its part of
    the work that several could do, against theirs. `tags`: what models may be confined to.
    `keeps_models`: it can neither load nor unload; what it lists is there. `may_restart`: the
    operator has configured a command for that.
    `resident_max` models fit together. `memory_bytes`, where known, must hold them all as well, and
    is what lets the broker load beside models that it does not manage. `exclusive`: the whole
    server is the broker's, so it may unload what others loaded.
    """

    name: str
    resident_max: int = 1
    memory_bytes: int | None = None
    exclusive: bool = False
    is_local: bool = False
    weight: float = 1.0
    tags: frozenset[str] = frozenset()
    keeps_models: bool = False
    may_restart: bool = False

    def __post_init__(self) -> None:
        if self.resident_max < 1 or self.weight <= 0:
            raise ValueError("resident_max must be at least 1, weight positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementPolicy:
    """Times of the switch protocol. keep_alive is short enough that a dead broker pins nothing."""

    keep_alive_ns: int = 600_000_000_000
    failed_load_hold_ns: int = 15_000_000_000
    num_ctx_hold_ns: int = 600_000_000_000
    slot_grace_ns: int = 300_000_000

    def __post_init__(self) -> None:
        # A keep_alive is renewed at half of it, which must be a time as well.
        if min(self.keep_alive_ns // 2, self.failed_load_hold_ns, self.num_ctx_hold_ns) <= 0:
            raise ValueError("placement times must be positive")
        if self.slot_grace_ns < 0:
            raise ValueError("the grace of a slot must not be negative")


@dataclass(slots=True)
class BackendState:
    """One backend as the engine knows it."""

    policy: BackendPolicy
    up: bool = False
    problem: str = "not asked yet"
    is_listed: bool = False  # has it ever told which models it holds?
    models: dict[str, ModelSpec] = field(default_factory=dict)  # by comparison key
    by_runner: dict[str, ModelSpec] = field(default_factory=dict)
    residents: dict[str, Residency] = field(default_factory=dict)  # by runner
    memory_seen: dict[str, int] = field(default_factory=dict)  # bytes by runner, last measured
    held_until_ns: dict[str, int] = field(default_factory=dict)  # runners whose load failed
    held_because: dict[str, str] = field(default_factory=dict)  # and why, in the server's words
    failed_in_row: dict[str, int] = field(default_factory=dict)  # loads by runner, since one worked
    ever_loaded: set[str] = field(default_factory=set)  # runners that this server has held
    expected_until_ns: dict[str, int] = field(default_factory=dict)  # what a renewal brings back
    left_ns: int = -1  # when a runner last left: older lists of residents still show it
    gated: str = ""  # the runner that was told to leave for another since the last load
    promised: str = ""  # the runner for which something leaves
    is_draining: bool = False  # an operator wants nothing started on it
    is_leaving: bool = False  # it is no longer in the configuration
    broken: set[str] = field(default_factory=set)  # runners whose circuit breaker lets nothing pass
    broken_until_ns: dict[str, int] = field(default_factory=dict)  # until one may pass, or has
    healing: set[str] = field(default_factory=set)  # runners that are being cured
    health: Health = Health.WELL
    evidence: str = ""  # why it is not well, in words
    retries: int = 0  # attempts made again because this backend failed one
    restarts: int = 0  # by the operator's command, since it last served for long
    restarts_made: int = 0  # the same since start
    loads: int = 0
    loads_failed: int = 0
    load_ns_sum: int = 0  # of loads that have ended, however they did

    @property
    def name(self) -> str:
        return self.policy.name

    @property
    def is_open(self) -> bool:
        """May work be started on it, as far as the whole server goes?"""
        return self.up and not self.is_draining and not self.is_leaving

    def takes(self, runner: str) -> bool:
        """May work for this runner be started on it, if it has a slot or can load it?"""
        return self.is_open and runner not in self.broken and runner not in self.healing

    @property
    def may_load(self) -> bool:
        """May anything be loaded there, as far as its health goes? What is resident may serve."""
        return self.health is not Health.WEDGED and self.health is not Health.RESTARTING

    @property
    def is_switching(self) -> bool:
        """Is a load or an unload under way? Then nothing else is asked of this backend."""
        for each in self.residents.values():  # a loop: asked for in every turn
            if each.state is ResidencyState.LOADING or each.state is ResidencyState.UNLOADING:
                return True
        return False

    def resident(self, runner: str) -> Residency | None:
        """The residency of a runner that requests can name here: what was deleted from the disk is
        refused by name though it may still be loaded."""
        return self.residents.get(runner) if runner in self.by_runner else None

    @property
    def is_at_rest(self) -> bool:
        """Does nothing here wait for a next step, whatever the time?"""
        if self.gated or self.promised:
            return False
        for each in self.residents.values():
            if each.state is not ResidencyState.RESIDENT or each.is_large:
                return False
        return True

    def draining(self) -> list[Residency]:
        """What is to leave for the sake of others; what is being cured leaves by itself."""
        return [
            each
            for each in self.residents.values()
            if each.state is ResidencyState.DRAINING and each.runner not in self.healing
        ]

    @property
    def is_curing(self) -> bool:
        """Is a model about to be unloaded to cure it? That goes before any other switch."""
        if not self.healing:
            return False
        return any(
            each.state is ResidencyState.DRAINING and each.runner in self.healing
            for each in self.residents.values()
        )

    def holds_off(self, runner: str, now_ns: int) -> bool:
        return self.held_until_ns.get(runner, 0) > now_ns

    def hold_off(self, runner: str, why: str, hold_ns: int, now_ns: int) -> int:
        """Its load failed: it is not tried before the moment that is returned. Each try would evict
        a good model first (OLLAMA.md §2), so that one that fails again is left alone for longer."""
        before = self.failed_in_row.get(runner, 0)
        until_ns = now_ns + (hold_ns << min(before, HOLD_DOUBLED_MAX))
        self.failed_in_row[runner] = before + 1
        self.held_until_ns[runner], self.held_because[runner] = until_ns, why
        return until_ns

    def has_loaded(self, runner: str) -> None:
        """It is there: it can be, and a load that fails from now on is the first."""
        self.failed_in_row.pop(runner, None)
        if runner in self.by_runner:
            self.ever_loaded.add(runner)

    def list_models(self, models: Sequence[ModelSpec]) -> None:
        """It has these from now on. What was learned of others is forgotten. Slots that are others
        than before, as the operator says, count at once for what is loaded."""
        before = self.by_runner
        self.models = {comparison_key(each.name): each for each in models}
        self.by_runner = {}
        for spec in sorted(models, key=lambda each: each.name):
            self.by_runner.setdefault(spec.runner, spec)
        for runner, residency in self.residents.items():
            old, new = before.get(runner), self.by_runner.get(runner)
            if old is not None and new is not None and old.slots != new.slots:
                residency.slots = new.slots
        for learned in (self.memory_seen, self.failed_in_row):
            for runner in learned.keys() - self.by_runner.keys():
                del learned[runner]
        self.ever_loaded &= self.by_runner.keys()


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
    residency = backend.resident(key[0])
    return (
        residency is not None
        and residency.state is ResidencyState.RESIDENT
        and residency.fits(key[1])
    )


def slots_for(backend: BackendState, key: LineKey) -> int:
    """Slots of this backend that serve this line, or will when a load under way ends."""
    residency = backend.resident(key[0])
    if residency is None or not backend.takes(key[0]) or not residency.fits(key[1]):
        return 0
    is_open = residency.state in (ResidencyState.RESIDENT, ResidencyState.LOADING)
    return residency.slots if is_open else 0


def slots_promised(backend: BackendState, key: LineKey) -> int:
    """Slots that this line will have here when what was gated for it has left."""
    if backend.promised != key[0] or key[0] not in backend.by_runner:
        return 0
    if not backend.takes(key[0]):
        return 0
    return backend.by_runner[key[0]].slots


def rank_targets(
    backend: BackendState,
    others: Sequence[BackendState],
    lines: Mapping[LineKey, Line],
    now_ns: int,
    *,
    with_promises: bool,
    of_first: bool = False,
) -> list[Demand]:
    """The runners to load here, the one to load next first: those that nobody serves, by the
    longest total wait. What was gated for others is last, whatever has gathered since: else it
    would be loaded again at once, and they would wait for ever.

    A runner that another backend serves is wanted here too only while its backlog exceeds the slots
    it has there: one model on two servers costs two loads. `with_promises`: so is one that another
    backend makes room for; where there is room already, waiting for that would be a waste. What can
    never have room beside strangers is no target: others could use what it would wait for. What
    keeps its models loads none.
    `of_first`: what the level lets go after the others is not counted.
    """
    if backend.policy.keeps_models:
        return []  # what it lists is there, and no more can be
    demands: dict[str, Demand] = {}
    for key, line in lines.items():
        runner, num_ctx = key
        if runner not in backend.by_runner or backend.holds_off(runner, now_ns):
            continue
        if not backend.takes(runner):
            continue
        if slots_for(backend, key) or not may_get_room(backend, runner):
            continue
        elsewhere = sum(slots_for(each, key) for each in others)
        if with_promises:
            elsewhere += sum(slots_promised(each, key) for each in others)
        size, waited_ns = line.demand_first(now_ns) if of_first else line.demand(now_ns)
        if elsewhere and size <= elsewhere:
            continue
        demand = demands.setdefault(runner, Demand(runner))
        demand.num_ctx = max(demand.num_ctx, num_ctx)
        demand.size += size
        demand.waited_ns += waited_ns
        demand.is_placed_elsewhere = demand.is_placed_elsewhere or elsewhere > 0
    return sorted(
        demands.values(),
        key=lambda each: (
            each.runner == backend.gated,
            each.is_placed_elsewhere,
            -each.waited_ns,
            each.runner,
        ),
    )


def is_wanted_first(
    backend: BackendState,
    others: Sequence[BackendState],
    first: Mapping[LineKey, Line],
    now_ns: int,
) -> bool:
    """Does anything that goes before what the level holds back want a model loaded here?"""
    return bool(rank_targets(backend, others, first, now_ns, with_promises=False, of_first=True))


def memory_needed(backend: BackendState, runner: str) -> int | None:
    """Bytes that a runner takes: as measured, else estimated from its file; None where neither is
    known."""
    seen = backend.memory_seen.get(runner)
    if seen:
        return seen
    spec = backend.by_runner.get(runner)
    return int(spec.size_bytes * MEMORY_PER_FILE_BYTE) or None if spec else None


def has_room(backend: BackendState, runner: str) -> bool:
    """May this runner be loaded beside what is there, without Ollama evicting anything by itself?

    An empty server always takes one. Otherwise the configuration must say so: by count among models
    of ours, and by bytes as well where it gives them; beside a stranger only by bytes.
    """
    if runner in backend.residents:
        return False
    return _fits_beside(backend, runner, backend.residents.values())


def may_get_room(backend: BackendState, runner: str) -> bool:
    """Would there be room if everything left that the broker may tell to leave?"""
    own = backend.residents.get(runner)
    if own is not None and not own.managed:
        return False
    strangers = [each for each in backend.residents.values() if not each.managed]
    return _fits_beside(backend, runner, strangers)


def _fits_beside(backend: BackendState, runner: str, others: Collection[Residency]) -> bool:
    if not others:
        return True
    if len(others) >= backend.policy.resident_max:
        return False
    if backend.policy.memory_bytes is None:
        return all(each.managed for each in others)
    taken = 0
    for needed in (
        memory_needed(backend, runner),
        *(each.memory_bytes or memory_needed(backend, each.runner) for each in others),
    ):
        if needed is None:
            return False
        taken += needed
    return taken <= backend.policy.memory_bytes


def choose_victim(
    backend: BackendState, target: Demand, lines: Mapping[LineKey, Line]
) -> Residency | None:
    """What leaves for `target`: a managed model whose queue is exhausted, idle longest. None where
    the target would not fit even if all of those left.

    The target's own runner leaves first where it is there with too small a context.
    """
    if backend.broken or backend.healing:  # what nothing may be started of keeps no model
        lines = {key: line for key, line in lines.items() if backend.takes(key[0])}
    own = backend.residents.get(target.runner)
    if own is not None:
        return own if may_leave(own, lines) else None
    leaving, staying = list[Residency](), list[Residency]()
    for each in backend.residents.values():
        is_free = may_leave(each, lines) and each.runner not in backend.healing
        (leaving if is_free else staying).append(each)
    if not _fits_beside(backend, target.runner, staying):
        return None
    return min(leaving, key=lambda each: (each.running, each.used_ns, each.runner), default=None)


def is_needlessly_large(
    residency: Residency, lines: Mapping[LineKey, Line], now_ns: int, hold_ns: int
) -> bool:
    """Was its context raised for work that has not come for so long, and does nothing want it?"""
    return (
        residency.is_large
        and residency.running == 0
        and may_leave(residency, lines)
        and now_ns - residency.large_used_ns >= hold_ns
    )


def may_leave(residency: Residency, lines: Mapping[LineKey, Line]) -> bool:
    """Is it ours, open, and its queue exhausted?"""
    if not residency.managed or residency.state is not ResidencyState.RESIDENT:
        return False
    return not any(
        runner == residency.runner and residency.fits(num_ctx) for runner, num_ctx in lines
    )
