"""What belongs together, broken: rows of `bad_fields.py`."""

from __future__ import annotations

from google.protobuf.message import Message

from tests.integration.wire_requests import generate

_CALLS = "GenerateRequest.expected_calls"

SESSIONS: tuple[tuple[str, Message, str, str], ...] = (
    ("GenerateRequest.session_id", generate(session_id="x" * 129), "session_id", "at most 128"),
    *(
        (
            _CALLS,
            generate(session_id="s", expected_calls=calls),
            "expected_calls",
            f"is {calls}; 0 to 10000",
        )
        for calls in (-1, 10_001)
    ),
    (_CALLS, generate(expected_calls=2), "expected_calls", "needs session_id"),
)
