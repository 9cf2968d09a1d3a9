"""A request that ended, as observers are told of it."""

from __future__ import annotations

from typing import Any

from broker.core.content import GenerateContent, Prompt
from broker.core.level import Level
from broker.core.requests import Outcome, RequestKind
from broker.core.views import AttemptReport, PreemptionReport, RequestReport, RequestStart

MS = 1_000_000


def report(**other: Any) -> RequestReport:
    """Completed in 800 ms: 30 ms in the queue, 20 of them for a load, 12 ms a token."""
    fields: dict[str, Any] = {
        "key": ("opus-1", "r1"),
        "agent_type": "opus",
        "kind": RequestKind.GENERATE,
        "model": "m:latest",
        "backend": "b",
        "priority": 5,
        "level": Level.NORMAL,
        "outcome": Outcome.COMPLETED,
        "reason": "",
        "message": "",
        "arrived_unix_ns": 1_700_000_000_000_000_000,
        "queue_wait_ns": 30 * MS,
        "load_wait_ns": 20 * MS,
        "first_token_ns": 100 * MS,
        "per_token_ns": 12 * MS,
        "total_ns": 800 * MS,
        "prompt_tokens": 7,
        "output_tokens": 50,
        "tries": 1,
        "substituted_for": "",
        "changes": (),
        "traceparent": "",
        "content": GenerateContent(input=Prompt(text="a secret")),
    }
    return RequestReport(**{**fields, **other})


def refused(reason: str = "RATE_LIMITED", **other: Any) -> RequestReport:
    """Refused at once."""
    nothing = dict.fromkeys(
        (
            "queue_wait_ns",
            "load_wait_ns",
            "first_token_ns",
            "per_token_ns",
            "total_ns",
            "prompt_tokens",
            "output_tokens",
            "tries",
        ),
        0,
    )
    fields = {"outcome": Outcome.REFUSED, "reason": reason, "message": "no", "backend": ""}
    return report(**{**nothing, **fields, **other})


def start(**other: Any) -> RequestStart:
    """Given to a backend after 30 ms, 20 of them for a load."""
    fields: dict[str, Any] = {
        "key": ("opus-1", "r1"),
        "agent_type": "opus",
        "model": "m:latest",
        "backend": "b",
        "priority": 5,
        "level": Level.NORMAL,
        "queue_wait_ns": 30 * MS,
        "load_wait_ns": 20 * MS,
    }
    return RequestStart(**{**fields, **other})


def attempt_failed(**other: Any) -> AttemptReport:
    """Its first attempt came to nothing after three pieces, and waits 40 ms for another."""
    fields: dict[str, Any] = {
        "key": ("opus-1", "r1"),
        "agent_type": "opus",
        "model": "m:latest",
        "backend": "b",
        "number": 1,
        "reason": "BACKEND_FAILED",
        "message": "the runner died",
        "pieces": 3,
        "is_retried": True,
        "backoff_ns": 40 * MS,
    }
    return AttemptReport(**{**fields, **other})


def preempted(**other: Any) -> PreemptionReport:
    """Its first attempt was set aside after three pieces, and five seconds."""
    fields: dict[str, Any] = {
        "key": ("opus-1", "r1"),
        "agent_type": "opus",
        "model": "m:latest",
        "backend": "b",
        "priority": 9,
        "level": Level.NORMAL,
        "number": 1,
        "times": 1,
        "pieces": 3,
        "voids_pieces": True,
        "waste_ns": 5_000 * MS,
        "message": "urgent work takes its slot",
    }
    return PreemptionReport(**{**fields, **other})
