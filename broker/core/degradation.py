"""The level: what the load asks for, what an operator has set, and when it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from broker.core.backlog import Backlog
from broker.core.effects import Effect, TellLevel
from broker.core.estimates import Estimates
from broker.core.gpu_load import GpuMemory, gpu_problem
from broker.core.host_load import HostLoad
from broker.core.level import DegradationPolicy, Level
from broker.core.level_steps import MODES, JoinedSteps, Mode, ModeTrigger
from broker.core.load import MEMORY_PARTS, queue_part, wait_part, worst_of
from broker.core.placement import BackendState
from broker.core.sensing import GpuReading, HostReading, SensorState
from broker.core.stimuli import GpusSensed, HostSensed, LevelAsked, LoadDue, Stimulus
from broker.core.timers import Timers
from broker.core.views import LevelView, LoadPart, SensorView

# Who is told to come again is told so at least this, lest a fleet asks in a loop.
RETRY_AFTER_NS_MIN: Final = 1_000_000_000

_NOT_AUTOMATIC: Final = "the configuration leaves the level to operators"
_CHANGED: Final = "the configuration has changed"


class Degradation:
    """See the module. `level` is what holds now. `memory_level` is what memory alone asks for: what
    that level holds back must not run even in a slot that would idle. `on_change` is called when
    either has changed, before the engine looks for what can start. `queued_max` says how many
    requests may wait."""

    def __init__(
        self,
        policy: DegradationPolicy,
        backends: Mapping[str, BackendState],
        backlog: Backlog,
        estimates: Estimates,
        timers: Timers,
        emit: Callable[[Effect], None],
        on_change: Callable[[int], None],
        *,
        queued_max: Callable[[], int],
    ) -> None:
        self.policy = policy
        self.level = Level.NORMAL
        self.memory_level = Level.NORMAL
        self._backends = backends
        self._backlog = backlog
        self._estimates = estimates
        self._timers = timers
        self._emit = emit
        self._on_change = on_change
        self._queued_max = queued_max
        self._mode = Mode.AUTOMATIC
        self._steps = JoinedSteps(policy)
        self._host = HostLoad()
        self._gpu = GpuMemory()
        self._parts: tuple[LoadPart, ...] = ()  # as last looked at
        self._before: Level | None = None
        self._because = ""  # what led to the level, but for the load
        self._why = ""  # and with the load as it was then
        self._first_ns: int | None = None  # when anything was heard for the first time
        self._since_ns: int | None = None  # the level changed; None: not yet
        self._until_ns: int | None = None
        self._end_timer = 0
        self._told = self._state()

    def handlers(self) -> dict[type[Stimulus], Callable[[Any, int], None]]:
        """What the engine calls it for."""
        return {
            HostSensed: self._host_sensed,
            LoadDue: self._load_due,
            LevelAsked: self._level_asked,
        }

    def configure(self, policy: DegradationPolicy, now_ns: int) -> None:
        """From the next look on this holds. A level that was set by hand stays; one that the load
        has set ends at once where levels are not automatic any more."""
        was_automatic, self.policy = self.policy.is_automatic, policy
        self._steps.configure(policy)
        if was_automatic is policy.is_automatic or self._mode is Mode.BY_HAND:
            return
        if was_automatic:
            self._leave_to_load(_CHANGED, now_ns)
        else:
            self._hold(self.level, _CHANGED, _CHANGED, now_ns)

    def retry_after_ns(self, now_ns: int) -> int:
        """When the level may be lower at the earliest: what a request that it refuses is told. An
        operator may change their mind, so that nobody is sent away for longer than a load can."""
        if self._mode is Mode.BY_HAND:
            rest_ns = self.policy.dwell_ns if self._until_ns is None else self._until_ns - now_ns
        elif self.level is Level.NORMAL:
            rest_ns = 0
        else:
            steps = self._steps.last(now_ns)
            rest_ns = steps.dwell_ns - (steps.below_ns(now_ns) or 0)
        longest_ns = max(self.policy.dwell_ns_max, RETRY_AFTER_NS_MIN)
        return min(max(rest_ns, RETRY_AFTER_NS_MIN), longest_ns)

    def view(self, now_ns: int) -> LevelView:
        """The level, and what decides it, by the sensors as they are now."""
        parts = self._judge(now_ns)
        worst = worst_of(parts)
        since_ns = self._first_ns if self._since_ns is None else self._since_ns
        return LevelView(
            level=self.level,
            before=self._before,
            is_automatic=self._is_automatic,
            since_ns=now_ns if since_ns is None else since_ns,
            until_ns=self._until_ns,
            why=self._why_now(parts, now_ns),
            load=worst.share if worst else None,
            parts=parts,
            sensors=(self._host_view(now_ns), self._gpu_view(now_ns)),
            host=self._host.reading.sample if self._host.reading else None,
            gpus=self._gpu.reading.gpus if self._gpu.reading else (),
        )

    @property
    def _is_automatic(self) -> bool:
        return self._mode is Mode.AUTOMATIC and self.policy.is_automatic

    def _state(self) -> tuple[Level, bool, int | None]:
        """What of the view is told as it changes."""
        return self.level, self._is_automatic, self._until_ns

    # What is heard

    def _host_sensed(self, sensed: HostSensed, now_ns: int) -> None:
        self._host.sensed(sensed.reading, self._backends, self.policy.settle_ns, now_ns)
        self._look(now_ns)

    def gpus_sensed(self, sensed: GpusSensed, now_ns: int) -> None:
        """The sensor of the GPUs has answered; the engine passes it on."""
        self._gpu.sensed(sensed.reading, self._backends, self.policy.settle_ns)
        self._look(now_ns)

    def _load_due(self, due: LoadDue, now_ns: int) -> None:
        self._look(now_ns)

    def _level_asked(self, asked: LevelAsked, now_ns: int) -> None:
        """An operator's level holds exactly, whatever the load, until its end or the next word."""
        self._timers.cancel(self._end_timer)
        self._end_timer, self._until_ns = 0, None
        if asked.level is None:
            self._mode = MODES.step(self._mode, ModeTrigger.FREED)
            self._leave_to_load("an operator left it to the load", now_ns)
            return
        self._mode = MODES.step(self._mode, ModeTrigger.SET)
        why = "an operator set it"
        if asked.until_ns is not None:
            self._until_ns = asked.until_ns
            self._end_timer = self._timers.set(asked.until_ns, self._expired)
            why += f" for {max(0, asked.until_ns - now_ns) / 1e9:.0f} s"
        self._measure(now_ns)
        self._hold(asked.level, why, why, now_ns)

    def _expired(self, _: None, now_ns: int) -> None:
        self._mode = MODES.step(self._mode, ModeTrigger.EXPIRED)
        self._end_timer, self._until_ns = 0, None
        self._leave_to_load("the time of the operator's level is over", now_ns)

    # What follows

    def _look(self, now_ns: int) -> None:
        """Looks at the load, and takes the level where it leads."""
        self._measure(now_ns)
        if not self._is_automatic:
            return
        dwell_ns = self._steps.last(now_ns).dwell_ns
        self._steps.look(*self._loads(), now_ns)
        because, why = self._because, self._why
        if self._steps.level > self.level:
            because, why = "", _in_words(self._parts)
        elif self._steps.level < self.level:
            down = self.policy.thresholds[self.level].down
            because = why = f"the load was below {down:.0%} for {dwell_ns / 1e9:.0f} s"
        self._hold(self._steps.level, because, why, now_ns)

    def _leave_to_load(self, because: str, now_ns: int) -> None:
        """What the load asks for holds at once: a person has ended what was before."""
        self._measure(now_ns)
        if self.policy.is_automatic:
            self._steps.restart(*self._loads())
            why = f"{because}; {_in_words(self._parts)}"
        else:
            self._steps.restart(None, None)
            why = f"{because}; {_NOT_AUTOMATIC}"
        self._hold(self._steps.level, because, why, now_ns)

    def _hold(self, level: Level, because: str, why: str, now_ns: int) -> None:
        """This level holds now; tells whom it concerns where anything is other than before: the
        level, who has set it, until when."""
        before, memory_before = self.level, self.memory_level
        is_by_hand = self._mode is Mode.BY_HAND
        self.memory_level = Level.NORMAL if is_by_hand else self._steps.memory.level
        self.level = level
        self._because, self._why = because, why
        if level is not before:
            self._before, self._since_ns = before, now_ns
        if self._state() != self._told:
            self._told = self._state()
            self._emit(TellLevel(level=level, before=before, why=why))
        if level is not before or self.memory_level is not memory_before:
            self._on_change(now_ns)

    # The load

    def _measure(self, now_ns: int) -> None:
        if self._first_ns is None:
            self._first_ns = now_ns
        self._gpu.remember(self._backends)
        self._parts = self._judge(now_ns)

    def _loads(self) -> tuple[float | None, float | None]:
        """(of memory, of the rest), as far as known."""
        memory = worst_of(each for each in self._parts if each.name in MEMORY_PARTS)
        rest = worst_of(each for each in self._parts if each.name not in MEMORY_PARTS)
        return memory.share if memory else None, rest.share if rest else None

    def _judge(self, now_ns: int) -> tuple[LoadPart, ...]:
        policy, backlog, backends = self.policy, self._backlog, self._backends
        return (
            queue_part(backlog.let_run(), self._queued_max(), now_ns),
            wait_part(backlog, backends, self._estimates, policy.wait_target_ns, now_ns),
            *self._host.parts(backends, policy.stale_ns, now_ns),
            self._gpu.part(backends, policy.stale_ns, now_ns),
        )

    def _why_now(self, parts: tuple[LoadPart, ...], now_ns: int) -> str:
        """Where the load holds the level up: what does so now, and not what raised it; and how near
        the next level down is, once the load allows it."""
        if not self._is_automatic or self.level is Level.NORMAL:
            return self._why
        because = f"{self._because}; " if self._because else ""
        steps, outlook = self._steps.last(now_ns), ""
        below_ns = steps.below_ns(now_ns)
        if below_ns is not None:
            down = self.policy.thresholds[self.level].down
            outlook = (
                f"; below {down:.0%} for {below_ns / 1e9:.0f} s now, "
                f"one level less after {steps.dwell_ns / 1e9:.0f} s"
            )
        return because + _in_words(parts) + outlook

    # The sensors

    def _host_view(self, now_ns: int) -> SensorView:
        problem = self._host.problem(self.policy.stale_ns, now_ns)
        return self._sensor("host", self._host.reading, problem, self._host.heard_ns, now_ns)

    def _gpu_view(self, now_ns: int) -> SensorView:
        reading = self._gpu.reading
        problem = gpu_problem(reading, self.policy.stale_ns, now_ns)
        if reading is not None:
            problem = problem or reading.problem  # which may be of other things than memory
        return self._sensor("gpu", reading, problem, reading.at_ns if reading else None, now_ns)

    def _sensor(
        self,
        name: str,
        reading: HostReading | GpuReading | None,
        problem: str,
        heard_ns: int | None,
        now_ns: int,
    ) -> SensorView:
        """One that has not answered yet may still do so; once it is late it fails. What is absent
        need not speak again: it may be switched off."""
        since_ns = self._first_ns if heard_ns is None else heard_ns
        is_late = since_ns is not None and now_ns - since_ns > self.policy.stale_ns
        state = reading.state if reading else SensorState.ABSENT
        if reading is None and is_late:
            state = SensorState.FAILING
        is_stale = is_late and state is not SensorState.ABSENT
        return SensorView(name=name, state=state, is_stale=is_stale, detail=problem, at_ns=heard_ns)


def _in_words(parts: tuple[LoadPart, ...]) -> str:
    """The load, and what makes it."""
    worst = worst_of(parts)
    if worst is None:
        return "nothing is known of the load"
    return f"{worst.name} is at {worst.share:.0%}: {worst.detail}"
