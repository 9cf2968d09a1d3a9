"""A watch of the status makes what its caller takes, and nothing before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.api.grpc.admin import AdminServicer
from broker.core.errors import Draining
from broker.services.operations import OperationsService
from broker.services.status import StatusService
from broker_client.pb.broker.v1 import admin_pb2 as pb
from tests.unit.api.test_status_codec import status


class Told(Exception):
    """The call was ended with a status; as gRPC itself raises."""


class Context:
    """As much of a call as a watch looks at."""

    def __init__(self) -> None:
        self.code: object = None

    def invocation_metadata(self) -> tuple[()]:
        return ()

    async def abort(self, code: object, details: str, trailing_metadata: object) -> None:
        self.code = code
        raise Told(details)


class Counting:
    """Counts the statuses that are made and the waits between them; has left after some."""

    def __init__(self, waits_max: int) -> None:
        self.made: list[int] = []
        self.waits_s: list[float] = []
        self._waits_max = waits_max

    def status(self, requests_max: int) -> Any:
        self.made.append(requests_max)
        return status()

    async def wait_left(self, timeout_s: float) -> None:
        if len(self.waits_s) == self._waits_max:
            raise Draining("the broker has stopped")
        self.waits_s.append(timeout_s)


def watch(service: Counting, context: Context, **asked: int) -> Any:
    servicer = AdminServicer(
        cast("StatusService", service), cast("OperationsService", SimpleNamespace())
    )
    return servicer.WatchStatus(pb.WatchStatusRequest(**asked), cast("Any", context))


async def test_the_next_status_is_made_when_the_one_before_was_taken() -> None:
    service = Counting(waits_max=9)
    watching = watch(service, Context(), requests_max=7, interval_ms=250)
    assert service.made == []
    for count in range(1, 4):
        told = await anext(watching)
        assert told.status.version == "1.2.3"
        assert service.made == [7] * count
        assert service.waits_s == [0.25] * (count - 1)
    await watching.aclose()
    assert len(service.made) == 3


async def test_without_an_interval_it_is_a_second() -> None:
    service = Counting(waits_max=9)
    watching = watch(service, Context())
    await anext(watching)
    await anext(watching)
    assert service.waits_s == [1.0]
    await watching.aclose()


async def test_it_ends_with_a_reason_when_the_broker_has_left() -> None:
    context = Context()
    watching = watch(Counting(waits_max=0), context)
    await anext(watching)
    with pytest.raises(Told, match="stopped"):
        await anext(watching)
    assert "UNAVAILABLE" in str(context.code)
