"""Whether a backend as a whole still serves, and its restarts by the operator's command.

A server that answers and does nothing is known by cures that fail, loads that hang, and a list of
residents that never comes: the second of these without anything served in between says that it is
wedged. What is resident may serve; loads are let through one at a time, after a pause that grows
with each that hangs. Restarts are an operator's matter: only the command that they configured is
run, with a growing pause and a ceiling. A server where nobody listens is only restarted where they
said after how long: whoever runs it may have meant that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from broker.core.effects import Effect, RestartBackend, TellHealing
from broker.core.healing import HEALTH, HealingPolicy, HealingStep, Health, HealthTrigger
from broker.core.placement import BackendState
from broker.core.stimuli import BackendSeen, RestartEnded
from broker.core.timers import Timers

_Step, _Trigger = HealingStep, HealthTrigger

# How often the pause between two restarts is doubled at most: an hour, from a minute.
BACKOFF_DOUBLED_MAX: Final = 6

# A wedged server loads nothing for so long, doubled with each further sign, so often at most: 16
# minutes then. A load that hangs costs who waits for it, and nobody else.
SHUT_NS: Final = 60_000_000_000
SHUT_DOUBLED_MAX: Final = 4


@dataclass(slots=True)
class _Case:
    """Of one backend: its restarts, since it last served for long, and its pauses, since it was
    last well."""

    backend: BackendState
    last_ns: int = 0
    timer: int = 0
    is_given_up: bool = False
    has_come_back: bool = False  # while the command ran
    away_since_ns: int | None = None
    shut: int = 0  # how often it was
    shut_timer: int = 0


class Servers:
    """See the module. `on_change` hears of what may be loaded now, or no longer; `on_back` of a
    backend that is a new process, as far as anybody can tell."""

    def __init__(
        self,
        policy: HealingPolicy,
        backends: Mapping[str, BackendState],
        timers: Timers,
        emit: Callable[[Effect], None],
        on_change: Callable[[int], None],
    ) -> None:
        self._policy = policy
        self._backends = backends
        self._timers = timers
        self._emit = emit
        self._on_change = on_change
        self.on_back: Callable[[BackendState, int], None] = lambda backend, now_ns: None
        self._cases: dict[str, _Case] = {}

    def __len__(self) -> int:
        """How many backends have ever been in trouble."""
        return len(self._cases)

    def configure(self, policy: HealingPolicy, now_ns: int) -> None:
        """What is wedged may be restarted now, that could not be or had been too often."""
        self._policy = policy
        for backend in self._backends.values():
            if backend.health is Health.WEDGED:
                self._plan_restart(backend, now_ns)

    def cure_failed(self, backend: BackendState, evidence: str, now_ns: int) -> None:
        """A model would not leave, a load hung, or the list of residents did."""
        before = backend.health
        self._move(backend, _Trigger.CURE_FAILED)
        backend.evidence = evidence
        if backend.health is not Health.WEDGED:
            return
        if before is not Health.WEDGED:
            self.tell(backend, "", _Step.WEDGED, evidence)
        if backend.shut_until_ns is None:
            self._shut(backend, now_ns)
        self._plan_restart(backend, now_ns)

    def _shut(self, backend: BackendState, now_ns: int) -> None:
        """Nothing is loaded there for a while."""
        case = self._case(backend)
        backend.shut_until_ns = now_ns + (SHUT_NS << min(case.shut, SHUT_DOUBLED_MAX))
        case.shut += 1
        case.shut_timer = self._timers.set(backend.shut_until_ns, self._shut_over, case)
        self._on_change(now_ns)

    def _shut_over(self, case: _Case, now_ns: int) -> None:
        """One load may tell whether it serves again."""
        self._open(case)
        self._on_change(now_ns)

    def _open(self, case: _Case) -> None:
        self._timers.cancel(case.shut_timer)
        case.shut_timer, case.backend.shut_until_ns = 0, None

    def served(self, backend: BackendState, now_ns: int) -> None:
        """A request was completed there, or a model loaded."""
        if backend.health is not Health.WELL:
            self._move(backend, _Trigger.SERVED)
            self._is_better(backend, now_ns)
        if backend.restarts:
            case = self._case(backend)
            if now_ns - case.last_ns >= self._policy.restarts_forgotten_ns:
                backend.restarts = 0
                case.is_given_up = False

    def seen(self, seen: BackendSeen, now_ns: int, *, is_back: bool) -> None:
        """A backend answers, or does not. `is_back`: it did not when it was last looked at."""
        backend = self._backends[seen.backend]
        if seen.is_mute:
            # A load, or what is being cured, may hold the list up: that is judged by its own end.
            if not backend.is_switching and not backend.healing:
                self.cure_failed(backend, seen.problem, now_ns)
        elif not seen.up:
            self._is_away(backend, seen.problem, now_ns)
        elif is_back:
            self._came_back(backend, now_ns)

    def _is_away(self, backend: BackendState, problem: str, now_ns: int) -> None:
        """Nobody listens there, when it was last looked at."""
        away_ns = self._policy.restart_away_ns
        if not away_ns or not _may_restart(backend) or backend.health is Health.RESTARTING:
            return
        case = self._case(backend)
        if case.away_since_ns is None:
            case.away_since_ns = now_ns
        if now_ns - case.away_since_ns < away_ns:
            return
        before = backend.health
        self._move(backend, _Trigger.AWAY)
        away_s = (now_ns - case.away_since_ns) // 1_000_000_000
        backend.evidence = f"nobody has answered there for {away_s} s: {problem}"
        if before is not Health.WEDGED:
            self.tell(backend, "", _Step.WEDGED, backend.evidence)
        self._plan_restart(backend, now_ns)

    def _came_back(self, backend: BackendState, now_ns: int) -> None:
        case = self._cases.get(backend.name)
        if case is not None:
            case.away_since_ns = None
            case.has_come_back = backend.health is Health.RESTARTING
        self._move(backend, _Trigger.CAME_BACK)
        self._is_better(backend, now_ns)
        self.on_back(backend, now_ns)

    def _is_better(self, backend: BackendState, now_ns: int) -> None:
        if backend.health is not Health.WELL:
            return
        backend.evidence = ""
        case = self._case(backend)
        self._timers.cancel(case.timer)
        case.timer = case.shut = 0
        self._open(case)
        self._on_change(now_ns)

    def _move(self, backend: BackendState, trigger: HealthTrigger) -> None:
        backend.health = HEALTH.step(backend.health, trigger)

    # Restarts

    def _case(self, backend: BackendState) -> _Case:
        case = self._cases.get(backend.name)
        if case is None:
            case = self._cases[backend.name] = _Case(backend)
        return case

    def _plan_restart(self, backend: BackendState, now_ns: int) -> None:
        """At once, or when the pause after the last one is over."""
        case = self._case(backend)
        if case.timer or not _may_restart(backend):
            return
        if backend.restarts >= self._policy.restarts_max:
            if not case.is_given_up:
                words = f"restarted {backend.restarts} times, as often as may be"
                self.tell(backend, "", _Step.GIVEN_UP, f"{words}; {backend.evidence}")
            case.is_given_up = True
            return
        case.is_given_up = False
        due_ns = now_ns
        if backend.restarts:
            doubled = min(backend.restarts - 1, BACKOFF_DOUBLED_MAX)
            due_ns = case.last_ns + (self._policy.restart_backoff_ns << doubled)
        if due_ns > now_ns:
            case.timer = self._timers.set(due_ns, self._restart_due, case)
        else:
            self._restart(backend, now_ns)

    def _restart_due(self, case: _Case, now_ns: int) -> None:
        """What the operator says of it may be something else by now."""
        case.timer = 0
        if case.backend.health is Health.WEDGED and _may_restart(case.backend):
            self._restart(case.backend, now_ns)

    def _restart(self, backend: BackendState, now_ns: int) -> None:
        case = self._case(backend)
        case.last_ns, case.has_come_back = now_ns, False
        self._open(case)
        backend.restarts += 1
        backend.restarts_made += 1
        self._move(backend, _Trigger.RESTART)
        words = f"restart {backend.restarts} of at most {self._policy.restarts_max}"
        self.tell(backend, "", _Step.RESTARTING, f"{words}: {backend.evidence}")
        self._emit(RestartBackend(backend.name))
        self._on_change(now_ns)

    def restart_ended(self, ended: RestartEnded, now_ns: int) -> None:
        """The command is over. What came of it is known when the backend serves again."""
        backend = self._backends.get(ended.backend)
        if backend is None or backend.health is not Health.RESTARTING:
            return  # it was taken out of the configuration meanwhile
        self._move(backend, _Trigger.RESTARTED)
        self._case(backend).away_since_ns = None  # what was started needs its time
        words = "the command ended well" if ended.error is None else ended.error.message
        self.tell(backend, "", _Step.RESTARTED, words)
        if self._case(backend).has_come_back:
            self._came_back(backend, now_ns)
        elif ended.error is not None:
            # It did not restart anything: the evidence stands.
            self.cure_failed(backend, f"{words}; before: {backend.evidence}", now_ns)
        else:
            self._on_change(now_ns)

    # Which are kept

    def forget(self, backend: BackendState) -> None:
        """It is gone for good; another one may have its name."""
        case = self._cases.pop(backend.name, None)
        if case is not None:
            self._timers.cancel(case.timer)
            self._open(case)

    def tell(self, backend: BackendState, model: str, step: HealingStep, evidence: str) -> None:
        self._emit(TellHealing(backend=backend.name, model=model, step=step, evidence=evidence))


def _may_restart(backend: BackendState) -> bool:
    """Does its operator want that, of a server that is to serve?"""
    return backend.policy.may_restart and not backend.is_draining and not backend.is_leaving
