"""Puts errors into plain words with a next step. Pure.

Every error of the client ends up here, so that no traceback reaches a terminal. The words of the
broker come first, since it knows best; what follows is what one can do about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from broker_client import BrokerError, Unreachable
from broker_client.errors import (
    AgentBlocked,
    AgentNotFound,
    AgentQueueFull,
    AgentUnknown,
    BackendFailed,
    BackendNotFound,
    BrokerRateLimited,
    CallRateLimited,
    CallsFull,
    CapabilityMissing,
    CircuitOpen,
    ConnectionLost,
    DeadlineExpired,
    DeadlineInfeasible,
    Degraded,
    DiskFull,
    Displaced,
    Draining,
    InvalidRequest,
    LoadFailed,
    ModelChangeDenied,
    ModelInUse,
    ModelUnknown,
    NoBackend,
    NoModelFits,
    NoRoom,
    PullFailed,
    PullNotFound,
    PullsFull,
    QueueFull,
    QuotaExceeded,
    RequestUnknown,
    SmallModelsOnly,
    TimedOut,
)
from brokerctl.exit_status import EXIT_NO_BROKER, EXIT_SAID_NO
from brokerctl.figures import duration_text

# Subclasses stand before their bases: the first that fits is taken.
NEXT_STEPS: Final[tuple[tuple[type[BrokerError], str], ...]] = (
    (AgentUnknown, "give another --agent, or add a type for it under [agents] of the broker"),
    (InvalidRequest, "correct what is named and try again"),
    (ModelUnknown, "`brokerctl models` lists the models there are"),
    (CapabilityMissing, "`brokerctl models NAME` shows what a model can do"),
    (NoModelFits, "`brokerctl models resolve` with the same requirements says more"),
    (
        RequestUnknown,
        "`brokerctl status --requests 100` lists what is under way, `brokerctl explain` knows what "
        "ended lately",
    ),
    (AgentNotFound, "`brokerctl agents` lists those that are known"),
    (AgentBlocked, "`brokerctl resume` with the same AGENT or --type ends that"),
    (AgentQueueFull, "let some of its requests end first"),
    (CallsFull, "let some calls of this agent, or of this connection, end first"),
    (CallRateLimited, "use one client for many requests, and send fewer at once"),
    (QuotaExceeded, "`brokerctl quota AGENT` shows what is left and when more comes"),
    (QueueFull, "a better --priority may get in"),
    (Displaced, "a better --priority may get in"),
    (DeadlineInfeasible, "give it more time, or a better --priority"),
    (Degraded, "`brokerctl level` says what is short"),
    (SmallModelsOnly, "`brokerctl level` says what is short"),
    (BrokerRateLimited, "all agents share this limit"),
    (BackendNotFound, "`brokerctl status` lists the backends"),
    (CircuitOpen, "`brokerctl status` says which calls failed, and when the next may pass"),
    (NoBackend, "`brokerctl doctor` says which backend does not answer, or is drained"),
    (LoadFailed, "`brokerctl doctor` says why, and when it is tried again"),
    (ModelChangeDenied, "an operator may allow it under [model_access] of the broker"),
    (PullFailed, "if the name is right, `brokerctl models pull` goes on where it stood"),
    (DiskFull, "`brokerctl models delete` makes room; `brokerctl models tree` says how much"),
    (PullsFull, "`brokerctl models pulls` lists them"),
    (PullNotFound, "`brokerctl models pulls` lists those there are"),
    (NoRoom, "`brokerctl models unload` makes room, `brokerctl status` says what is loaded"),
    (ModelInUse, "`brokerctl queue` shows who waits, `brokerctl models tree` what is built on it"),
    (BackendFailed, "`brokerctl doctor` shows the state of the backends"),
    (Draining, "start the broker again once it has stopped"),
    (TimedOut, "give that phase more with --timeout, or see `brokerctl doctor`"),
    (
        DeadlineExpired,
        "more time, or a better --priority, helps where it waited for its turn; `brokerctl doctor` "
        "says what is wrong where it waited for a backend",
    ),
    (ConnectionLost, "`brokerctl doctor` says whether the broker still answers"),
)

# gRPC's words where a connection was made and no word of its protocol came back.
SILENT_WORDS: Final = ("before receiving settings", "handshake timed out")

# There is room for them again after a time that the broker has measured.
COMES_AGAIN: Final = (
    QuotaExceeded,
    BrokerRateLimited,
    QueueFull,
    Displaced,
    Degraded,
    SmallModelsOnly,
    CircuitOpen,
)


def sentence_of(error: BrokerError, address: str, backend: str = "") -> str:
    """What happened and what to do, in one line; `backend` is named where the broker's own words
    do not."""
    if isinstance(error, Unreachable):
        return "; ".join(unreachable_words(error, address))
    words = error.message or f"the broker answered {error.code.name}"
    if backend and backend not in words:
        words = f"on {backend}: {words}"
    if isinstance(error, COMES_AGAIN) and error.retry_after_s:
        words = f"{words}; come back in {duration_text(error.retry_after_s * 1000)}"
    for kind, step in NEXT_STEPS:
        if isinstance(error, kind):
            return f"{words}; {step}"
    return words


def unreachable_words(error: Unreachable, address: str) -> tuple[str, str]:
    """No broker, and the next step: nobody listens there, or who does says nothing, or there is no
    such place."""
    words = error.message.lower()
    if "resolv" in words:
        return f"no host can be found for {address}", "correct --address or BROKER_ADDRESS"
    if any(each in words for each in SILENT_WORDS):
        return (
            f"what listens at {address} says nothing: a broker that is stopped or hangs, or "
            "another program",
            "`ss -ltnp` names the process that has the port; have it go on, or end it and start "
            "`brokerd`",
        )
    return f"no broker answers at {address}", "start one with `brokerd`"


def is_in_the_books(error: BrokerError) -> bool:
    """Does the broker remember the request that ended so? It does once it has judged it; a
    connection that was lost says nothing of that, and asking costs nothing."""
    if isinstance(error, ConnectionLost):
        return True
    return bool(error.outcome) and not isinstance(error, InvalidRequest)


def exit_status_of(error: BrokerError) -> int:
    """The exit status that stands for an error."""
    return EXIT_NO_BROKER if isinstance(error, Unreachable) else EXIT_SAID_NO


def error_document(error: BrokerError, address: str, request_id: str = "") -> Mapping[str, Any]:
    """The same for programs."""
    return {
        "error": {
            **({"request_id": request_id} if request_id else {}),
            "code": error.code.name,
            "reason": error.reason,
            "message": sentence_of(error, address),
            "retry_after_s": error.retry_after_s,
            "outcome": error.outcome,
            "fields": [{"field": each.field, "problem": each.problem} for each in error.fields],
        }
    }
