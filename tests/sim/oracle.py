"""Watches a world and keeps books of its own: what the engine may say, and what servers must see.

It knows the rules as the documents state them and nothing of how the engine keeps them. Whatever
does not fit raises Wrong, in the turn in which it happens.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from broker.core import errors
from broker.core.effects import (
    AbortAttempt,
    Admit,
    Effect,
    Finish,
    Refuse,
    StartAttempt,
    TakeOver,
    TellQueued,
    TellRequeued,
    WaitReason,
)
from broker.core.placement import HOLD_DOUBLED_MAX
from broker.core.requests import AttemptId, Outcome, RequestKey
from broker.core.stimuli import (
    Arrived,
    AttemptEnded,
    BlockAsked,
    CancelAsked,
    DrainAsked,
    LoadEnded,
    ModelsListed,
    Stimulus,
    TimerFired,
)
from broker.sim.workload import Task
from tests.sim.books import Books, Held, Live, must
from tests.sim.gate_watch import BY_THE_GATES, GateWatch
from tests.sim.model_watch import ModelWatch
from tests.sim.retry_watch import RetryWatch
from tests.sim.scenario import Scenario


class Oracle:
    """`digest` sums up everything that the engine said, and when."""

    def __init__(self, scenario: Scenario, gates: GateWatch, retries: RetryWatch) -> None:
        self.gates = gates
        self.retries = retries
        self.live: dict[RequestKey, Live] = {}
        self.endings: Counter[RequestKey] = Counter()
        self.outcomes: Counter[Outcome] = Counter()
        self.draining = False
        self.admitted = 0
        self._scenario = scenario
        self._tasks: dict[RequestKey, Task] = {}
        self._held: dict[AttemptId, Held] = {}
        self.models = ModelWatch(scenario, retries, self._held, self)
        self._digest = hashlib.sha256()
        self._rules: dict[type[Effect], Callable[[Any, Stimulus, int], None]] = {
            Admit: self._admit,
            Refuse: self._refuse,
            TakeOver: self._take_over,
            TellRequeued: self._requeued,
            TellQueued: self._queued,
            StartAttempt: self._start,
            AbortAttempt: self._abort,
            Finish: self._finish,
        }

    @property
    def books(self) -> dict[str, Books]:
        """Of each backend."""
        return self.models.books

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def turned(self, stimulus: Stimulus, effects: Sequence[Effect], now_ns: int) -> None:
        self._digest.update(f"{now_ns} {stimulus!r} {effects!r}\n".encode())
        self._note(stimulus, now_ns)
        self.gates.hear(stimulus, effects, now_ns)
        self.retries.turned(stimulus, effects)
        for effect in effects:
            rule = self._rules.get(type(effect))
            if rule is not None:
                rule(effect, stimulus, now_ns)
            self.models.tell(effect, now_ns)
            self.gates.tell(effect)
        self.gates.entry.check()
        if isinstance(stimulus, Arrived):
            said = [each for each in effects if isinstance(each, Admit | Refuse | TakeOver)]
            must(len(said) == 1, f"an arrival was answered by {said}")
        self.models.keep_pressed()

    def expect(self, tasks: Iterable[Task]) -> None:
        """These will arrive."""
        self._tasks.update((task.key, task) for task in tasks)

    # What the engine heard

    def _note(self, stimulus: Stimulus, now_ns: int) -> None:
        self.models.note(stimulus, now_ns)
        match stimulus:
            case AttemptEnded():
                self._attempt_ended(stimulus, now_ns)
            case DrainAsked():
                self.draining = True

    def _attempt_ended(self, ended: AttemptEnded, now_ns: int) -> None:
        held = self._held.pop(ended.attempt)
        self.books[held.backend].used_ns[held.runner] = now_ns
        live = self.live.get(held.key)
        if live is None or live.attempt != ended.attempt:
            return  # it was told to end
        self.models.lost(held.backend, ended.error)
        if ended.error is None:
            task = live.task
            output_tokens = min(task.output_tokens, held.cut_to or task.output_tokens)
            must(
                (ended.prompt_tokens, ended.output_tokens) == (task.prompt_tokens, output_tokens),
                f"{held.key} got an answer of another size",
            )

    # The way in

    def _admit(self, effect: Admit, stimulus: Stimulus, now_ns: int) -> None:
        must(isinstance(stimulus, Arrived), "something was admitted that did not arrive")
        task = self._tasks[effect.key]
        must(effect.key not in self.live, f"{effect.key} was admitted twice")
        named = (task.model, *task.fallback_models)
        found = [self._refusals(task, each, now_ns) for each in named]
        may_come = any(not set(each) - self._ignorable for each in found)
        must(may_come, f"{effect.key} was admitted in spite of {found}")
        spec = stimulus.spec if isinstance(stimulus, Arrived) else None
        must(spec is not None and spec.key == effect.key, f"{effect.key} did not arrive")
        if spec is not None:
            self.admitted += 1
            line = self._scenario.line(task)
            self.live[effect.key] = Live(task, spec, line, self._scenario.runners(task))

    def _refuse(self, effect: Refuse, stimulus: Stimulus, now_ns: int) -> None:
        must(isinstance(stimulus, Arrived), "something was refused that did not arrive")
        if not isinstance(stimulus, Arrived):
            return
        key = stimulus.spec.key
        if (live := self.live.get(key)) is not None:
            differs = live.spec.fingerprint != stimulus.spec.fingerprint
            must(differs, f"{key} came again and was refused")
            must(isinstance(effect.error, errors.RequestIdInUse), f"{key}: {effect.error!r}")
            self.outcomes[Outcome.REFUSED] += 1  # of the second call; the first goes on
            return
        self._count_ending(key, Outcome.REFUSED)
        task = self._tasks[key]
        named = (task.model, *task.fallback_models)
        found = [why for each in named for why in self._refusals(task, each, now_ns)]
        allowed = (*found, *BY_THE_GATES)
        if self._scenario.loses_models and not all(each.is_open for each in self.books.values()):
            allowed = (*allowed, errors.NoBackend)  # those that answer may have lost it
        must(isinstance(effect.error, allowed), f"{key} was refused: {effect.error!r}")

    @property
    def _ignorable(self) -> set[type[errors.BrokerError]]:
        """Reasons to refuse of which the oracle does not know for sure that they hold."""
        found: set[type[errors.BrokerError]] = {errors.LoadFailed, errors.CircuitOpen}
        if self._scenario.loses_models:
            found.add(errors.ModelUnknown)
        if (
            self._scenario.moves_backends
        ):  # what only one that leaves has is forgotten a little later
            found.add(errors.NoBackend)
        return found

    def _refusals(
        self, task: Task, model: str, now_ns: int
    ) -> tuple[type[errors.BrokerError], ...]:
        """Every reason for which this model is not to be asked now, of which one is said. Not
        LoadFailed where it came to be there all the same, which is for the engine to know."""
        scenario, found = self._scenario, list[type[errors.BrokerError]]()
        if self.draining:
            found.append(errors.Draining)
        having = [name for name in self.books if scenario.spec(name, model)]
        up = [name for name in having if self.books[name].is_open]
        if not having or self._scenario.loses_models:
            found.append(errors.ModelUnknown)
        if not up:
            found.append(errors.NoBackend)
        elif task.num_ctx_needed > scenario.num_ctx_max(model):
            found.append(errors.InvalidRequest)
        runner = scenario.line(replace(task, model=model))[0]
        if any(self.retries.is_open(name, runner) for name in up):
            found.append(errors.CircuitOpen)
        # The longest; how often it has failed in a row is for the engine to know.
        hold_ns = scenario.policy.placement.failed_load_hold_ns << HOLD_DOUBLED_MAX
        failed = [self.books[name].held_ns(runner, -hold_ns) for name in up]
        if up and all(now_ns - each < hold_ns for each in failed):
            found.append(errors.LoadFailed)
        return tuple(found)

    def _take_over(self, effect: TakeOver, stimulus: Stimulus, now_ns: int) -> None:
        live = self.live[effect.key]
        must(isinstance(stimulus, Arrived), "something was taken over that did not come again")
        if isinstance(stimulus, Arrived):
            same = live.spec.fingerprint == stimulus.spec.fingerprint
            must(same, f"{effect.key} was taken over by a call with other content")
            live.spec = stimulus.spec

    # The slots

    def _start(self, effect: StartAttempt, stimulus: Stimulus, now_ns: int) -> None:
        live = self.live[effect.key]
        must(live.attempt is None, f"{effect.key} was started while it ran")
        books = self.books[effect.backend]
        books.check_reachable(f"{effect.key} was sent to {effect.backend}")
        spec = self._scenario.spec(effect.backend, effect.model)
        must(spec is not None, f"{effect.key} was sent where {effect.model} is not")
        runner = spec.runner if spec is not None else ""
        must(
            runner in live.runners,
            f"{effect.key} was sent to {effect.model}, which it does not take",
        )
        must(runner not in (books.loading, books.unloading), f"{runner} was switching")
        if spec is not None:
            # Where its own name is gone, the same file may have another.
            named = (live.task.model, *live.task.fallback_models)
            is_named = effect.model in named or self._scenario.loses_models
            must(is_named, f"{effect.key} was sent under the name {effect.model}")
            running = sum(
                (each.backend, each.runner) == (effect.backend, runner)
                for each in self._held.values()
            )
            must(running < spec.slots, f"{runner} on {effect.backend} has no free slot")
        if live.line[1]:
            must((effect.num_ctx or 0) >= live.task.num_ctx_needed, f"{effect.key}: too small")
        self._check_turn(live)
        live.attempt = effect.attempt
        books.pressed.add(runner)
        cut_to = effect.output_tokens_max
        must((cut_to is not None) == self.gates.is_cut(live.spec), f"{effect.key}: no such cut")
        self._held[effect.attempt] = Held(effect.key, effect.backend, runner, cut_to)

    def _check_turn(self, live: Live) -> None:
        """First come, first served, or by deadline, among an agent's requests of one class; who
        takes several models may wait for any."""
        if live.is_flexible:
            return
        for other in self.live.values():
            if other.is_flexible:
                continue
            if other.attempt is None and self._place(other) == self._place(live):
                is_first = self._rank(live) <= self._rank(other)
                must(is_first, f"{live.task.key} overtook {other.task.key} of the same agent")

    def _place(self, live: Live) -> tuple[object, ...]:
        known = self.gates.entry.live[live.task.key]
        return live.line, live.task.agent_id, known.priority, known.compartment, known.where

    def _rank(self, live: Live) -> int:
        return self.gates.entry.live[live.task.key].rank

    def _abort(self, effect: AbortAttempt, stimulus: Stimulus, now_ns: int) -> None:
        must(effect.attempt in self._held, f"attempt {effect.attempt} was aborted in vain")

    def _requeued(self, effect: TellRequeued, stimulus: Stimulus, now_ns: int) -> None:
        """Whether it may be is for the watch over retries to say."""
        live = self.live[effect.key]
        if live.attempt is not None:  # else it waits, and only what it was told is void
            live.attempt, live.is_apart = None, True

    def _queued(self, effect: TellQueued, stimulus: Stimulus, now_ns: int) -> None:
        if effect.key in self.live:
            self.live[effect.key].is_apart = effect.reason is WaitReason.BACKOFF

    # The end

    def _finish(self, effect: Finish, stimulus: Stimulus, now_ns: int) -> None:
        live = self.live.pop(effect.key, None)
        must(live is not None, f"{effect.key} ended twice, or never began")
        due_ns = self._scenario.first_turn_ns(live.spec.deadline_ns) if live is not None else 0
        in_time = live is not None and now_ns <= due_ns
        must(in_time, f"{effect.key} outlived its deadline")
        self._count_ending(effect.key, effect.outcome)
        match effect.outcome:
            case Outcome.COMPLETED:
                fits = isinstance(stimulus, AttemptEnded) and stimulus.error is None
            case Outcome.EXPIRED:  # or before, while it waits, where it would surely be late
                waits = live is not None and live.attempt is None
                is_late = waits and isinstance(effect.error, errors.DeadlineExpired)
                fits = now_ns == due_ns or is_late
            case Outcome.CANCELLED:
                fits = isinstance(stimulus, CancelAsked) and stimulus.key == effect.key
                fits |= isinstance(stimulus, BlockAsked) and stimulus.cancels_waiting
            case Outcome.DISPLACED | Outcome.REFUSED:
                fits = True  # which the watch at the gates judges
            case Outcome.FAILED:
                fits = isinstance(stimulus, AttemptEnded | LoadEnded) and bool(stimulus.error)
                is_unknown = isinstance(effect.error, errors.ModelUnknown)
                may_be_gone = isinstance(stimulus, ModelsListed | TimerFired)
                may_be_gone |= self._scenario.moves_backends
                fits |= may_be_gone and is_unknown and self._scenario.loses_models
            case _:
                fits = False
        must(fits, f"{effect.key} ended as {effect.outcome} upon {stimulus!r}")

    def _count_ending(self, key: RequestKey, outcome: Outcome) -> None:
        self.endings[key] += 1
        self.outcomes[outcome] += 1
        must(self.endings[key] == 1, f"{key} ended {self.endings[key]} times")

    # What is waited for

    def wanted(self) -> set[str]:
        """Runners for which somebody waits who could run, with no more than the usual context, and
        takes no other."""
        return {each.line[0] for each in self._waiting() if not each.is_flexible}

    def may_be_wanted(self) -> set[str]:
        """Runners that somebody who waits so would take."""
        return {runner for each in self._waiting() for runner in each.runners}

    def _waiting(self) -> Iterator[Live]:
        return (
            each
            for key, each in self.live.items()
            if not (each.line[1] or each.is_apart) and self.gates.may_run(key)
        )

    def is_wanted(self, runner: str) -> bool:
        """Does anybody wait for it who could run, and takes no other?"""
        return any(
            each.runners == {runner} and self.gates.may_run(key) for key, each in self.live.items()
        )

    def is_taken(self, runner: str) -> bool:
        """Is there anybody who could run and takes it?"""
        return any(
            runner in each.runners and self.gates.may_run(key) for key, each in self.live.items()
        )
