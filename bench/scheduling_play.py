"""Plays the tasks of a cell to one rival, on a virtual clock, and writes down what became of them.

Servers are the model behind `ollama-sim`, with the loads of bench/workload.py to the millisecond;
requests do not slow one another (`ollama_runner_apart.py`), so that service is what it is said to
be. Rivals with an engine have the product's own, with another rule in its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

from bench.scheduling_cells import GIVES_UP_NS, SECOND_NS, Cell, service_ns
from bench.scheduling_profile import Profile
from bench.workload import DECODE_TOKENS_PER_S, MODELS, PREFILL_TOKENS_PER_S
from broker.core.effects import Effect, StartAttempt, TellQueued
from broker.core.engine import Engine
from broker.core.level import DegradationPolicy
from broker.core.placement import BackendPolicy
from broker.core.placement_rule import PlacementRule
from broker.core.policy import EnginePolicy
from broker.core.queueing import QueuePolicy
from broker.core.requests import Outcome, RequestKey
from broker.core.stimuli import ModelSpec, Stimulus
from broker.sim.loads_bound import Window, loads_at_least
from broker.sim.ollama_catalogue import Catalogue
from broker.sim.ollama_log import LogEntry, LogKind
from broker.sim.ollama_machine import GIB, Quirks, ServerSettings
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_model_card import SimModel, Speed
from broker.sim.ollama_work import ExchangeId, Signal, Work
from broker.sim.rival_collation import Collation
from broker.sim.rival_direct import Direct
from broker.sim.rival_rules import Exhaustive, FixedPatience
from broker.sim.timeline import Timeline
from broker.sim.workload import Story, Task
from broker.sim.world import Site, World

PATIENCE_NS = 15 * SECOND_NS
QUEUED_MAX = 10_000  # nobody is refused for want of a place: goodput is to say what order does
CONTEXT = 16_384
SIZE_BYTES = 4_000_000_000
MEMORY_BYTES = 200 * GIB
STRETCH_NS = 60 * SECOND_NS
_BACKEND = "gpu"
_LOAD_OVER = (LogKind.LOADED, LogKind.ABORTED, LogKind.LOAD_FAILED)


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of one request. `started_ns` is -1 where it never got a slot; `model` is the one
    that answered, "" where none did."""

    task: Task
    outcome: Outcome
    started_ns: int
    ended_ns: int
    model: str

    @property
    def service_ns(self) -> int:
        return service_ns(self.task.prompt_tokens, self.task.output_tokens)

    @property
    def waited_ns(self) -> int:
        return (self.ended_ns if self.started_ns < 0 else self.started_ns) - self.task.at_ns

    @property
    def sojourn_ns(self) -> int:
        """Who left counts the time that it waited."""
        return self.ended_ns - self.task.at_ns

    @property
    def is_in_time(self) -> bool:
        """Done within 60 s and twice its own service."""
        allowed_ns = GIVES_UP_NS + 2 * self.service_ns
        return self.outcome is Outcome.COMPLETED and self.sojourn_ns <= allowed_ns


@dataclass(frozen=True, slots=True)
class Played:
    """One run. `loading_share`: of the time until the last arrival, that in which a load was under
    way. `loads_bound`: what serving the same requests in time takes at least. `profile`: where the
    time of the slots went until then, where an engine tells. `told_ns`: between which moments each
    would start, as its first word said where that said anything. `bound_ns`: within which time at
    most, as stated when it came, where that was."""

    ended: tuple[Ended, ...]
    loads: int
    loads_bound: int
    loading_share: float
    profile: Mapping[str, float] = field(default_factory=dict)
    told_ns: Mapping[RequestKey, tuple[int, int]] = field(default_factory=dict)
    bound_ns: Mapping[RequestKey, int] = field(default_factory=dict)


Play = Callable[[Cell, Sequence[Task]], Played]


