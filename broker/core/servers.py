"""Whether a backend as a whole still serves, and its restarts by the operator's command.

A server that answers and does nothing is known by cures that fail, loads that hang, and a list of
residents that never comes: the second of these without anything served in between says that it is
wedged. Nothing is loaded there any more; what is resident may serve. Restarts are an operator's
matter: only the command that they configured is run, with a growing pause and a ceiling.
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


@dataclass(slots=True)
class _Restarts:
    """Of one backend, since it last served for long."""

    backend: BackendState
    last_ns: int = 0
    timer: int = 0
    is_given_up: bool = False
    has_come_back: bool = False  # while the command ran


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
        self.policy = policy
        self._backends = backends
        self._timers = timers
        self._emit = emit
        self._on_change = on_change
        self.on_back: Callable[[BackendState, int], None] = lambda backend, now_ns: None
        self._restarts: dict[str, _Restarts] = {}

    def cure_failed(self, backend: BackendState, evidence: str, now_ns: int) -> None:
        """A model would not leave, a load hung, or the list of residents did."""
        before = backend.health
        self._move(backend, _Trigger.CURE_FAILED)
        backend.evidence = evidence
        if backend.health is Health.WEDGED and before is not Health.WEDGED:
            self.tell(backend, "", _Step.WEDGED, evidence)
            self._on_change(now_ns)
        if backend.health is Health.WEDGED:
            self._plan_restart(backend, now_ns)

    def served(self, backend: BackendState, now_ns: int) -> None:
        """A request was completed there, or a model loaded."""
        if backend.health is not Health.WELL:
            self._move(backend, _Trigger.SERVED)
            self._is_better(backend, now_ns)
        if backend.restarts:
            restarts = self._restarts_of(backend)
            if now_ns - restarts.last_ns >= self.policy.restarts_forgotten_ns:
                backend.restarts = 0
                restarts.is_given_up = False

    def seen(self, seen: BackendSeen, now_ns: int, *, was_up: bool) -> None:
        """A backend answers, or does not."""
        backend = self._backends[seen.backend]
        if seen.is_mute:
            if not backend.is_switching:  # else its own load may hold the list up
                self.cure_failed(backend, seen.problem, now_ns)
        elif seen.up and not was_up:
            self._came_back(backend, now_ns)

    def _came_back(self, backend: BackendState, now_ns: int) -> None:
        if backend.health is Health.RESTARTING:
            self._restarts_of(backend).has_come_back = True
        self._move(backend, _Trigger.CAME_BACK)
        self._is_better(backend, now_ns)
        self.on_back(backend, now_ns)

    def _is_better(self, backend: BackendState, now_ns: int) -> None:
        if backend.health is not Health.WELL:
            return
        backend.evidence = ""
        restarts = self._restarts_of(backend)
        self._timers.cancel(restarts.timer)
        restarts.timer = 0
        self._on_change(now_ns)

    def _move(self, backend: BackendState, trigger: HealthTrigger) -> None:
        backend.health = HEALTH.step(backend.health, trigger)

    # Restarts

    def _restarts_of(self, backend: BackendState) -> _Restarts:
        """Those of this one, and not of another that had its name before."""
        restarts = self._restarts.get(backend.name)
        if restarts is None or restarts.backend is not backend:
            restarts = self._restarts[backend.name] = _Restarts(backend)
        return restarts

    def _plan_restart(self, backend: BackendState, now_ns: int) -> None:
        """At once, or when the pause after the last one is over."""
        restarts = self._restarts_of(backend)
        if not backend.policy.may_restart or restarts.timer or restarts.is_given_up:
            return
        if backend.restarts >= self.policy.restarts_max:
            restarts.is_given_up = True
            words = f"restarted {backend.restarts} times, as often as may be; {backend.evidence}"
            self.tell(backend, "", _Step.GIVEN_UP, words)
            return
        due_ns = now_ns
        if backend.restarts:
            doubled = min(backend.restarts - 1, BACKOFF_DOUBLED_MAX)
            due_ns = restarts.last_ns + (self.policy.restart_backoff_ns << doubled)
        if due_ns > now_ns:
            restarts.timer = self._timers.set(due_ns, self._restart_due, backend)
        else:
            self._restart(backend, now_ns)

    def _restart_due(self, backend: BackendState, now_ns: int) -> None:
        self._restarts_of(backend).timer = 0
        if backend.health is Health.WEDGED and self._backends.get(backend.name) is backend:
            self._restart(backend, now_ns)

    def _restart(self, backend: BackendState, now_ns: int) -> None:
        restarts = self._restarts_of(backend)
        restarts.last_ns, restarts.has_come_back = now_ns, False
        backend.restarts += 1
        backend.restarts_made += 1
        self._move(backend, _Trigger.RESTART)
        words = f"restart {backend.restarts} of at most {self.policy.restarts_max}"
        self.tell(backend, "", _Step.RESTARTING, f"{words}: {backend.evidence}")
        self._emit(RestartBackend(backend.name))

    def restart_ended(self, ended: RestartEnded, now_ns: int) -> None:
        """The command is over. What came of it is known when the backend serves again."""
        backend = self._backends.get(ended.backend)
        if backend is None or backend.health is not Health.RESTARTING:
            return  # it was taken out of the configuration meanwhile
        self._move(backend, _Trigger.RESTARTED)
        words = "the command ended well" if ended.error is None else ended.error.message
        self.tell(backend, "", _Step.RESTARTED, words)
        if self._restarts_of(backend).has_come_back:
            self._came_back(backend, now_ns)
        elif ended.error is not None:
            # It did not restart anything: the evidence stands.
            self.cure_failed(backend, f"{words}; before: {backend.evidence}", now_ns)

    def tell(self, backend: BackendState, model: str, step: HealingStep, evidence: str) -> None:
        self._emit(TellHealing(backend=backend.name, model=model, step=step, evidence=evidence))
