"""The life of a request, as a table.

    RECEIVED -> ADMITTED -> QUEUED -> DISPATCHED -> STREAMING -> exactly one outcome

with CANCELLING (told to end; the backend may still work on it, so its slot is not free) and
REQUEUED (its attempt came to nothing; it waits until it may be tried again, and then at its old
place in its line) on the way.
"""

from __future__ import annotations

from typing import Final

from broker.core.requests import Outcome
from broker.core.state_machine import Machine, Symbol


class State(Symbol):
    RECEIVED = "received"  # known to nobody but the gates
    ADMITTED = "admitted"  # every gate said yes; it may have to stand in the waiting room
    QUEUED = "queued"  # in its model's line
    DISPATCHED = "dispatched"  # holds a slot; no token yet
    STREAMING = "streaming"  # holds a slot; tokens come
    REQUEUED = "requeued"  # lost its slot through no fault of its own; may be backing off
    CANCELLING = "cancelling"  # told to end; holds its slot until the work is proven to have ended
    COMPLETED = "completed"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    SHED = "shed"
    DISPLACED = "displaced"


class Trigger(Symbol):
    ADMIT = "admit"
    REFUSE = "refuse"
    ENQUEUE = "enqueue"
    DISPATCH = "dispatch"
    FIRST_TOKEN = "first_token"
    COMPLETE = "complete"
    FAIL = "fail"
    REQUEUE = "requeue"
    ABORT = "abort"  # cancelled, expired or shed while it held a slot
    CANCEL = "cancel"
    EXPIRE = "expire"
    SHED = "shed"
    DISPLACE = "displace"
    ANSWER = "answer"  # the operator's default answer is given instead of a model's


_S, _T = State, Trigger

LIFECYCLE: Final = Machine(
    "request",
    {
        (_S.RECEIVED, _T.ADMIT): _S.ADMITTED,
        (_S.RECEIVED, _T.REFUSE): _S.REFUSED,
        (_S.ADMITTED, _T.ENQUEUE): _S.QUEUED,
        (_S.ADMITTED, _T.REFUSE): _S.REFUSED,  # no place became free in time
        (_S.ADMITTED, _T.FAIL): _S.FAILED,
        (_S.ADMITTED, _T.CANCEL): _S.CANCELLED,
        (_S.ADMITTED, _T.EXPIRE): _S.EXPIRED,
        (_S.ADMITTED, _T.ANSWER): _S.COMPLETED,
        (_S.QUEUED, _T.DISPATCH): _S.DISPATCHED,
        (_S.QUEUED, _T.FAIL): _S.FAILED,
        (_S.QUEUED, _T.CANCEL): _S.CANCELLED,
        (_S.QUEUED, _T.EXPIRE): _S.EXPIRED,
        (_S.QUEUED, _T.SHED): _S.SHED,
        (_S.QUEUED, _T.DISPLACE): _S.DISPLACED,
        (_S.QUEUED, _T.ANSWER): _S.COMPLETED,
        (_S.DISPATCHED, _T.FIRST_TOKEN): _S.STREAMING,
        (_S.DISPATCHED, _T.COMPLETE): _S.COMPLETED,  # an answer without any text
        (_S.DISPATCHED, _T.FAIL): _S.FAILED,
        (_S.DISPATCHED, _T.REQUEUE): _S.REQUEUED,
        (_S.DISPATCHED, _T.ANSWER): _S.COMPLETED,  # its attempt came to nothing
        (_S.DISPATCHED, _T.ABORT): _S.CANCELLING,
        (_S.STREAMING, _T.COMPLETE): _S.COMPLETED,
        (_S.STREAMING, _T.FAIL): _S.FAILED,
        (_S.STREAMING, _T.REQUEUE): _S.REQUEUED,  # to begin anew, or to go on, as it allows
        (_S.STREAMING, _T.ABORT): _S.CANCELLING,
        (_S.REQUEUED, _T.ENQUEUE): _S.QUEUED,
        (_S.REQUEUED, _T.FAIL): _S.FAILED,
        (_S.REQUEUED, _T.CANCEL): _S.CANCELLED,
        (_S.REQUEUED, _T.EXPIRE): _S.EXPIRED,
        (_S.REQUEUED, _T.ANSWER): _S.COMPLETED,
        (_S.CANCELLING, _T.FAIL): _S.FAILED,  # cut by us, while the backend may still compute
        (_S.CANCELLING, _T.CANCEL): _S.CANCELLED,
        (_S.CANCELLING, _T.EXPIRE): _S.EXPIRED,
        (_S.CANCELLING, _T.SHED): _S.SHED,
        (_S.CANCELLING, _T.ANSWER): _S.COMPLETED,  # its deadline passed before a token
    },
)

OUTCOME_OF: Final = {
    State.COMPLETED: Outcome.COMPLETED,
    State.FAILED: Outcome.FAILED,
    State.REFUSED: Outcome.REFUSED,
    State.CANCELLED: Outcome.CANCELLED,
    State.EXPIRED: Outcome.EXPIRED,
    State.SHED: Outcome.SHED,
    State.DISPLACED: Outcome.DISPLACED,
}

WAITS: Final = frozenset({State.ADMITTED, State.QUEUED, State.REQUEUED})
HOLDS_SLOT: Final = frozenset({State.DISPATCHED, State.STREAMING, State.CANCELLING})