def start(cell: Cell) -> OllamaModel:
    """A server of this cell with nothing loaded."""
    settings = ServerSettings(
        num_parallel=cell.slots,
        max_loaded_models=cell.held,
        memory_bytes=MEMORY_BYTES,
        context_length=CONTEXT,
        log_entries_max=1_000_000,
        quirks=Quirks(slot_leak_chance=0.0),
    )
    if not cell.has_pauses:  # a load takes what it is said to take
        settings = replace(settings, gpu_query_ns=0, kill_ns=0, vram_recovery_ns=0)
    return OllamaModel(_catalogue(), settings, tokens="first_and_last")


_OWN_QUEUE = QueuePolicy(queued_max=QUEUED_MAX, queued_per_agent_max=QUEUED_MAX)
# What knows no sizes: of agents served alike the one that was not served for longest is next.
_RIVALS_QUEUE = replace(_OWN_QUEUE, size_handicap=0.0, fairness_grain=0)


@cache
def _catalogue() -> Catalogue:
    return Catalogue(
        [
            SimModel(
                name=each.name,
                blob=_hex_of(f"blob {each.name}"),
                digest=_hex_of(f"digest {each.name}"),
                size_bytes=SIZE_BYTES,
                parameter_count=7_000_000_000,
                architecture="llama",
                context_length_train=CONTEXT,
                speed=Speed(
                    prefill_tokens_per_s=PREFILL_TOKENS_PER_S,
                    decode_tokens_per_s=DECODE_TOKENS_PER_S,
                    load_bytes_per_s=SIZE_BYTES / each.load_s,
                    load_cached_bytes_per_s=SIZE_BYTES / each.load_s,
                    spawn_ms=0.0,
                    is_apart=True,
                ),
            )
            for each in MODELS
        ]
    )


def _hex_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def play_fifo(cell: Cell, tasks: Sequence[Task]) -> Played:
    """Ollama itself with nothing in front; agents see that a load is for them, and stay."""
    return _play_direct(cell, tasks, Direct(partial(start, cell)))


def play_fifo_blind(cell: Cell, tasks: Sequence[Task]) -> Played:
    """The same with clients as they are: who gives up while its model is loaded ends the load."""
    return _play_direct(cell, tasks, Direct(partial(start, cell), sees_loads=False))


def play_collation(cell: Cell, tasks: Sequence[Task]) -> Played:
    """llama-swap's rule."""
    return _play_direct(cell, tasks, Collation(partial(start, cell), cell.resident))


def play_exhaustive(cell: Cell, tasks: Sequence[Task]) -> Played:
    """The engine with the simple rule: no sizes, no deadlines."""
    return _play_engine(cell, tasks, Exhaustive())


def play_patience(cell: Cell, tasks: Sequence[Task]) -> Played:
    """The engine with a fixed patience."""
    return _play_engine(cell, tasks, FixedPatience(PATIENCE_NS))


def play_broker(cell: Cell, tasks: Sequence[Task]) -> Played:
    """The product."""
    return _play_engine(cell, tasks, None)


def _play_direct(cell: Cell, tasks: Sequence[Task], rival: Direct) -> Played:
    rival.add(tasks)
    _run(rival.timeline, tasks, lambda: sum(each.endings for each in rival.stories))
    ended = [_ended(each, each.task.model) for each in rival.stories]
    return _played(cell, ended, rival.server.model)


def _play_engine(cell: Cell, tasks: Sequence[Task], rule: PlacementRule | None) -> Played:
    specs = tuple(
        ModelSpec(name=each.name, runner=each.blob, size_bytes=each.size_bytes, slots=cell.slots)
        for each in _catalogue()
    )
    room = BackendPolicy(
        name=_BACKEND,
        resident_max=cell.resident,
        loaded_max=cell.held,
        memory_bytes=MEMORY_BYTES if cell.loaded else None,
    )
    policy = EnginePolicy(
        backends=(room,),
        queue=_OWN_QUEUE if rule is None else _RIVALS_QUEUE,
        degradation=DegradationPolicy(is_automatic=False),
    )
    site = Site(start=partial(start, cell), specs=specs)
    engine = Engine(policy, rule)
    notes = _Notes(engine, Profile(cell.slots, cell.resident, tasks[-1].at_ns))
    world = World(engine, {_BACKEND: site}, judge=notes)
    world.add(tasks)
    stories = world.stories
    _run(world.timeline, tasks, lambda: sum(each.endings for each in stories.values()))
    ended = [_ended(each, notes.model_of.get(key, "")) for key, each in stories.items()]
    played = _played(cell, ended, world.servers[_BACKEND].model)
    told_ns = {key: each for key, each in notes.told_ns.items() if each is not None}
    return replace(played, profile=notes.profile.shares(), told_ns=told_ns, bound_ns=notes.bound_ns)


