"""The story of a request: which gates it passed, who overtook it, what it waits for."""

from __future__ import annotations

from broker.core.engine import Engine
from broker.core.errors import RequestUnknown
from broker.core.requests import RequestKey
from broker.core.views import Explanation


def explain(engine: Engine, key: RequestKey, now_ns: int) -> Explanation:
    """See `Explanation`. RequestUnknown where nothing is known of it any more."""
    raise RequestUnknown(f"agent {key[0]!r} has no request {key[1]!r} that is remembered")


def requests_called(engine: Engine, request_id: str) -> list[RequestKey]:
    """Requests with this id that can be explained, of whatever agent."""
    return [key for key in engine.records if key[1] == request_id]
