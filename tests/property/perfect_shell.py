"""A shell that does exactly what the engine says, and holds every effect against its own books.

The books say what is under way. An effect that they do not allow fails at once: these are the laws
of the engine as seen from outside, told without looking into it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from broker.core import invariants
from broker.core.effects import (
    AbortAttempt,
    AbortLoad,
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
    TellSlowDown,
    Unload,
)
from broker.core.engine import Engine
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.policy import EnginePolicy
from broker.core.queueing import QueuePolicy
from broker.core.requests import AttemptId, Outcome, RequestKey
from broker.core.stimuli import (
    AttemptEnded,
    BackendSeen,
    ModelsListed,
    ModelSpec,
    ResidentsSeen,
    Stimulus,
)
from tests.unit.core.scene import MINUTE_NS, SECOND_NS

POLICY: Final = EnginePolicy(
    backends=(
        BackendPolicy(name="b1", resident_max=2, memory_bytes=5000),
        BackendPolicy(name="b2", exclusive=True),
    ),
    queue=QueuePolicy(queued_max=6, live_max=40),
    placement=PlacementPolicy(num_ctx_hold_ns=2 * MINUTE_NS),
)
GRACE_NS: Final = POLICY.placement.slot_grace_ns


def spec(name: str, slots: int, size_bytes: int, *, runner: str = "") -> ModelSpec:
    return ModelSpec(
        name=f"{name}:latest",
        runner=runner or f"blob-{name}",
        size_bytes=size_bytes,
        slots=slots,
        num_ctx_max=8192,
    )


MODELS: Final = (spec("m", 1, 1000), spec("n", 2, 1500), spec("o", 1, 4000))


@dataclass(slots=True, kw_only=True)
class Call:
    """A backend call that the shell makes for an attempt."""

    key: RequestKey
    backend: str
    runner: str
    has_token: bool = False
    is_aborted: bool = False


@dataclass(slots=True)
class Server:
    """A backend as it really is."""

    listed: tuple[ModelSpec, ...] = MODELS
    loaded: dict[str, str] = field(default_factory=dict)  # runner -> "us" or "others"
    switching: Load | Unload | None = None
    old_list: ResidentsSeen | None = None  # an answer that is on its way for long


class PerfectShell:
    """Books and laws."""

    def __init__(self) -> None:
        self.engine = Engine(POLICY)
        self.now_ns = SECOND_NS
        self.alarm_ns: int | None = None
        self.servers = {each.name: Server() for each in POLICY.backends}
        self.live: set[RequestKey] = set()
        self.calls: dict[AttemptId, Call] = {}
        self.graces: list[tuple[int, Call]] = []  # slots that come free at a time
        self.attempts_seen = 0
        self.admitted = 0
        self.finished = 0
        self.outcomes: list[Outcome] = []
        self.drained = 0
        self.ending: AttemptEnded | None = None
        self.story: list[tuple[Stimulus, int, str]] = []  # what was said, when, and the answer
        self._laws: dict[type[Effect], Callable[[Any], None]] = {
            Admit: self._admitted,
            Refuse: self._refused,
            TellQueued: self._told,
            TellSlowDown: self._told,
            TellRequeued: self._told,
            TakeOver: self._told,
            StartAttempt: self._start,
            AbortAttempt: self._abort,
            Finish: self._finish,
            Load: self._load,
            AbortLoad: self._abort_load,
            Unload: self._unload,
            Renew: self._renew,
            SetTimer: self._set_timer,
            Drained: self._drained,
        }
        for name in self.servers:
            self.feed(ModelsListed(name, MODELS))
            self.feed(BackendSeen(name, True))

    def feed(self, stimulus: Stimulus) -> None:
        """One turn, its effects held against the books, and the engine's own laws."""
        effects = self.engine.handle(stimulus, self.now_ns)
        self.story.append((stimulus, self.now_ns, repr(effects)))
        for effect in effects:
            self._laws[type(effect)](effect)
        invariants.check(self.engine)

    # The laws

    def _refused(self, effect: Refuse) -> None:
        self.outcomes.append(Outcome.REFUSED)

    def _admitted(self, effect: Admit) -> None:
        assert effect.key not in self.live
        self.live.add(effect.key)
        self.admitted += 1

    def _told(self, effect: TellQueued | TellSlowDown | TellRequeued | TakeOver) -> None:
        assert effect.key in self.live
        if isinstance(effect, TellQueued):
            assert effect.position >= 1

    def _start(self, effect: StartAttempt) -> None:
        assert effect.attempt > self.attempts_seen
        self.attempts_seen = effect.attempt
        assert effect.key in self.live
        assert all(each.key != effect.key or each.is_aborted for each in self.calls.values())
        server = self.servers[effect.backend]
        runner = {each.name: each.runner for each in server.listed}[effect.model]
        assert server.switching is None or server.switching.runner != runner
        slots = next(each.slots for each in server.listed if each.runner == runner)
        assert self._held(effect.backend, runner) < slots, "two attempts for one slot"
        self.calls[effect.attempt] = Call(key=effect.key, backend=effect.backend, runner=runner)

    def _held(self, backend: str, runner: str) -> int:
        calls = [
            *self.calls.values(),
            *(call for until, call in self.graces if until > self.now_ns),
        ]
        return sum(each.backend == backend and each.runner == runner for each in calls)

    def _abort(self, effect: AbortAttempt) -> None:
        call = self.calls[effect.attempt]
        assert not call.is_aborted
        call.is_aborted = True

    def _finish(self, effect: Finish) -> None:
        self.live.remove(effect.key)  # KeyError: ended twice, or never admitted
        self.outcomes.append(effect.outcome)
        self.finished += 1
        is_complete = effect.outcome is Outcome.COMPLETED
        assert (effect.error is None) == is_complete
        if is_complete:
            assert self.ending is not None
            assert self.ending.error is None

    def _load(self, effect: Load) -> None:
        server = self.servers[effect.backend]
        assert server.switching is None, "a load beside another switch"
        assert any(each.runner == effect.runner for each in server.listed)
        server.switching = effect

    def _abort_load(self, effect: AbortLoad) -> None:
        switching = self.servers[effect.backend].switching
        assert isinstance(switching, Load), "no load is under way"
        assert switching.runner == effect.runner

    def _unload(self, effect: Unload) -> None:
        server = self.servers[effect.backend]
        assert server.switching is None, "an unload beside another switch"
        assert self._held(effect.backend, effect.runner) == 0, "an unload under running work"
        is_whole = self.engine.backends[effect.backend].policy.exclusive
        owner = server.loaded.get(effect.runner, "us")  # it may have left by itself
        assert owner == "us" or is_whole, "an unload of what others loaded"
        server.switching = effect

    def _renew(self, effect: Renew) -> None:
        server = self.servers[effect.backend]
        assert not (isinstance(server.switching, Unload) and server.switching.model == effect.model)

    def _set_timer(self, effect: SetTimer) -> None:
        self.alarm_ns = effect.at_ns

    def _drained(self, effect: Drained) -> None:
        assert not self.live
        assert not self.calls
        self.drained += 1