class _Notes:
    """Remembers which model answered whom, what each was told first, within which time it was to
    start at most, and where time went."""

    def __init__(self, engine: Engine, profile: Profile) -> None:
        self.model_of: dict[RequestKey, str] = {}
        self.told_ns: dict[RequestKey, tuple[int, int] | None] = {}
        self.bound_ns: dict[RequestKey, int] = {}
        self.profile = profile
        self._engine = engine

    def turned(self, stimulus: Stimulus, effects: Sequence[Effect], now_ns: int) -> None:
        for effect in effects:
            if type(effect) is StartAttempt:
                self.model_of[effect.key] = effect.model
            elif type(effect) is TellQueued and effect.key not in self.told_ns:
                self.told_ns[effect.key] = _interval_of(effect, now_ns)
                record = self._engine.records.get(effect.key)
                bound = record.bound if record is not None else None
                if bound is not None and bound.ns is not None:
                    self.bound_ns[effect.key] = bound.ns
        self.profile.turned(self._engine, now_ns)

    def opened(self, server: str, exchange: ExchangeId, work: Work) -> None: ...

    def closed(self, server: str, exchange: ExchangeId) -> None: ...

    def signalled(self, server: str, signal: Signal) -> None: ...


def _interval_of(word: TellQueued, now_ns: int) -> tuple[int, int] | None:
    """Between which moments the request starts, as it was told."""
    if word.eta_low_ns is None or word.eta_high_ns is None:
        return None
    return now_ns + word.eta_low_ns, now_ns + word.eta_high_ns


def _run(timeline: Timeline, tasks: Sequence[Task], ended: Callable[[], int]) -> None:
    """Until the last of them has ended."""
    limit_ns = tasks[-1].at_ns + max(each.patience_ns for each in tasks) + STRETCH_NS
    while ended() < len(tasks):
        if timeline.now_ns > limit_ns:
            raise RuntimeError(f"{ended()} of {len(tasks)} requests have ended")
        timeline.run(timeline.now_ns + STRETCH_NS)


def _ended(story: Story, model: str) -> Ended:
    if story.outcome is None:
        raise RuntimeError(f"{story.task.key} has not ended")
    has_started = story.attempts > 0 and story.started_ns >= story.task.at_ns
    started_ns = story.started_ns if has_started and story.started_ns else -1
    return Ended(
        story.task, story.outcome, started_ns, story.ended_ns, model if started_ns >= 0 else ""
    )


def _played(cell: Cell, ended: list[Ended], server: OllamaModel) -> Played:
    until_ns = max(each.task.at_ns for each in ended)
    windows = [
        Window(each.model, each.task.at_ns, max(each.started_ns, each.task.at_ns + GIVES_UP_NS))
        for each in ended
        if each.started_ns >= 0
    ]
    return Played(
        ended=tuple(sorted(ended, key=lambda each: int(each.task.request_id))),
        loads=server.runner_starts,
        loads_bound=loads_at_least(windows, cell.held),
        loading_share=loading_ns(server.ledger.entries, until_ns) / max(1, until_ns),
    )


def loading_ns(entries: Iterable[LogEntry], until_ns: int) -> int:
    """How long until then a load was under way; there is one at a time at most."""
    total_ns, began_ns = 0, -1
    for entry in entries:
        if entry.kind is LogKind.SPAWNED:
            began_ns = entry.at_ns
        elif entry.kind in _LOAD_OVER and began_ns >= 0:
            total_ns += max(0, min(entry.at_ns, until_ns) - began_ns)
            began_ns = -1
    if began_ns >= 0:
        total_ns += max(0, until_ns - began_ns)
    return total_ns
