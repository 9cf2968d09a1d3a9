"""A world without sockets: the engine and simulated Ollama servers on one virtual clock.

The engine is the real one, the servers are the model that `ollama-sim` serves; only what lies
between them (network, HTTP, the loop) is left out. Time jumps from event to event, so an hour of a
fleet takes seconds, and the same seed gives the same history to the last nanosecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from broker.core.effects import (
    AbortAttempt,
    AbortLoad,
    Admit,
    Answer,
    BackendGone,
    Drained,
    Effect,
    Finish,
    KeepLearned,
    ListAgain,
    Load,
    Own,
    Refuse,
    Renew,
    RestartBackend,
    SenseGpus,
    SetTimer,
    StartAttempt,
    TakeOver,
    TellAttemptFailed,
    TellBreaker,
    TellHealing,
    TellLevel,
    TellPreempted,
    TellPriority,
    TellQueued,
    TellRequeued,
    TellSlowDown,
    TellSwitch,
    Unload,
    WishEnded,
)
from broker.core.engine import Engine
from broker.core.errors import BackendFailed, BackendUnreachable, BrokerError, Cancelled
from broker.core.requests import AttemptId, Outcome, RequestKey
from broker.core.stimuli import (
    Arrived,
    AttemptEnded,
    CancelAsked,
    CancelCause,
    DrainAsked,
    FirstToken,
    ModelSpec,
    PolicyChanged,
    Quiet,
    RestartEnded,
    Stimulus,
    TimerFired,
)
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_work import (
    CutOff,
    Failed,
    Finished,
    RunnerOptions,
    Signal,
    Token,
    Work,
    WorkKind,
)
from broker.sim.timeline import Timeline
from broker.sim.workload import Story, Task
from broker.sim.world_discovery import Discoveries
from broker.sim.world_faults import (
    OF_THE_BROKER,
    SILENCING,
    Fault,
    plan_broker_fault,
    plan_fault,
)
from broker.sim.world_server import Call, Server, Witness
from broker.sim.world_switches import Switches
from broker.sim.world_watch import Watch
from broker.sim.world_wire import error_of

QUIET_EVERY_NS: Final = 500_000_000
RESTART_NS: Final = 5_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One server of a world: how its process is started, and its models as the engine plans."""

    start: Callable[[], OllamaModel]
    specs: tuple[ModelSpec, ...]


class Judge(Witness, Protocol):
    """Somebody who sees everything and may raise."""

    def turned(self, stimulus: Stimulus, effects: Sequence[Effect], now_ns: int) -> None:
        """The engine has decided; nothing of it is done yet."""
        ...


