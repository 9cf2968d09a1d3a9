"""What a scripted broker's answers are made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

Context = Any  # The generated base class and grpc.aio type it differently.
Turn = Callable[[Any, Context], AsyncIterator[Any]]


async def refuse(
    context: Context,
    code: grpc.StatusCode,
    reason: str,
    *,
    retry_after_ms: int | None = None,
    outcome: str = "refused",
    **metadata: str,
) -> NoReturn:
    """Ends the call as the broker does."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=reason,
            domain="broker.v1",
            metadata={"outcome": outcome, "sent_pieces": "0", **metadata},
        )
    ]
    if retry_after_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(retry_after_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    boxes = [any_pb2.Any() for _ in details]
    for box, detail in zip(boxes, details, strict=True):
        box.Pack(detail)
    status = status_pb2.Status(code=code.value[0], message=reason, details=boxes)
    trailers = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(code, reason, trailing_metadata=trailers)
    raise AssertionError("abort returned")
