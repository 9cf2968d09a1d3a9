"""Watches a world and keeps books of its own: what the engine may say, and what servers must see.

It knows the rules as the documents state them and nothing of how the engine keeps them. Whatever
does not fit raises Wrong, in the turn in which it happens.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from broker.core import errors
from broker.core.effects import (
    AbortAttempt,
    AbortLoad,
    Admit,
    Effect,
    Finish,
    Load,
    Refuse,
    Renew,
    StartAttempt,
    TakeOver,
    TellQueued,
    TellRequeued,
    Unload,
    WaitReason,
)
from broker.core.placement import HOLD_DOUBLED_MAX
from broker.core.requests import AttemptId, Outcome, RequestKey
from broker.core.stimuli import (
    Arrived,
    AttemptEnded,
    BackendSeen,
    BlockAsked,
    CancelAsked,
    DrainAsked,
    LoadEnded,
    ModelsListed,
    ResidentsSeen,
    Stimulus,
    TimerFired,
    UnloadEnded,
)
from broker.sim.workload import Task
from tests.sim.books import Books, Held, Live, must
from tests.sim.gate_watch import BY_THE_GATES, GateWatch
from tests.sim.retry_watch import RetryWatch
from tests.sim.scenario import Scenario


class Oracle:
    """`digest` sums up everything that the engine said, and when."""

    def __init__(self, scenario: Scenario, gates: GateWatch, retries: RetryWatch) -> None:
        self.gates = gates
        self.retries = retries
        self.books = {site.name: Books() for site in scenario.sites}
        self.live: dict[RequestKey, Live] = {}
        self.endings: Counter[RequestKey] = Counter()
        self.outcomes: Counter[Outcome] = Counter()
        self.draining = False
        self.admitted = 0
        self._scenario = scenario
        self._tasks: dict[RequestKey, Task] = {}
        self._held: dict[AttemptId, Held] = {}
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
            Load: self._load,
            AbortLoad: self._abort_load,
            Unload: self._unload,
            Renew: self._renew,
        }

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
            self.gates.tell(effect)
        self.gates.entry.check()
        if isinstance(stimulus, Arrived):
            said = [each for each in effects if isinstance(each, Admit | Refuse | TakeOver)]
            must(len(said) == 1, f"an arrival was answered by {said}")
        wanted = self._wanted()
        for name, books in self.books.items():
            # Whoever waits behind an open breaker could not run, and keeps nothing there.
            books.pressed = {
                each for each in books.pressed & wanted if not self.retries.is_open(name, each)
            }

    def expect(self, tasks: Iterable[Task]) -> None:
        """These will arrive."""
        self._tasks.update((task.key, task) for task in tasks)

    # What the engine heard

    def _note(self, stimulus: Stimulus, now_ns: int) -> None:
        match stimulus:
            case BackendSeen():
                self.books[stimulus.backend].looked_at(is_up=stimulus.up)
            case ResidentsSeen():
                self._residents_seen(stimulus)
            case AttemptEnded():
                self._attempt_ended(stimulus, now_ns)
            case LoadEnded():
                self._load_ended(stimulus, now_ns)
            case UnloadEnded():
                books = self.books[stimulus.backend]
                books.unloading = ""
                if stimulus.error is None:
                    books.ours.pop(stimulus.runner, None)
                self._lost(stimulus.backend, stimulus.error)
            case DrainAsked():
                self.draining = True

    def _residents_seen(self, seen: ResidentsSeen) -> None:
        """What idles, was ours when asked and is not listed, is ours no more, if not renewed."""
        scenario, books = self._scenario, self.books[seen.backend]
        specs = [scenario.spec(seen.backend, each.name) for each in seen.residents]
        listed = {each.runner for each in specs if each}
        busy = {each.runner for each in self._held.values() if each.backend == seen.backend}
        kept = listed | busy | {books.unloading}
        for runner in listed:
            books.listed_ns[runner] = max(books.listed_ns.get(runner, 0), seen.asked_ns)
        for runner, since_ns in list(books.ours.items()):
            # Since when nothing runs on it that may not have ended although its call has.
            idle_ns = books.used_ns.get(runner, 0) + self._scenario.policy.placement.slot_grace_ns
            may_return = books.renewed_ns.get(runner, -1) > books.listed_ns.get(runner, -1)
            if runner in kept or may_return:
                continue
            if max(since_ns, idle_ns) < seen.asked_ns:
                del books.ours[runner]

    def _attempt_ended(self, ended: AttemptEnded, now_ns: int) -> None:
        held = self._held.pop(ended.attempt)
        self.books[held.backend].used_ns[held.runner] = now_ns
        live = self.live.get(held.key)
        if live is None or live.attempt != ended.attempt:
            return  # it was told to end
        self._lost(held.backend, ended.error)
        if ended.error is None:
            task = live.task
            output_tokens = min(task.output_tokens, held.cut_to or task.output_tokens)
            must(
                (ended.prompt_tokens, ended.output_tokens) == (task.prompt_tokens, output_tokens),
                f"{held.key} got an answer of another size",
            )

    def _load_ended(self, ended: LoadEnded, now_ns: int) -> None:
        books = self.books[ended.backend]
        must(books.loading == ended.runner, f"a load of {ended.runner} ended that was not asked")
        books.loading = ""
        if ended.error is None:
            books.has_loaded(ended.runner, now_ns)
        elif isinstance(ended.error, errors.LoadFailed) and not books.is_aborting:
            books.load_failed_ns[ended.runner] = now_ns
        books.is_aborting = False
        self._lost(ended.backend, ended.error)

    def _lost(self, backend: str, error: errors.BrokerError | None) -> None:
        if isinstance(error, errors.BackendUnreachable):
            self.books[backend].up = False

    # The way in

    def _admit(self, effect: Admit, stimulus: Stimulus, now_ns: int) -> None:
        must(isinstance(stimulus, Arrived), "something was admitted that did not arrive")
        task = self._tasks[effect.key]
        must(effect.key not in self.live, f"{effect.key} was admitted twice")
        found = self._refusals(task, now_ns)
        against = set(found) - {errors.LoadFailed, errors.CircuitOpen}
        if self._scenario.loses_models:
            against -= {errors.ModelUnknown}
        must(not against, f"{effect.key} was admitted in spite of {found}")
        spec = stimulus.spec if isinstance(stimulus, Arrived) else None
        must(spec is not None and spec.key == effect.key, f"{effect.key} did not arrive")
        if spec is not None:
            self.admitted += 1
            line = self._scenario.line(task)
            self.live[effect.key] = Live(task, spec, line)

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
        allowed = (*self._refusals(self._tasks[key], now_ns), *BY_THE_GATES)
        if self._scenario.loses_models and not all(each.up for each in self.books.values()):
            allowed = (*allowed, errors.NoBackend)  # those that answer may have lost it
        must(isinstance(effect.error, allowed), f"{key} was refused: {effect.error!r}")

    def _refusals(self, task: Task, now_ns: int) -> tuple[type[errors.BrokerError], ...]:
        """Every reason for which this task is to be refused now, of which one is said. LoadFailed
        is none where the model came to be there all the same, which is for the engine to know."""
        scenario, found = self._scenario, list[type[errors.BrokerError]]()
        if self.draining:
            found.append(errors.Draining)
        having = [name for name in self.books if scenario.spec(name, task.model)]
        up = [name for name in having if self.books[name].up]
        if not having or self._scenario.loses_models:
            found.append(errors.ModelUnknown)
        if not up:
            found.append(errors.NoBackend)
        elif task.num_ctx_needed > scenario.num_ctx_max(task.model):
            found.append(errors.InvalidRequest)
        runner = scenario.line(task)[0]
        if any(self.retries.is_open(name, runner) for name in up):
            found.append(errors.CircuitOpen)
        # The longest; how often it has failed in a row is for the engine to know.
        hold_ns = scenario.policy.placement.failed_load_hold_ns << HOLD_DOUBLED_MAX
        failed = [self.books[name].load_failed_ns.get(runner, -hold_ns) for name in up]
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
        runner, size = live.line
        must(live.attempt is None, f"{effect.key} was started while it ran")
        books = self.books[effect.backend]
        must(books.up, f"{effect.key} was sent to {effect.backend}, which is down")
        must(runner not in (books.loading, books.unloading), f"{runner} was switching")
        spec = self._scenario.spec(effect.backend, live.task.model)
        must(spec is not None, f"{effect.key} was sent where its model is not")
        if spec is not None:
            # Where its own name is gone, the same file may have another.
            is_named = effect.model == spec.name or self._scenario.loses_models
            must(is_named, f"{effect.key} was sent under the name {effect.model}")
            running = sum(
                (each.backend, each.runner) == (effect.backend, runner)
                for each in self._held.values()
            )
            must(running < spec.slots, f"{runner} on {effect.backend} has no free slot")
        if size:
            must((effect.num_ctx or 0) >= live.task.num_ctx_needed, f"{effect.key}: too small")
        self._check_turn(live)
        live.attempt = effect.attempt
        books.pressed.add(runner)
        cut_to = effect.output_tokens_max
        must((cut_to is not None) == self.gates.is_cut(live.spec), f"{effect.key}: no such cut")
        self._held[effect.attempt] = Held(effect.key, effect.backend, runner, cut_to)

    def _check_turn(self, live: Live) -> None:
        """First come, first served, or by deadline, among an agent's requests of one class."""
        for other in self.live.values():
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
            case Outcome.EXPIRED:
                fits = now_ns == due_ns
            case Outcome.CANCELLED:
                fits = isinstance(stimulus, CancelAsked) and stimulus.key == effect.key
                fits |= isinstance(stimulus, BlockAsked) and stimulus.cancels_waiting
            case Outcome.DISPLACED | Outcome.REFUSED:
                fits = True  # which the watch at the gates judges
            case Outcome.FAILED:
                fits = isinstance(stimulus, AttemptEnded | LoadEnded) and bool(stimulus.error)
                is_unknown = isinstance(effect.error, errors.ModelUnknown)
                may_be_gone = isinstance(stimulus, ModelsListed | TimerFired)
                fits |= may_be_gone and is_unknown and self._scenario.loses_models
            case _:
                fits = False
        must(fits, f"{effect.key} ended as {effect.outcome} upon {stimulus!r}")

    def _count_ending(self, key: RequestKey, outcome: Outcome) -> None:
        self.endings[key] += 1
        self.outcomes[outcome] += 1
        must(self.endings[key] == 1, f"{key} ended {self.endings[key]} times")

    # The models

    def _wanted(self) -> set[str]:
        """Runners for which somebody waits who could run, with no more than the usual context."""
        return {
            each.line[0]
            for key, each in self.live.items()
            if not (each.line[1] or each.is_apart) and self.gates.may_run(key)
        }

    def _is_wanted(self, runner: str) -> bool:
        """Does anybody wait for it who could run?"""
        return any(
            each.line[0] == runner and self.gates.may_run(key) for key, each in self.live.items()
        )

    def _load(self, effect: Load, stimulus: Stimulus, now_ns: int) -> None:
        books = self.books[effect.backend]
        must(books.up, f"a load was asked of {effect.backend}, which is down")
        must(not books.loading, f"{effect.runner} is to be loaded beside {books.loading}")
        must(not books.unloading, f"{effect.runner} is to be loaded while something leaves")
        must(self._is_wanted(effect.runner), f"{effect.runner} is to be loaded for nobody")
        failed_ns = books.load_failed_ns.get(effect.runner)
        hold_ns = self._scenario.policy.placement.failed_load_hold_ns
        held = failed_ns is not None and now_ns < failed_ns + hold_ns
        must(not held, f"{effect.runner} is loaded again at once after it failed")
        books.loading, books.loads = effect.runner, books.loads + 1
        books.loading_since_ns = now_ns

    def _abort_load(self, effect: AbortLoad, stimulus: Stimulus, now_ns: int) -> None:
        books = self.books[effect.backend]
        must(books.loading == effect.runner, f"no load of {effect.runner} is there to abort")
        wanted = self._is_wanted(effect.runner)
        must(not wanted, f"the load of {effect.runner} was aborted, and somebody waits for it")
        books.is_aborting = True

    def _unload(self, effect: Unload, stimulus: Stimulus, now_ns: int) -> None:
        books = self.books[effect.backend]
        must(books.up, f"an unload was asked of {effect.backend}, which is down")
        must(not books.loading, f"{effect.runner} is to leave while {books.loading} loads")
        must(not books.unloading, f"{effect.runner} is to leave beside {books.unloading}")
        if not self._scenario.is_exclusive(effect.backend):
            must(effect.runner in books.ours, f"{effect.runner} is not ours to unload")
        serves = not self.retries.is_open(effect.backend, effect.runner)
        serves = serves and (effect.backend, effect.runner) not in self.retries.cures
        if serves and effect.runner in (wanted := self._wanted()) & books.pressed:
            must(len(wanted) > 1, f"{effect.runner} is to leave, and nobody waits but for it")
            shortest_ns = min(each.load_ns_min for each in self.books.values())
            books.check_cut(effect.runner, shortest_ns, now_ns)
        running = [each for each in self._held.values() if each.backend == effect.backend]
        for each in running:
            must(each.runner != effect.runner, f"{effect.runner} is to leave while it works")
        books.unloading = effect.runner

    def _renew(self, effect: Renew, stimulus: Stimulus, now_ns: int) -> None:
        spec = self._scenario.spec(effect.backend, effect.model)
        books = self.books[effect.backend]
        must(books.up, f"a renewal was asked of {effect.backend}, which is down")
        if spec is not None:
            leaving = spec.runner in (books.loading, books.unloading)
            must(not leaving, f"the keep_alive of {effect.model} was renewed while it switched")
            books.renewed_ns[spec.runner] = now_ns
