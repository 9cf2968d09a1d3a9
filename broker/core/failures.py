"""What an error means: does it speak against the backend, may another attempt help, may the
operator's default answer take its place?

A table by class; what is not listed means what its nearest base class does. A caller's bad input,
a client that is too slow or gone, and what the broker itself does never count against a backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from broker.core.errors import (
    AccessDenied,
    BackendBusy,
    BackendFailed,
    BackendFrozen,
    BackendRefused,
    BackendUnreachable,
    BrokerError,
    ClosedForCure,
    DeadlineExpired,
    LoadFailed,
    ModelUnknown,
    TimedOut,
)
from broker.core.time_outs import Phase


class Failure(NamedTuple):
    """`counts`: for the circuit breaker of the model on that backend. `retries`: another attempt
    may help. `was_called`: the backend may have worked for it, so that a retry costs budget.
    `costs_try`: it is one of the tries that a request may have. `elsewhere_only`: no other attempt
    on the same backend would come to more. `answer_why`: why the default answer is given in its
    place, where its caller allows that; "": it is not."""

    counts: bool
    retries: bool
    was_called: bool = True
    costs_try: bool = True
    elsewhere_only: bool = False
    answer_why: str = ""


NOT_THE_BACKENDS: Final = Failure(counts=False, retries=False)
BROKE: Final = Failure(counts=True, retries=True, answer_why="every attempt failed")
AWAY: Final = BROKE._replace(counts=False, was_called=False)
GONE: Final = Failure(counts=False, retries=True, was_called=False)
OUR_DOING: Final = AWAY._replace(costs_try=False)

FAILURES: Final[Mapping[type[BrokerError], Failure]] = {
    BrokerError: NOT_THE_BACKENDS,  # ours, the caller's, or an end that somebody asked for
    BackendFailed: BROKE,
    BackendFrozen: BROKE,
    ClosedForCure: OUR_DOING,  # a call beside the frozen one: that alone speaks against the model
    AccessDenied: BROKE._replace(elsewhere_only=True),  # it would take the next as little
    BackendBusy: BROKE,  # its own queue is full: others would be turned away as well
    BackendUnreachable: AWAY,  # that a server is away is known without a breaker
    ModelUnknown: GONE,  # from there, though it was listed: another may have it
    BackendRefused: NOT_THE_BACKENDS,  # the request is wrong, and would be again
    LoadFailed: NOT_THE_BACKENDS._replace(answer_why="its model could not be loaded"),
    DeadlineExpired: NOT_THE_BACKENDS._replace(answer_why="its deadline passed"),
}

# A time-out speaks against a backend only where that was working, or should have been.
TIMED_OUT: Final[Mapping[Phase, Failure]] = {
    Phase.QUEUE: NOT_THE_BACKENDS._replace(answer_why="it waited for too long"),
    Phase.LOAD: NOT_THE_BACKENDS._replace(answer_why="its model took too long to load"),
    Phase.FIRST_TOKEN: BROKE._replace(answer_why="its first token took too long"),
    Phase.TOKEN_GAP: BROKE,
    Phase.TOTAL: NOT_THE_BACKENDS._replace(answer_why="it took too long"),
}


def failure_of(error: BrokerError) -> Failure:
    """What this error means."""
    if isinstance(error, TimedOut):
        return TIMED_OUT[error.phase]
    for kind in type(error).__mro__:
        found = FAILURES.get(kind)
        if found is not None:
            return found
    raise AssertionError("BrokerError itself is in the table")
