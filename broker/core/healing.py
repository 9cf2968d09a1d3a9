"""Curing what wedges: a frozen or sick model, a server that answers and does nothing.

A model is cured the way OLLAMA.md §3.7 found: nothing new is sent to it, every call that uses it is
closed, it is unloaded, and loaded again when somebody wants it. A server whose cures fail is
wedged: it is reported with the evidence, tried again after growing pauses, and restarted only by a
command that the operator configured, with a backoff and a ceiling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker.core.state_machine import Machine, Symbol


class Health(Symbol):
    """Of a backend, as far as it answers at all."""

    WELL = "well"
    SUSPECT = "suspect"  # a cure failed; another one may help
    WEDGED = "wedged"  # it answers and does not serve: one load at a time is tried; or is away
    RESTARTING = "restarting"  # the operator's command runs


class HealthTrigger(Symbol):
    CURE_FAILED = "cure_failed"  # an unload was not proven, or a load hung
    SERVED = "served"  # a request completed, or a model was loaded
    RESTART = "restart"
    RESTARTED = "restarted"  # the command ended, well or not
    AWAY = "away"  # nobody listens there, for as long as its operator waits before a restart
    CAME_BACK = "came_back"  # it was away and answers again: another process


_S, _T = Health, HealthTrigger

HEALTH: Final = Machine(
    "health",
    {
        (_S.WELL, _T.CURE_FAILED): _S.SUSPECT,
        (_S.WELL, _T.SERVED): _S.WELL,
        (_S.WELL, _T.CAME_BACK): _S.WELL,
        (_S.WELL, _T.AWAY): _S.WEDGED,
        (_S.SUSPECT, _T.CURE_FAILED): _S.WEDGED,
        (_S.SUSPECT, _T.SERVED): _S.WELL,
        (_S.SUSPECT, _T.CAME_BACK): _S.WELL,
        (_S.SUSPECT, _T.AWAY): _S.WEDGED,
        (_S.WEDGED, _T.CURE_FAILED): _S.WEDGED,
        (_S.WEDGED, _T.SERVED): _S.WELL,
        (_S.WEDGED, _T.CAME_BACK): _S.WELL,
        (_S.WEDGED, _T.AWAY): _S.WEDGED,
        (_S.WEDGED, _T.RESTART): _S.RESTARTING,
        (_S.RESTARTING, _T.CURE_FAILED): _S.RESTARTING,
        (_S.RESTARTING, _T.SERVED): _S.RESTARTING,
        (_S.RESTARTING, _T.CAME_BACK): _S.RESTARTING,
        (_S.RESTARTING, _T.RESTARTED): _S.SUSPECT,
    },
)


class HealingStep(Symbol):
    """What was done, as operators and events are told."""

    FROZEN = "frozen"  # a stream gave nothing for too long; the model is being cured
    SLOT_LOST = "slot_lost"  # a backend runs fewer at once than its slots; unloaded when idle
    CURED = "cured"  # the model left, and may be loaded again
    CURE_FAILED = "cure_failed"
    SICK = "sick"  # a load failed; it is not tried before a while, longer each time
    WEDGED = "wedged"
    RESTARTING = "restarting"
    RESTARTED = "restarted"
    GIVEN_UP = "given_up"  # as many restarts as may be; it is the operator's turn


@dataclass(frozen=True, slots=True, kw_only=True)
class HealingPolicy:
    """When a model counts as frozen, and what may be done about a server.

    A stream is frozen that gave nothing for `gap_factor` times its usual gap plus `gap_extra_ns`,
    where no neighbour's prompt explains it (docs/adr/0015). Restarts of one server are at least
    `restart_backoff_ns` apart, doubled with each, and at most `restarts_max` until it has served
    for `restarts_forgotten_ns`. One where nobody listens for `restart_away_ns` is restarted too; 0:
    never.
    """

    gap_factor: float = 2.5
    gap_extra_ns: int = 1_250_000_000
    restart_backoff_ns: int = 60_000_000_000
    restarts_max: int = 5
    restarts_forgotten_ns: int = 3_600_000_000_000
    restart_away_ns: int = 0

    def __post_init__(self) -> None:
        if self.gap_factor < 1 or self.gap_extra_ns <= 0:
            raise ValueError("gap_factor must be at least 1, gap_extra_ns positive")
        if self.restart_backoff_ns <= 0 or self.restarts_max < 0 or self.restarts_forgotten_ns <= 0:
            raise ValueError("times of restarts must be positive, their ceiling not negative")
        if self.restart_away_ns < 0:
            raise ValueError("restart_away_ns must not be negative")