class World:
    """The engine with hands: performs its effects on simulated servers, as the driver does."""

    def __init__(
        self,
        engine: Engine,
        sites: Mapping[str, Site],
        *,
        judge: Judge | None = None,
        on_end: Callable[[Story], None] | None = None,
    ) -> None:
        """`on_end` hears of each story once it has ended, and may add tasks: those of an agent
        that sends its next request after the answer."""
        self.engine = engine
        self.timeline = Timeline()
        self.servers = {
            name: Server(name, site.start, self.timeline, judge) for name, site in sites.items()
        }
        self.stories: dict[RequestKey, Story] = {}
        self.drained = 0
        self.sense_gpus: Callable[[], None] | None = None  # asks that sensor, where there is one
        self.wall_offset_ns = 0  # of the clock on the wall, by which nothing is decided
        self._judge = judge
        self._on_end = on_end
        self.switches = Switches(
            self.servers, self.timeline, self.feed, engine.policy.placement.keep_alive_ns
        )
        self._closers: dict[AttemptId, Callable[[], None]] = {}
        self._hearing: dict[AttemptId, Story] = {}
        self._silences = Watch(self.timeline, self.feed, lambda: self._stops > 0)
        self._alarm_ns: int | None = None
        self._arriving: Story | None = None
        self._turning = False
        self._stops = 0  # how often the broker is stopped at once
        self._waiting: list[tuple[Stimulus, Story | None]] = []  # and whose arrival it is
        self._performers = self._table()
        specs = {name: site.specs for name, site in sites.items()}
        self._discoveries = Discoveries(self.servers, specs, self.timeline, self.feed)
        self._discoveries.apply(each.name for each in engine.policy.backends)

    def _table(self) -> dict[type[Effect], Callable[[Any], None]]:
        """Who performs each kind of effect."""
        return {
            Admit: _nothing,
            Refuse: self._refuse,
            TakeOver: _nothing,
            TellQueued: _nothing,
            TellSlowDown: _nothing,
            TellRequeued: _nothing,
            StartAttempt: self._start_attempt,
            AbortAttempt: self._abort_attempt,
            Answer: _nothing,
            Finish: self._finish,
            Load: self.switches.load,
            AbortLoad: self.switches.abort_load,
            Unload: self.switches.unload,
            Renew: self.switches.renew,
            **dict.fromkeys(
                (TellAttemptFailed, TellPreempted, Own, KeepLearned, WishEnded), _nothing
            ),
            ListAgain: lambda effect: self._discoveries.list_again(effect.backend),
            BackendGone: lambda effect: self._discoveries.gone(effect.backend),
            RestartBackend: self._restart,
            **dict.fromkeys((TellBreaker, TellHealing, TellSwitch, TellLevel), _nothing),
            SenseGpus: lambda effect: self.sense_gpus and self.sense_gpus(),
            TellPriority: _nothing,
            SetTimer: self._set_timer,
            Drained: self._set_drained,
        }

    @property
    def calls_open(self) -> int:
        """How many calls of attempts have not ended."""
        return len(self._closers)

    # What happens

    def add(self, tasks: Iterable[Task]) -> None:
        """Plans arrivals, and what their clients do afterwards."""
        for task in tasks:
            self.timeline.at(task.at_ns, partial(self._arrive, task))

    def afflict(self, faults: Iterable[Fault]) -> None:
        """Plans what goes wrong."""
        for fault in faults:
            if fault.kind in OF_THE_BROKER:
                plan_broker_fault(fault, self, self.servers.values(), self.timeline)
                continue
            plan_fault(fault, self.servers[fault.server], self.timeline)
            if fault.kind in SILENCING:
                self.timeline.at(fault.at_ns, partial(self._watch, fault.end_ns))

    def command(self, at_ns: int, asked: Stimulus) -> None:
        """Plans what an operator will ask for."""
        self.timeline.at(at_ns, partial(self.feed, asked))

    def drain(self, until_ns: int) -> None:
        self.feed(DrainAsked(until_ns))

    def feed(self, stimulus: Stimulus) -> None:
        """One turn, then its effects, as the driver does it; later, while the broker is stopped."""
        self._feed(stimulus, None)

    def stop(self) -> None:
        """SIGSTOP of the broker: the world goes on without it."""
        self._stops += 1

    def go_on(self) -> None:
        """SIGCONT: everything that came meanwhile is heard at once."""
        self._stops -= 1
        self._turn()

    def _feed(self, stimulus: Stimulus, arriving: Story | None) -> None:
        self._waiting.append((stimulus, arriving))
        self._turn()

    def _turn(self) -> None:
        if self._turning or self._stops:
            return
        self._turning = True
        try:
            while self._waiting:
                due, self._arriving = self._waiting.pop(0)
                if isinstance(due, Arrived) and self._is_too_late(due):
                    continue
                effects = self.engine.handle(due, self.timeline.now_ns)
                if self._judge is not None:
                    self._judge.turned(due, effects, self.timeline.now_ns)
                for effect in effects:
                    self._performers[type(effect)](effect)
                if isinstance(due, PolicyChanged):
                    self._discoveries.apply(each.name for each in due.policy.backends)
        finally:
            self._turning = False

    def _is_too_late(self, arrived: Arrived) -> bool:
        """Is it the second call of a request that has ended? It would be another request."""
        return self._arriving is None and self.stories[arrived.spec.key].endings > 0

    def _watch(self, until_ns: int) -> None:
        """Tells of streams that gave their first token and give nothing more, while there may be
        any: of those whose tokens are not told one by one."""
        silent = [
            (attempt, story)
            for attempt, story in self._hearing.items()
            if story.first_token_ns and attempt not in self._silences and self._is_silent(attempt)
        ]
        for attempt, story in silent if not self._stops else ():
            self.feed(Quiet(attempt, story.heard_ns, story.tokens_heard, 0))
        if silent or self.timeline.now_ns < until_ns:
            self.timeline.after(QUIET_EVERY_NS, partial(self._watch, until_ns))

    def _is_silent(self, attempt: AttemptId) -> bool:
        call = self._closers.get(attempt)
        return isinstance(call, Call) and call.is_silent

    def _arrive(self, task: Task) -> None:
        story = Story(task=task)
        self.stories[task.key] = story
        self._feed(Arrived(task.spec(task.request_id, self.timeline.now_ns)), story)
        if task.leaves_after_ns:
            gone = CancelAsked(task.key, CancelCause.CLIENT_GONE)
            self.timeline.after(task.leaves_after_ns, partial(self.feed, gone))
        if task.gives_up_after_ns:
            self.timeline.after(task.gives_up_after_ns, partial(self._give_up, story))
        if task.again_after_ns:
            self.timeline.after(task.again_after_ns, partial(self._arrive_again, story))

    def _give_up(self, story: Story) -> None:
        if not story.started_ns and not story.endings:
            self.feed(CancelAsked(story.task.key, CancelCause.CLIENT_GONE))

    def _arrive_again(self, story: Story) -> None:
        """The same key once more."""
        task = story.task
        words = f"other than {task.request_id}" if task.again_differs else task.request_id
        self.feed(Arrived(task.spec(words, self.timeline.now_ns)))

    # What the engine says

    def _refuse(self, effect: Refuse) -> None:
        if self._arriving is not None:  # else it is a second call that is refused, not the first
            self._end(self._arriving, Outcome.REFUSED, effect.error)

    def _finish(self, effect: Finish) -> None:
        self._end(self.stories[effect.key], effect.outcome, effect.error)

    def _end(self, story: Story, outcome: Outcome, error: BrokerError | None) -> None:
        story.outcome, story.error = outcome, error
        story.ended_ns = self.timeline.now_ns
        story.endings += 1
        if self._on_end is not None:
            self._on_end(story)

    def _start_attempt(self, effect: StartAttempt) -> None:
        story = self.stories[effect.key]
        story.started_ns = self.timeline.now_ns
        story.first_token_ns = story.tokens_heard = 0
        story.attempts += 1
        cut_to = effect.output_tokens_max
        work = Work(
            kind=WorkKind.GENERATE,
            model=effect.model,
            prompts=(story.task.prompt,),
            output_tokens=min(story.task.output_tokens, cut_to or story.task.output_tokens),
            options=RunnerOptions(num_ctx=effect.num_ctx),
        )
        self._hearing[effect.attempt] = story
        if self.servers[effect.backend].model.tells_each_token:
            self._silences.start(effect.attempt, story)
        hear = partial(self._hear_attempt, effect.attempt, story)
        self._closers[effect.attempt] = self.servers[effect.backend].open(work, hear)

    def _hear_attempt(self, attempt: AttemptId, story: Story, signal: Signal) -> None:
        match signal:
            case Token(index=index):
                story.tokens_heard += 1
                story.heard_ns = self.timeline.now_ns
                if index:
                    return
                story.first_token_ns = self.timeline.now_ns
                self.feed(FirstToken(attempt))
            case Finished():
                self._finished(attempt, story, signal)
            case Failed():
                error = error_of(signal, story.task.model)
                self._attempt_over(attempt, error, 0, story.tokens_heard)
            case CutOff() if story.first_token_ns:
                error = BackendFailed("the answer ended without an end")
                self._attempt_over(attempt, error, 0, story.tokens_heard)
            case CutOff():
                self._attempt_over(attempt, BackendUnreachable("the server was terminated"))

    def _finished(self, attempt: AttemptId, story: Story, signal: Finished) -> None:
        """It is complete; its tokens came at even times."""
        del self._closers[attempt], self._hearing[attempt]
        self._silences.end(attempt)
        tokens, prompt = signal.eval_count, signal.prompt_eval_count
        streamed_ns = self.timeline.now_ns - story.first_token_ns
        gap_ns = streamed_ns // (tokens - 1) if story.first_token_ns and tokens > 1 else 0
        self.feed(AttemptEnded(attempt, None, prompt, tokens, pieces=tokens, gap_ns=gap_ns))

    def _attempt_over(
        self, attempt: AttemptId, error: BrokerError | None, prompt: int = 0, output: int = 0
    ) -> None:
        del self._closers[attempt], self._hearing[attempt]
        self._silences.end(attempt)
        self.feed(AttemptEnded(attempt, error, prompt, output))

    def _abort_attempt(self, effect: AbortAttempt) -> None:
        """Closing is one step; that it is done is heard after this turn, as from a task. Nothing
        is aborted whose end has been heard: its stimulus waits for the end of the turn."""
        close = self._closers.get(effect.attempt)
        if close is not None:
            close()
            self.timeline.after(0, partial(self._aborted, effect.attempt))

    def _aborted(self, attempt: AttemptId) -> None:
        """What had come of it was used all the same."""
        heard = self._hearing[attempt].tokens_heard
        self._attempt_over(attempt, Cancelled("aborted"), 0, heard)

    def _restart(self, effect: RestartBackend) -> None:
        """The operator's command: another process after a while."""
        server = self.servers[effect.backend]
        server.stop()
        self.timeline.after(RESTART_NS, partial(self._restarted, server))

    def _restarted(self, server: Server) -> None:
        server.come_back()
        self.feed(RestartEnded(server.name))

    def _set_timer(self, effect: SetTimer) -> None:
        self._alarm_ns = effect.at_ns
        self.timeline.at(effect.at_ns, partial(self._ring, effect.at_ns))

    def _ring(self, alarm_ns: int) -> None:
        if self._alarm_ns == alarm_ns:  # else another took its place
            self._alarm_ns = None
            self.feed(TimerFired())

    def _set_drained(self, effect: Drained) -> None:
        self.drained += 1


def _nothing(effect: Effect) -> None:
    """Words for a client: nobody reads them here."""
