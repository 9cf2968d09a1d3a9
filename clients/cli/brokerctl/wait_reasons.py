"""What requests wait for, in words, with what an operator can do about it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What a reason means, and the next step where waiting on is not the answer."""

    words: str
    next_step: str


WAITS: Final[Mapping[str, Wait]] = {
    "slot": Wait(
        words="a slot of its model, which is resident",
        next_step="more slots under [[backends]], if `brokerctl doctor --probe` finds them of use",
    ),
    "loading": Wait(words="its model, which is being loaded", next_step=""),
    "swap": Wait(
        words="another model to make room first",
        next_step="nothing, or another server: swaps are made when they cost least",
    ),
    "no_room": Wait(
        words="room that models loaded by others hold",
        next_step="`ollama stop` those models, or exclusive = true under [[backends]]",
    ),
    "backend_down": Wait(
        words="a backend with its model to answer",
        next_step="`brokerctl doctor` says which one does not, and why",
    ),
    "bulkhead": Wait(
        words="others of its compartment to end",
        next_step="a higher limit under [bulkheads], then `brokerctl reload`",
    ),
    "paused": Wait(
        words="an operator to end a pause",
        next_step="`brokerctl resume` with the same agent, --type or --all",
    ),
    "queue_full": Wait(
        words="a place in the queue, which is full",
        next_step="fewer requests, or limits.queued_max and more slots",
    ),
    "level": Wait(
        words="the level to fall; it lets other work go first",
        next_step="`brokerctl level` says what is short",
    ),
    "backoff": Wait(
        words="a moment to pass before the next attempt; the one before came to nothing",
        next_step="`brokerctl explain` with its id shows the attempts",
    ),
    "breaker": Wait(
        words="the circuit breaker of its model to close",
        next_step="`brokerctl status` says why it is open and when a probe is sent",
    ),
    "sick": Wait(
        words="its model to be tried again; it could not be loaded",
        next_step="`brokerctl status` says why, in the server's words",
    ),
    "healing": Wait(
        words="its model or server to be cured",
        next_step="`brokerctl status` says what was found",
    ),
    "backend_drains": Wait(
        words="its backend, which is being drained",
        next_step="`brokerctl resume --backend` with its name",
    ),
}
UNKNOWN: Final = Wait(words="something that this brokerctl does not know", next_step="")


def wait_of(reason: str) -> Wait:
    """What it means."""
    return WAITS.get(reason, UNKNOWN)
