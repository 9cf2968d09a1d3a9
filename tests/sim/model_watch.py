"""Watches what is loaded where, and what leaves: with books of each backend of its own.

Rules: nothing is asked of a backend that is down or not configured; one load at a time and nothing
beside it; nothing is loaded for nobody but ahead of need; nobody's model leaves but ours, and not
while it works.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from broker.core import errors
from broker.core.effects import (
    AbortLoad,
    BackendGone,
    Effect,
    Load,
    Renew,
    TellSwitch,
    Unload,
)
from broker.core.requests import AttemptId
from broker.core.residency import SwitchStep
from broker.core.stimuli import (
    BackendSeen,
    LoadEnded,
    PolicyChanged,
    ResidentsSeen,
    Stimulus,
    UnloadEnded,
)
from tests.sim.books import Books, Held, must
from tests.sim.retry_watch import RetryWatch
from tests.sim.scenario import Scenario


class Wants(Protocol):
    """Who knows for which runners anybody waits who could run."""

    def wanted(self) -> set[str]:
        """Those for which somebody waits, with the usual context, who takes no other."""
        ...

    def may_be_wanted(self) -> set[str]:
        """Those that somebody who waits so would take."""
        ...

    def is_wanted(self, runner: str) -> bool:
        """Is there anybody, of whatever context, who takes no other?"""
        ...

    def is_taken(self, runner: str) -> bool:
        """Is there anybody who takes it?"""
        ...


class ModelWatch:
    """`books` are those of each backend; `held` the slots that are held, by attempt."""

    def __init__(
        self, scenario: Scenario, retries: RetryWatch, held: Mapping[AttemptId, Held], wants: Wants
    ) -> None:
        self.books = {site.name: Books() for site in scenario.sites}
        self._scenario = scenario
        self._retries = retries
        self._held = held
        self._wants = wants
        self._unasked: set[tuple[str, str]] = set()  # what was loaded for nobody, in this turn

    # What the engine heard

    def note(self, stimulus: Stimulus, now_ns: int) -> None:
        match stimulus:
            case BackendSeen():
                books = self.books[stimulus.backend]
                books.looked_at(is_up=stimulus.up and not books.is_unknown)
            case ResidentsSeen():
                self._residents_seen(stimulus)
            case LoadEnded():
                self._load_ended(stimulus, now_ns)
            case UnloadEnded():
                books = self.books[stimulus.backend]
                books.unloading = ""
                if stimulus.error is None:
                    books.ours.pop(stimulus.runner, None)
                self.lost(stimulus.backend, stimulus.error)
            case PolicyChanged():
                names = {each.name for each in stimulus.policy.backends}
                for name, books in self.books.items():
                    books.configured(is_there=name in names)

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

    def _load_ended(self, ended: LoadEnded, now_ns: int) -> None:
        books = self.books[ended.backend]
        must(books.loading == ended.runner, f"a load of {ended.runner} ended that was not asked")
        books.loading = ""
        if ended.error is None:
            books.has_loaded(ended.runner, now_ns)
        elif isinstance(ended.error, errors.LoadFailed) and not books.is_aborting:
            books.load_failed_ns[ended.runner] = now_ns
        books.is_aborting = False
        self.lost(ended.backend, ended.error)

    def lost(self, backend: str, error: errors.BrokerError | None) -> None:
        """A call to it ended so."""
        if isinstance(error, errors.BackendUnreachable):
            self.books[backend].up = False

    # What it says

    def tell(self, effect: Effect, now_ns: int) -> None:
        match effect:
            case Load():
                self._load(effect, now_ns)
            case TellSwitch(step=SwitchStep.PRELOADED):
                self._ahead_of_need(effect)
            case TellSwitch(step=SwitchStep.CONTESTED):
                spec = self._scenario.spec(effect.backend, effect.model)
                if spec is not None:
                    self.books[effect.backend].contested_ns[spec.runner] = now_ns
            case AbortLoad():
                self._abort_load(effect)
            case Unload():
                self._unload(effect, now_ns)
            case Renew():
                self._renew(effect, now_ns)
            case BackendGone():
                self._gone(effect.backend)

    def keep_pressed(self) -> None:
        """After each turn: what was loaded for nobody was said to be so; whoever waits behind an
        open breaker could not run, and keeps nothing there."""
        must(not self._unasked, f"{self._unasked} are loaded for nobody")
        wanted = self._wants.wanted()
        for name, books in self.books.items():
            books.pressed = {
                each for each in books.pressed & wanted if not self._retries.is_open(name, each)
            }

    def _load(self, effect: Load, now_ns: int) -> None:
        books = self.books[effect.backend]
        books.check_reachable(f"a load was asked of {effect.backend}")
        must(not books.loading, f"{effect.runner} is to be loaded beside {books.loading}")
        must(not books.unloading, f"{effect.runner} is to be loaded while something leaves")
        if not self._wants.is_taken(effect.runner):
            self._unasked.add((effect.backend, effect.model))
        failed_ns = books.load_failed_ns.get(effect.runner)
        hold_ns = self._scenario.policy.placement.failed_load_hold_ns
        held = failed_ns is not None and now_ns < failed_ns + hold_ns
        must(not held, f"{effect.runner} is loaded again at once after it failed")
        books.loading, books.loads = effect.runner, books.loads + 1
        books.loading_since_ns = now_ns

    def _ahead_of_need(self, told: TellSwitch) -> None:
        """Only where that is wanted, and where nobody waits whom the backend could serve."""
        is_on = self._scenario.policy.preload.is_enabled
        must(is_on, f"{told.model} is loaded ahead of need, which is switched off")
        self._unasked.discard((told.backend, told.model))
        here = {each.runner for each in self._scenario.site(told.backend).specs.values()}
        waiting = self._wants.may_be_wanted() & here
        must(not waiting, f"{told.model} is loaded ahead of need while {waiting} are waited for")

    def _abort_load(self, effect: AbortLoad) -> None:
        books = self.books[effect.backend]
        must(books.loading == effect.runner, f"no load of {effect.runner} is there to abort")
        wanted = self._wants.is_wanted(effect.runner) and not books.is_leaving
        must(not wanted, f"the load of {effect.runner} was aborted, and somebody waits for it")
        books.is_aborting = True

    def _unload(self, effect: Unload, now_ns: int) -> None:
        books = self.books[effect.backend]
        books.check_reachable(f"an unload was asked of {effect.backend}")
        must(not books.loading, f"{effect.runner} is to leave while {books.loading} loads")
        must(not books.unloading, f"{effect.runner} is to leave beside {books.unloading}")
        if not self._scenario.is_exclusive(effect.backend):
            must(effect.runner in books.ours, f"{effect.runner} is not ours to unload")
        serves = not self._retries.is_open(effect.backend, effect.runner)
        serves = serves and (effect.backend, effect.runner) not in self._retries.cures
        if serves and effect.runner in self._wants.wanted() & books.pressed:
            others = self._wants.may_be_wanted() - {effect.runner}
            must(others, f"{effect.runner} is to leave, and nobody waits but for it")
            shortest_ns = min(each.load_ns_min for each in self.books.values())
            books.check_cut(effect.runner, shortest_ns, now_ns)
        running = [each for each in self._held.values() if each.backend == effect.backend]
        for each in running:
            must(each.runner != effect.runner, f"{effect.runner} is to leave while it works")
        books.unloading = effect.runner

    def _renew(self, effect: Renew, now_ns: int) -> None:
        spec = self._scenario.spec(effect.backend, effect.model)
        books = self.books[effect.backend]
        books.check_reachable(f"a renewal was asked of {effect.backend}")
        if spec is not None:
            leaving = spec.runner in (books.loading, books.unloading)
            must(not leaving, f"the keep_alive of {effect.model} was renewed while it switched")
            books.renewed_ns[spec.runner] = now_ns

    def _gone(self, backend: str) -> None:
        """Nothing is under way there, and nothing of it is remembered."""
        books = self.books[backend]
        must(books.is_leaving, f"{backend} is gone, and was not to leave")
        must(not (books.loading or books.unloading), f"{backend} is gone while it switches")
        held = [each.key for each in self._held.values() if each.backend == backend]
        must(not held, f"{backend} is gone while {held} run there")
        self.books[backend] = Books(
            is_leaving=True, is_unknown=True, loads=books.loads, load_ns_min=books.load_ns_min
        )
        self._retries.gone(backend)
