"""What an error of an attempt means: does it speak against the backend, may another attempt help?

A table by class; what is not listed means what its nearest base class does. A caller's bad input,
a client that is too slow or gone, and what the broker itself does never count against a backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from broker.core.errors import (
    BackendBusy,
    BackendFailed,
    BackendFrozen,
    BackendRefused,
    BackendUnreachable,
    BrokerError,
    TimedOut,
)
from broker.core.time_outs import Phase


class Failure(NamedTuple):
    """`counts`: for the circuit breaker of the model on that backend. `retries`: another attempt
    may help. `was_called`: the backend may have worked for it, so that a retry costs budget."""

    counts: bool
    retries: bool
    was_called: bool = True


NOT_THE_BACKENDS: Final = Failure(counts=False, retries=False)
BROKE: Final = Failure(counts=True, retries=True)
AWAY: Final = Failure(counts=False, retries=True, was_called=False)

FAILURES: Final[Mapping[type[BrokerError], Failure]] = {
    BrokerError: NOT_THE_BACKENDS,  # ours, the caller's, or an end that somebody asked for
    BackendFailed: BROKE,
    BackendFrozen: BROKE,
    BackendBusy: BROKE,  # its own queue is full: others would be turned away as well
    BackendUnreachable: AWAY,  # that a server is away is known without a breaker
    BackendRefused: NOT_THE_BACKENDS,  # the request is wrong, and would be again
}

# A time-out speaks against a backend only where that was working, or should have been.
TIMED_OUT: Final[Mapping[Phase, Failure]] = {
    Phase.QUEUE: NOT_THE_BACKENDS,
    Phase.LOAD: NOT_THE_BACKENDS,
    Phase.FIRST_TOKEN: BROKE,
    Phase.TOKEN_GAP: BROKE,
    Phase.TOTAL: NOT_THE_BACKENDS,
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
