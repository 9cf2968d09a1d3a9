"""What a backend holds and has room for: its state as the engine knows it, and facts about it.

Which model comes next and what leaves for it is a rule's to say (`placement_rule.py`); how it is
done is the protocol's (`switching.py`). Here is what is so, whatever the rule.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from broker.core.healing import Health
from broker.core.model_name import comparison_key
from broker.core.ports import FILES_JOINED
from broker.core.queueing import Line, LineKey
from broker.core.residency import Residency, ResidencyState
from broker.core.stimuli import ModelSpec

# Memory of a model not yet measured, per byte on disk: weights, plus a context and compute buffers.
# 1.2 is what the recorded /api/ps rows show for models above 100 MB at small contexts.
MEMORY_PER_FILE_BYTE: Final = 1.2

# How often the time for which a failed load is not tried again is doubled at most: 15 s are four
# minutes then. Longer would keep away for nothing what could be loaded again.
HOLD_DOUBLED_MAX: Final = 4


# Losses that are remembered of a backend: more than any growth of a hold looks at.
VANISHED_KEPT: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendPolicy:
    """What the operator says of one backend.

    `is_local`: it runs on this host, so that this host's sensors speak of it. `weight`: its part of
    the work that several could do, against theirs. `tags`: what models may be confined to.
    `keeps_models`: it can neither load nor unload; what it lists is there. `may_restart`: the
    operator has configured a command for that.
    `resident_max` models fit together. `memory_bytes`, where known, must hold them all as well, and
    is what lets the broker load beside models that it does not manage. `exclusive`: the whole
    server is the broker's, so it may unload what others loaded. `loaded_max`: how many the server
    itself holds before it evicts one, None: as many; what is more than `resident_max` is room for
    the next model while another still leaves, where `memory_bytes` holds them all.
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
    loaded_max: int | None = None

    def __post_init__(self) -> None:
        if self.resident_max < 1 or self.weight <= 0:
            raise ValueError("resident_max must be at least 1, weight positive")
        if self.loaded_max is not None and self.loaded_max < self.resident_max:
            raise ValueError("a server that holds fewer models than resident_max evicts by itself")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementPolicy:
    """Times of the switch protocol. keep_alive is short enough that a dead broker pins nothing.
    What was gated and does not drain within `drain_timeout_ns` serves on for as long again. A model
    that is not listed any more is gone after `memory_wait_ns` at the latest, whatever is seen of
    its memory; 0: at once."""

    keep_alive_ns: int = 600_000_000_000
    failed_load_hold_ns: int = 15_000_000_000
    num_ctx_hold_ns: int = 600_000_000_000
    slot_grace_ns: int = 300_000_000
    drain_timeout_ns: int = 600_000_000_000
    memory_wait_ns: int = 5_000_000_000

    def __post_init__(self) -> None:
        # A keep_alive is renewed at half of it, which must be a time as well.
        times = (self.failed_load_hold_ns, self.num_ctx_hold_ns, self.drain_timeout_ns)
        if min(self.keep_alive_ns // 2, *times) <= 0:
            raise ValueError("placement times must be positive")
        if min(self.slot_grace_ns, self.memory_wait_ns) < 0:
            raise ValueError("the grace of a slot and of memory must not be negative")


@dataclass(slots=True)
class BackendState:
    """One backend as the engine knows it."""

    policy: BackendPolicy
    up: bool = False
    problem: str = "not asked yet"
    is_mute: bool = False  # down only as its list does not come: it may still do what it is told
    is_missing: bool = False  # its last look found it away
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
    looked_ns: int = -1  # when it was last looked at whether it has better to do
    gated: str = ""  # the runner that was told to leave for another since the last load
    promised: str = ""  # the runner for which something leaves
    ahead: str = ""  # the runner that was loaded beside the others
    ahead_of: str = ""  # the one that is to leave once that is there
    is_draining: bool = False  # an operator wants nothing started on it
    is_leaving: bool = False  # it is no longer in the configuration
    broken: set[str] = field(default_factory=set)  # runners whose circuit breaker lets nothing pass
    broken_until_ns: dict[str, int] = field(default_factory=dict)  # until one may pass, or has
    healing: set[str] = field(default_factory=set)  # runners that are being cured
    health: Health = Health.WELL
    evidence: str = ""  # why it is not well, in words
    shut_until_ns: int | None = None  # wedged: nothing is loaded before then
    retries: int = 0  # attempts made again because this backend failed one
    restarts: int = 0  # by the operator's command, since it last served for long
    restarts_made: int = 0  # the same since start
    drains_given_up: int = 0  # since start
    loads_ahead: int = 0  # loads beside what left after them
    memory_held: int = 0  # unloads of which the memory was not seen to come back
    vanished: int = 0  # models of ours that nobody here told to leave
    vanished_ns: deque[int] = field(default_factory=lambda: deque(maxlen=VANISHED_KEPT))
    back_ns: int = -1  # when it last answered again: what it held before may be another process's
    loads: int = 0
    loads_failed: int = 0
    load_ns_sum: int = 0  # of loads that have ended, however they did

    @property
    def name(self) -> str:
        return self.policy.name

    @property
    def is_open(self) -> bool:
        """May work be started on it, as far as the whole server goes?"""
        is_restarting = self.health is Health.RESTARTING
        return self.up and not self.is_draining and not self.is_leaving and not is_restarting

    def takes(self, runner: str) -> bool:
        """May work for this runner be started on it, if it has a slot or can load it?"""
        return self.is_open and runner not in self.broken and runner not in self.healing

    @property
    def may_load(self) -> bool:
        """May anything be loaded there, as far as its health goes? What is resident may serve."""
        return self.shut_until_ns is None and self.health is not Health.RESTARTING

    @property
    def is_to_prove(self) -> bool:
        """Is it wedged as far as is known? Then one load that is let through tells."""
        return self.health is Health.WEDGED

    @property
    def is_switching(self) -> bool:
        """Is a load or an unload under way? Then nothing else is asked of this backend."""
        for each in self.residents.values():  # a loop: asked for in every turn
            state = each.state
            if state is not ResidencyState.RESIDENT and state is not ResidencyState.DRAINING:
                return True
        return False

    def resident(self, runner: str) -> Residency | None:
        """The residency of a runner that requests can name here: what was deleted from the disk is
        refused by name though it may still be loaded."""
        return self.residents.get(runner) if runner in self.by_runner else None

    @property
    def is_at_rest(self) -> bool:
        """Does nothing here wait for a next step, whatever the time?"""
        if self.gated or self.promised or self.ahead_of:
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

    def forgive_loads(self) -> None:
        """Another process may load what the one before could not."""
        self.held_until_ns.clear()
        self.held_because.clear()
        self.failed_in_row.clear()

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
        for learned in (self.memory_seen, self.failed_in_row, self.expected_until_ns):
            for runner in learned.keys() - self.by_runner.keys():
                del learned[runner]
        self.ever_loaded &= self.by_runner.keys()


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


def has_room_ahead(backend: BackendState, runner: str) -> bool:
    """May it be loaded beside all that is there, if one of those leaves as soon as it is? Only
    where the server itself holds so many, and bytes prove that they fit, all of them as measured
    there: a guess by files would have the server evict one that still works, as a large context
    takes more than the weights."""
    policy, others = backend.policy, backend.residents.values()
    if policy.loaded_max is None or policy.memory_bytes is None:
        return False
    seen = backend.memory_seen
    if runner in backend.residents or not seen.get(runner) or _is_another_of(runner, others):
        return False
    if not all(each.memory_bytes or seen.get(each.runner) for each in others):
        return False
    return len(others) < policy.loaded_max and _is_held(backend, runner, others)


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
    if len(others) >= backend.policy.resident_max or _is_another_of(runner, others):
        return False
    if backend.policy.memory_bytes is None:
        return all(each.managed for each in others)
    return _is_held(backend, runner, others)


def _is_another_of(runner: str, others: Collection[Residency]) -> bool:
    """Is it made of the same weights as one of these, and something else? The server would have
    that leave for it, whatever room there is."""
    weights = weights_of(runner)
    return any(weights_of(each.runner) == weights for each in others)


def weights_of(runner: str) -> str:
    """Of the files that it is made of those that only one runner of a server can have loaded."""
    return runner.partition(FILES_JOINED)[0]


def _is_held(backend: BackendState, runner: str, others: Collection[Residency]) -> bool:
    """Does the memory that is known hold it beside these, each of a known size?"""
    limit_bytes = backend.policy.memory_bytes or 0
    taken = 0
    for needed in (
        memory_needed(backend, runner),
        *(each.memory_bytes or memory_needed(backend, each.runner) for each in others),
    ):
        if needed is None:
            return False
        taken += needed
    return taken <= limit_bytes


def movable(backend: BackendState, runner: str) -> list[Residency]:
    """What could be told to leave for this runner, as far as the protocol goes: it is ours and
    open. The runner itself leaves first where it is there with too small a context."""
    own = backend.residents.get(runner)
    candidates = backend.residents.values() if own is None else (own,)
    return [
        each for each in candidates if _may_be_told(each) and each.runner not in backend.healing
    ]


def fits_without(backend: BackendState, runner: str, leaving: Collection[Residency]) -> bool:
    """Would this runner have room if these left, and what leaves whoever comes?"""
    staying = [
        each
        for each in backend.residents.values()
        if each.runner != runner
        and not each.leaves_anyhow
        and not any(each is other for other in leaving)
    ]
    return _fits_beside(backend, runner, staying)


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
    return _may_be_told(residency) and not any(
        runner == residency.runner and residency.fits(num_ctx) for runner, num_ctx in lines
    )


def _may_be_told(residency: Residency) -> bool:
    is_open = residency.state is ResidencyState.RESIDENT
    return residency.managed and is_open and not residency.is_kept
