"""A world without sockets: the engine and simulated Ollama servers on one virtual clock.

The engine is the real one, the servers are the model that `ollama-sim` serves; only what lies
between them (network, HTTP, the loop) is left out. Time jumps from event to event, so an hour of a
fleet takes seconds, and the same seed gives the same history to the last nanosecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any

from broker.core.effects import (
    AbortAttempt,
    Admit,
    Drained,
    Effect,
    Finish,
    Load,
    Refuse,
    Renew,
    SetTimer,
    StartAttempt,
    TakeOver,
    TellQueued,
    TellRequeued,
    Unload,
)
from broker.core.engine import Engine
from broker.core.errors import BackendFailed, BackendUnreachable, BrokerError, Cancelled, LoadFailed
from broker.core.ports import Resident
from broker.core.requests import (
    AttemptId,
    Criticality,
    Outcome,
    RequestKey,
    RequestKind,
    RequestSpec,
)
from broker.core.stimuli import (
    Arrived,
    AttemptEnded,
    BackendSeen,
    CancelAsked,
    CancelCause,
    FirstToken,
    LoadEnded,
    ModelsListed,
    ModelSpec,
    ResidentsSeen,
    Stimulus,
    TimerFired,
    UnloadEnded,
)
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_work import (
    CutOff,
    ExchangeId,
    Failed,
    Finished,
    RunnerOptions,
    Signal,
    Token,
    Work,
    WorkKind,
)

MILLISECOND_NS = 1_000_000
POLL_INTERVAL_NS = 5_000 * MILLISECOND_NS
GONE_POLL_NS = 50 * MILLISECOND_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One request that an agent will make. It leaves when `patience_ns` have passed."""

    at_ns: int
    agent_id: str
    request_id: str
    model: str
    priority: int
    prompt_tokens: int
    output_tokens: int
    patience_ns: int
    criticality: Criticality = Criticality.NORMAL


@dataclass(slots=True, kw_only=True)
class Story:
    """What became of a task. Times are 0 where it never came so far."""

    task: Task
    started_ns: int = 0
    first_token_ns: int = 0
    ended_ns: int = 0
    outcome: Outcome | None = None
    endings: int = 0  # exactly one, or the engine is wrong


