"""Counts since start, for status and metrics: how requests ended, how long they waited."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from broker.core.requests import Outcome

# First tokens whose waits are kept, as many as starts are.
FIRST_TOKENS_MAX: Final = 4096


@dataclass(slots=True)
class PriorityTally:
    """The work of one priority."""

    queued: int = 0
    running: int = 0
    ended: int = 0
    started: int = 0
    queue_wait_ns_sum: int = 0
    queue_wait_ns_max: int = 0


@dataclass(slots=True)
class BoundTally:
    """How the bounds that were stated on waits were kept, by those that started with one.
    `worst`: the largest wait, as a part of its bound."""

    kept: int = 0
    broken: int = 0
    worst: float = 0.0

    def started(self, wait_ns: int, bound_ns: int) -> None:
        """A request that was told to start within `bound_ns` has done so."""
        if wait_ns <= bound_ns:
            self.kept += 1
        else:
            self.broken += 1
        self.worst = max(self.worst, wait_ns / max(1, bound_ns))


class Tally:
    """Kept by the engine, read by snapshots."""

    __slots__ = (
        "bounds",
        "first_tokens",
        "outcomes",
        "priorities",
        "queued",
        "refusals",
        "running",
        "slow_downs",
        "soft_deadlines",
    )

    def __init__(self) -> None:
        self.bounds = BoundTally()
        self.outcomes: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self.refusals: dict[str, int] = {}  # by the reason that the client was told
        self.priorities: dict[int, PriorityTally] = {}
        self.first_tokens: deque[int] = deque(maxlen=FIRST_TOKENS_MAX)  # nanoseconds from arrival
        self.queued = 0
        self.running = 0
        self.soft_deadlines = {True: 0, False: 0}  # were they met?
        self.slow_downs = 0  # requests that were taken, with the word to send less

    def of(self, priority: int) -> PriorityTally:
        row = self.priorities.get(priority)
        if row is None:
            row = self.priorities[priority] = PriorityTally()
        return row

    def queue(self, priority: int, change: int) -> None:
        self.queued += change
        self.of(priority).queued += change

    def run(self, priority: int, change: int) -> None:
        self.running += change
        self.of(priority).running += change

    def start(self, priority: int, queue_wait_ns: int) -> None:
        """A request reached a backend, for the first time or again."""
        row = self.of(priority)
        row.started += 1
        row.queue_wait_ns_sum += queue_wait_ns
        row.queue_wait_ns_max = max(row.queue_wait_ns_max, queue_wait_ns)

    def end(self, priority: int, outcome: Outcome, reason: str = "") -> None:
        """A request ended. `reason`: what its client was told, where it was refused."""
        self.outcomes[outcome] += 1
        self.of(priority).ended += 1
        if outcome is Outcome.REFUSED:
            self.refusals[reason] = self.refusals.get(reason, 0) + 1
