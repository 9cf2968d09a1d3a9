"""The part of the scripted broker that changes models."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from broker_client.pb.broker.v1 import models_pb2, models_pb2_grpc
from tests.integration.scripted_answers import Context, refuse

GB = 10**9
Change = (
    models_pb2.PullRequest
    | models_pb2.CancelPullRequest
    | models_pb2.DeleteRequest
    | models_pb2.LoadRequest
    | models_pb2.UnloadRequest
)


def pulled(
    state: str, completed: int = 0, total: int = 0, **more: object
) -> models_pb2.PullResponse:
    """A word on a download."""
    said = models_pb2.PullResponse(
        name="a:latest", backend="gpu0", state=state, completed_bytes=completed, total_bytes=total
    )
    said.MergeFrom(models_pb2.PullResponse(**more))  # type: ignore[arg-type]
    return said


class ScriptedModelChanges(models_pb2_grpc.ModelsServicer):
    """Does what it is asked for, of every model but "z", and remembers it."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.pulls = [
            pulled("waiting", detail="it waits for its turn"),
            pulled("pulling", 2 * GB, 8 * GB, bytes_per_s=1e8, eta_ms=60_000, listeners=1),
            pulled("done", 8 * GB, 8 * GB, detail="it is there"),
        ]
        self.deletion = models_pb2.DeleteResponse(
            backends=["gpu0", "gpu1"], freed_bytes=8 * GB, freed_at_least=True, breaks=["mine:v2"]
        )
        self.loaded = models_pb2.LoadResponse(backend="gpu0", load_ms=2500.0)
        self.unloaded = models_pb2.UnloadResponse(backends=["gpu0"])

    async def _heard(self, request: Change, context: Context) -> None:
        copy = type(request)()
        copy.CopyFrom(request)  # type: ignore[arg-type]
        self.changes.append(copy)
        if request.name == "z":
            await refuse(context, grpc.StatusCode.PERMISSION_DENIED, "MODEL_CHANGE_DENIED")

    async def Pull(
        self, request: models_pb2.PullRequest, context: Context
    ) -> AsyncIterator[models_pb2.PullResponse]:
        await self._heard(request, context)
        for each in self.pulls:
            yield each

    async def ListPulls(
        self, request: models_pb2.ListPullsRequest, context: Context
    ) -> models_pb2.ListPullsResponse:
        return models_pb2.ListPullsResponse(pulls=self.pulls)

    async def CancelPull(
        self, request: models_pb2.CancelPullRequest, context: Context
    ) -> models_pb2.CancelPullResponse:
        await self._heard(request, context)
        return models_pb2.CancelPullResponse(cancelled=1)

    async def Delete(
        self, request: models_pb2.DeleteRequest, context: Context
    ) -> models_pb2.DeleteResponse:
        await self._heard(request, context)
        return self.deletion

    async def Load(
        self, request: models_pb2.LoadRequest, context: Context
    ) -> models_pb2.LoadResponse:
        await self._heard(request, context)
        return self.loaded

    async def Unload(
        self, request: models_pb2.UnloadRequest, context: Context
    ) -> models_pb2.UnloadResponse:
        await self._heard(request, context)
        return self.unloaded