class Timeline:
    """A virtual clock and what is due on it; ties go in the order of planning."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = count()

    def at(self, at_ns: int, action: Callable[[], None]) -> None:
        heappush(self._due, (max(at_ns, self.now_ns), next(self._sequence), action))

    def run(self, until_ns: int | None = None) -> None:
        """Lets everything happen that is due, up to a moment or until nothing is planned."""
        while self._due and (until_ns is None or self._due[0][0] <= until_ns):
            self.now_ns, _, action = heappop(self._due)
            action()
        if until_ns is not None:
            self.now_ns = max(self.now_ns, until_ns)


class Server:
    """One simulated Ollama on a timeline. Whoever opens an exchange hears its signals."""

    def __init__(self, model: OllamaModel, timeline: Timeline) -> None:
        self.model = model
        self._timeline = timeline
        self._listeners: dict[ExchangeId, Callable[[Signal], None]] = {}
        self._alarm_ns: int | None = None

    def open(self, work: Work, listener: Callable[[Signal], None]) -> ExchangeId:
        exchange = self.model.open(work, self._timeline.now_ns)
        self._listeners[exchange] = listener
        self.plan()
        return exchange

    def close(self, exchange: ExchangeId) -> None:
        if self._listeners.pop(exchange, None) is not None:
            self.model.close(exchange, self._timeline.now_ns)
            self.plan()

    def residents(self) -> tuple[Resident, ...] | None:
        """What it lists, or None while the list hangs."""
        rows = self.model.ps(self._timeline.now_ns)
        if isinstance(rows, int):
            return None
        return tuple(
            Resident(
                name=row.name,
                digest=row.digest,
                memory_bytes=row.size,
                gpu_memory_bytes=row.size_vram,
                num_ctx=row.context_length,
            )
            for row in rows
        )

    def plan(self) -> None:
        """Arranges to look again when the model next has something to say."""
        next_ns = self.model.next_event_ns()
        if next_ns is not None and (self._alarm_ns is None or next_ns < self._alarm_ns):
            self._alarm_ns = max(next_ns, self._timeline.now_ns)
            self._timeline.at(self._alarm_ns, partial(self._look, self._alarm_ns))

    def _look(self, alarm_ns: int) -> None:
        if self._alarm_ns != alarm_ns:
            return  # an earlier look was planned meanwhile and has been
        self._alarm_ns = None
        for signal in self.model.advance(self._timeline.now_ns):
            listener = self._listeners.get(signal.exchange)
            if listener is None:
                continue
            if isinstance(signal, Finished | Failed | CutOff):
                del self._listeners[signal.exchange]
            listener(signal)
        self.plan()


class World:
    """The engine with perfect hands: performs its effects on simulated servers.

    `specs` are the models of each backend as the engine plans with them.
    """

    def __init__(
        self,
        engine: Engine,
        servers: Mapping[str, OllamaModel],
        specs: Mapping[str, tuple[ModelSpec, ...]],
        *,
        keep_alive_ns: int = 600_000 * MILLISECOND_NS,
        after_turn: Callable[[Engine], None] | None = None,
    ) -> None:
        self.engine = engine
        self.timeline = Timeline()
        self.servers = {name: Server(model, self.timeline) for name, model in servers.items()}
        self.stories: dict[RequestKey, Story] = {}
        self.drained = False
        self._specs = specs
        self._keep_alive_ns = keep_alive_ns
        self._after_turn = after_turn
        self._attempts: dict[AttemptId, tuple[Server, ExchangeId]] = {}
        self._turning = False
        self._waiting: list[Stimulus] = []
        self._performers: dict[type[Effect], Callable[[Any], None]] = {
            Admit: _nothing,
            Refuse: self._refuse,
            TakeOver: _nothing,
            TellQueued: _nothing,
            TellRequeued: _nothing,
            StartAttempt: self._start_attempt,
            AbortAttempt: self._abort_attempt,
            Finish: self._finish,
            Load: self._load,
            Unload: self._unload,
            Renew: self._renew,
            SetTimer: self._set_timer,
            Drained: self._set_drained,
        }
        self._arriving: Story | None = None
        for name in self.servers:
            self.timeline.at(0, partial(self._discover, name))

    # What happens

    def add(self, tasks: Iterable[Task]) -> None:
        """Plans arrivals, and that each agent leaves when its patience ends."""
        for task in tasks:
            self.timeline.at(task.at_ns, partial(self._arrive, task))

    def feed(self, stimulus: Stimulus) -> None:
        """One turn, then its effects, as the driver does it."""
        self._waiting.append(stimulus)
        if self._turning:
            return
        self._turning = True
        try:
            while self._waiting:
                due = self._waiting.pop(0)
                for effect in self.engine.handle(due, self.timeline.now_ns):
                    self._performers[type(effect)](effect)
                if self._after_turn is not None:
                    self._after_turn(self.engine)
        finally:
            self._turning = False

    def _arrive(self, task: Task) -> None:
        key = (task.agent_id, task.request_id)
        story = self.stories[key] = Story(task=task)
        spec = RequestSpec(
            key=key,
            fingerprint=task.request_id.encode(),
            kind=RequestKind.GENERATE,
            model=task.model,
            priority=task.priority,
            criticality=task.criticality,
            deadline_ns=self.timeline.now_ns + task.patience_ns,
            size_bytes=task.prompt_tokens * 4,
        )
        self._arriving = story
        self.feed(Arrived(spec))
        self._arriving = None

    def cancel(self, key: RequestKey) -> None:
        """The client of this request goes away."""
        self.feed(CancelAsked(key, CancelCause.CLIENT_GONE))

    def _discover(self, name: str) -> None:
        self.feed(ModelsListed(name, self._specs[name]))
        self._poll(name)
        self.feed(BackendSeen(name, up=True))

    def _poll(self, name: str) -> None:
        residents = self.servers[name].residents()
        if residents is not None:
            self.feed(ResidentsSeen(name, residents, self.timeline.now_ns))

    # What the engine says

    def _refuse(self, effect: Refuse) -> None:
        assert self._arriving is not None, "a refusal belongs to an arrival"
        self._end(self._arriving, Outcome.REFUSED)

    def _finish(self, effect: Finish) -> None:
        self._end(self.stories[effect.key], effect.outcome)

    def _end(self, story: Story, outcome: Outcome) -> None:
        story.outcome = outcome
        story.ended_ns = self.timeline.now_ns
        story.endings += 1

    def _start_attempt(self, effect: StartAttempt) -> None:
        story = self.stories[effect.key]
        story.started_ns = self.timeline.now_ns
        server = self.servers[effect.backend]
        task = story.task
        work = Work(
            kind=WorkKind.GENERATE,
            model=effect.model,
            prompts=(_prompt(task),),
            output_tokens=task.output_tokens,
            options=RunnerOptions(num_ctx=effect.num_ctx),
        )
        listener = partial(self._hear_attempt, effect.attempt, story)
        self._attempts[effect.attempt] = (server, server.open(work, listener))

    def _hear_attempt(self, attempt: AttemptId, story: Story, signal: Signal) -> None:
        match signal:
            case Token(index=0):
                story.first_token_ns = self.timeline.now_ns
                self.feed(FirstToken(attempt))
            case Finished():
                self._attempt_over(attempt, None, signal.prompt_eval_count, signal.eval_count)
            case Failed():
                self._attempt_over(attempt, BackendFailed(signal.text, status=signal.status))
            case CutOff():
                self._attempt_over(attempt, BackendUnreachable("the server was terminated"))

    def _attempt_over(
        self, attempt: AttemptId, error: BrokerError | None, prompt: int = 0, output: int = 0
    ) -> None:
        del self._attempts[attempt]
        self.feed(AttemptEnded(attempt, error, prompt, output))

    def _abort_attempt(self, effect: AbortAttempt) -> None:
        place = self._attempts.get(effect.attempt)
        if place is not None:
            place[0].close(place[1])
            aborted = partial(self._attempt_over, effect.attempt, Cancelled("aborted"))
            self.timeline.at(self.timeline.now_ns, aborted)

    def _load(self, effect: Load) -> None:
        work = self._load_work(effect.model, effect.num_ctx, self._keep_alive_ns)
        self.servers[effect.backend].open(work, partial(self._hear_load, effect))

    def _load_work(self, model: str, num_ctx: int | None, keep_alive_ns: int) -> Work:
        kind = WorkKind.LOAD if keep_alive_ns else WorkKind.UNLOAD
        return Work(
            kind=kind,
            model=model,
            options=RunnerOptions(num_ctx=num_ctx),
            keep_alive_ns=keep_alive_ns,
        )

    def _hear_load(self, effect: Load, signal: Signal) -> None:
        match signal:
            case Finished():
                self._poll(effect.backend)
                self.feed(LoadEnded(effect.backend, effect.runner))
            case Failed():
                error = LoadFailed(signal.text)
                self.feed(LoadEnded(effect.backend, effect.runner, error))
            case CutOff():
                gone = BackendUnreachable("the server was terminated")
                self.feed(LoadEnded(effect.backend, effect.runner, gone))

    def _unload(self, effect: Unload) -> None:
        work = self._load_work(effect.model, None, 0)
        self.servers[effect.backend].open(work, lambda signal: None)
        self._wait_gone(effect)

    def _wait_gone(self, effect: Unload) -> None:
        residents = self.servers[effect.backend].residents()
        if residents is not None and all(each.name != effect.model for each in residents):
            self.feed(UnloadEnded(effect.backend, effect.runner))
        else:
            self.timeline.at(self.timeline.now_ns + GONE_POLL_NS, partial(self._wait_gone, effect))

    def _renew(self, effect: Renew) -> None:
        work = self._load_work(effect.model, effect.num_ctx, self._keep_alive_ns)
        self.servers[effect.backend].open(work, lambda signal: None)

    def _set_timer(self, effect: SetTimer) -> None:
        self.timeline.at(effect.at_ns, lambda: self.feed(TimerFired()))

    def _set_drained(self, effect: Drained) -> None:
        self.drained = True


def _nothing(effect: Effect) -> None:
    """Words for a client: nobody reads them here."""


def _prompt(task: Task) -> tuple[int, ...]:
    """Token ids that no two tasks share, so that no prefix is found in a cache."""
    seed = hash_of(task.agent_id, task.request_id)
    return tuple((seed + index) & 0x7FFFFFFF for index in range(task.prompt_tokens))


def hash_of(*words: str) -> int:
    """A number from words, the same in every process (unlike hash())."""
    value = 0xCBF29CE484222325  # FNV-1a
    for byte in "\0".join(words).encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value
