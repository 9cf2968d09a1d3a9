"""Loads what will probably be asked for before anybody asks, and counts what came of it.

Only where nothing waits that the backend could run, nothing is loaded or unloaded there, and the
level is normal. What is loaded, and what makes way for it, `preload_choice.py` says. Whoever comes
goes before it: a load that would keep them waiting is ended (`switching.py`), and one that they
want is theirs. It is looked at by a timer, not in each turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from broker.core.backlog import Backlog
from broker.core.effects import AbortLoad, Effect, KeepLearned, TellSwitch
from broker.core.estimates import Estimates
from broker.core.habits import Habits
from broker.core.healing import Health
from broker.core.level import Level
from broker.core.lifecycle import WAITS
from broker.core.placement import BackendState
from broker.core.preload import SECOND_NS, Forecast, PreloadPolicy
from broker.core.preload_choice import Choices
from broker.core.record import Record
from broker.core.requests import RequestKey
from broker.core.residency import Residency, ResidencyState, SwitchStep
from broker.core.stimuli import PreloadLearned, WallClockSet
from broker.core.switching import Switching
from broker.core.timers import Timers
from broker.core.vanishings import losses_lately

# How often it is looked at while something runs or has just come, and while nothing has: then only
# the hour changes.
LOOK_NS: Final = 500_000_000
REST_NS: Final = 15 * SECOND_NS

# A server that has lately lost so many models that nobody told to leave is left alone.
LOSSES_MAX: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PreloadsView:
    """What came of it since start. `made`: loads that ended well; `used`: those that a request
    found there, `wasted`: those that left without; the rest is still there. `aborted`: ended before
    their time, as others came. `demanded`: loads that requests waited for."""

    is_enabled: bool
    held_because: str
    made: int
    used: int
    wasted: int
    aborted: int
    failed: int
    demanded: int

    @property
    def hit_percent(self) -> float | None:
        """Of 100 loads that requests would have waited for, so many were there before."""
        all_ = self.used + self.demanded
        return 100.0 * self.used / all_ if all_ else None


class Preloads:
    """See the module. `level` says which holds, `is_draining` whether the broker leaves; `emit`
    takes effects."""

    def __init__(
        self,
        policy: PreloadPolicy,
        backends: Mapping[str, BackendState],
        backlog: Backlog,
        records: Mapping[RequestKey, Record],
        switching: Switching,
        estimates: Estimates,
        timers: Timers,
        level: Callable[[], Level],
        is_draining: Callable[[], bool],
        emit: Callable[[Effect], None],
    ) -> None:
        self.policy = policy
        self.habits = Habits(policy)
        self._choices = Choices(policy, backends, estimates)
        self.made = self.used = self.wasted = 0
        self.aborted = self.failed = self.demanded = 0
        self._backends = backends
        self._backlog = backlog
        self._records = records
        self._switching = switching
        self._timers = timers
        self._level = level
        self._is_draining = is_draining
        self._emit = emit
        self._timer = 0
        self._due_ns = 0  # when it goes off
        self._busy_ns: dict[str, int] = {}  # when something last waited, by backend
        self._forecasts: Mapping[str, Forecast] = {}  # as they were at `_forecast_ns`
        self._forecast_ns = 0
        self._kept = 0  # how many slots were over when the habits were last told to be kept

    def configure(self, policy: PreloadPolicy, now_ns: int) -> None:
        """From now on this holds."""
        self.policy = self._choices.policy = policy
        self.habits.configure(policy)
        for name in self._busy_ns.keys() - self._backends.keys():
            del self._busy_ns[name]
        if policy.is_enabled:
            self._arm(now_ns + LOOK_NS, now_ns)
        else:
            self.give_up()

    def clock_set(self, heard: WallClockSet, now_ns: int) -> None:
        """The time of day is known, or another one."""
        if self.policy.is_enabled:
            self.habits.clock_set(heard.offset_ns, now_ns)

    def restore(self, heard: PreloadLearned, now_ns: int) -> None:
        """What the broker before this one has learned."""
        self.habits.restore(heard.learned)
        if self.policy.is_enabled:
            self._arm(now_ns + LOOK_NS, now_ns)

    # What is heard

    def asked(self, record: Record, now_ns: int) -> None:
        """A request was let in."""
        if not self.policy.is_enabled:
            return
        self.habits.asked(record.model, record.agent.id, now_ns)
        self._choices.asked(record.line[0])
        if self._due_ns > now_ns + LOOK_NS or not self._timer:
            self._arm(now_ns + LOOK_NS, now_ns)

    def loaded(self, residency: Residency) -> None:
        """A load of the broker's came to a good end."""
        if residency.is_ahead_of_need:
            self.made += 1
        elif not residency.is_wished:
            self.demanded += 1

    def started(self, record: Record, residency: Residency) -> None:
        """A request found there what was loaded ahead of its need."""
        if residency.is_ahead_of_need:
            residency.is_ahead_of_need = False
            residency.ahead_for = record.spec.key
            self.used += 1
            self._choices.came_true(residency.runner, is_used=True)

    def left(self, residency: Residency) -> None:
        """It is there no longer, or its load came to nothing."""
        if residency.is_dismissed:
            self._choices.sent_away(residency.runner)
        if not residency.is_ahead_of_need:
            return
        if residency.state is not ResidencyState.LOADING:
            self.wasted += 1
            self._choices.came_true(residency.runner, is_used=False)
        elif residency.is_aborting:
            self.aborted += 1
        else:
            self.failed += 1

    def made_room(self, now_ns: int) -> None:
        """Something has left: what it left for may be loaded now."""
        if self.policy.is_enabled and not self._backlog.lines:
            self._arm(now_ns, now_ns)

    def leave(self) -> None:
        """The broker leaves: what was learned is for the next one."""
        self.give_up()
        if self.policy.is_enabled and len(self.habits):
            self._emit(KeepLearned(self.habits.learned()))

    def give_up(self) -> None:
        """Nothing is loaded ahead any more: what is being loaded so is ended."""
        for backend in self._backends.values():
            for each in backend.residents.values():
                is_loading = each.state is ResidencyState.LOADING and not each.is_aborting
                if is_loading and each.is_ahead_of_need and not self._is_wanted(each.runner):
                    each.is_aborting = True
                    self._emit(AbortLoad(backend.name, each.runner))

    def _is_wanted(self, runner: str) -> bool:
        return any(key[0] == runner for key in self._backlog.lines)

    def loss(self, backend: BackendState, residency: Residency, now_ns: int) -> float:
        """What the absence of a model would probably cost, in waits by the second: what is to leave
        for those who wait is what is worth least."""
        if not self.policy.is_enabled:
            return 0.0
        if now_ns - self._forecast_ns >= LOOK_NS or not self._forecasts:
            self._forecasts, self._forecast_ns = self.habits.forecasts(now_ns), now_ns
        return self._choices.loss_per_s(backend, residency, self._forecasts)

    # The looks

    def _arm(self, at_ns: int, now_ns: int) -> None:
        """The next look is then, if none is sooner."""
        if self._timer and now_ns <= self._due_ns <= at_ns:
            return
        self._timers.cancel(self._timer)
        self._due_ns = at_ns
        self._timer = self._timers.set(at_ns, self._look)

    def _look(self, _: None, now_ns: int) -> None:
        self._timer = 0
        if not self.policy.is_enabled:
            return
        habits = self.habits
        habits.roll(now_ns)
        if habits.closed != self._kept:
            self._kept = habits.closed
            self._choices.forgive()
            self._emit(KeepLearned(habits.learned()))
        ready = [each for each in self._backends.values() if self._is_idle(each, now_ns)]
        if ready and not self.held_because():
            forecasts = habits.forecasts(now_ns)
            for backend in ready:
                self._look_at(backend, forecasts, now_ns)
        if self._is_draining():
            return
        is_lively = any(each.up and not _is_quiet(each) for each in self._backends.values())
        self._arm(now_ns + (LOOK_NS if is_lively else REST_NS), now_ns)

    def held_because(self) -> str:
        """Why nothing may be loaded ahead of need, wherever; "" where something may."""
        if not self.policy.is_enabled:
            return "the configuration has it off"
        if self._level() is not Level.NORMAL:
            return f"the level is {self._level().word}"
        if self._is_draining():
            return "the broker leaves"
        return "" if len(self.habits) else "nothing has been learned yet"

    def _is_idle(self, backend: BackendState, now_ns: int) -> bool:
        """Has nothing waited for a while that it could run, and is nothing under way there?"""
        if self._is_waited_for(backend):
            self._busy_ns[backend.name] = now_ns
            return False
        if now_ns - self._busy_ns.get(backend.name, -self.policy.idle_ns) < self.policy.idle_ns:
            return False
        is_sound = backend.health is Health.WELL and not backend.healing and backend.may_load
        is_ours = backend.is_open and backend.is_listed and not backend.policy.keeps_models
        # Else others load there as well, and what is lost to them again and again is held off.
        is_left_alone = losses_lately(backend, now_ns) < LOSSES_MAX
        return is_sound and is_ours and is_left_alone and backend.is_at_rest

    def _is_waited_for(self, backend: BackendState) -> bool:
        """Does anything wait that it could run, or load: in a line, before the full queue, or for
        its next attempt? Be it only because it takes another model than the one it waits for."""
        here = backend.by_runner
        if any(key[0] in here for key in self._backlog.lines):
            return True
        return any(
            each.line[0] in here or any(other.line[0] in here for other in each.accepts)
            for each in self._records.values()
            if each.state in WAITS
        )

    def _look_at(
        self, backend: BackendState, forecasts: Mapping[str, Forecast], now_ns: int
    ) -> None:
        """Loads what is worth most, or has something leave for it."""
        choice = self._choices.best(backend, forecasts, now_ns)
        if choice is None:
            return
        if choice.leaving is None:
            self._load(backend, choice.runner, choice.forecast, now_ns)
        else:
            self._switching.let_go(backend, choice.leaving, now_ns)

    def _load(self, backend: BackendState, runner: str, expected: Forecast, now_ns: int) -> None:
        residency = self._switching.load_unasked(backend, runner, now_ns)
        residency.is_ahead_of_need = True
        residency.ahead_because = expected.why
        words = f"loaded ahead of need: {expected.why}"
        model, step = residency.model, SwitchStep.PRELOADED
        self._emit(TellSwitch(backend=backend.name, model=model, step=step, detail=words))

    # What is shown

    def view(self) -> PreloadsView:
        """For status and metrics."""
        return PreloadsView(
            is_enabled=self.policy.is_enabled and self._level() is Level.NORMAL,
            held_because=self.held_because(),
            made=self.made,
            used=self.used,
            wasted=self.wasted,
            aborted=self.aborted,
            failed=self.failed,
            demanded=self.demanded,
        )


def _is_quiet(backend: BackendState) -> bool:
    """Does nothing run there, and is nothing on its way?"""
    return backend.is_at_rest and not any(each.running for each in backend.residents.values())
