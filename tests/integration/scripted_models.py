"""The part of the scripted broker that knows models."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator

import grpc

from broker_client.pb.broker.v1 import models_pb2
from tests.integration.scripted_answers import Context, Turn, refuse
from tests.integration.scripted_model_changes import ScriptedModelChanges


class ScriptedModels(ScriptedModelChanges):
    """Lists what it was given, on two pages; what is watched follows the script."""

    def __init__(self) -> None:
        super().__init__()
        self.models = [models_pb2.Model(name=f"{each}:latest") for each in "ab"]  # on two pages
        self.models_total = 0  # told where it is not 0: more than there are on the pages
        self.about_models = models_pb2.ListResponse()  # what each page says besides its models
        place = models_pb2.ModelPlace(backend="gpu0", state=models_pb2.MODEL_STATE_RESIDENT)
        self.shown = models_pb2.Model(name="a:latest", places=[place])
        self.listed: list[models_pb2.ListRequest] = []
        self.resolves: list[models_pb2.ResolveRequest] = []
        self.resolved = models_pb2.ResolveResponse(
            model="a:latest",
            because="a:latest: the soonest answer of 2 that fit, resident on gpu0",
            alternatives=["b:latest"],
            rejected=[models_pb2.RejectedModel(name="c:latest", because="lacks tools")],
        )

    @abstractmethod
    def _next(self, request: models_pb2.WatchRequest, context: Context) -> Turn:
        """The next turn of the script."""

    async def List(
        self, request: models_pb2.ListRequest, context: Context
    ) -> models_pb2.ListResponse:
        """Two pages, the first with one model."""
        copy = models_pb2.ListRequest()
        copy.CopyFrom(request)
        self.listed.append(copy)
        page, total = models_pb2.ListResponse(), self.models_total or len(self.models)
        page.CopyFrom(self.about_models)
        page.total = total
        page.models.extend(self.models[1:] if request.page_token else self.models[:1])
        page.next_page_token = "2" if not request.page_token and len(self.models) > 1 else ""
        return page

    async def Watch(
        self, request: models_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[models_pb2.WatchResponse]:
        """Takes a turn of the script, as Generate does."""
        turn = self._next(request, context)
        async for message in turn(request, context):
            yield message

    async def Get(self, request: models_pb2.GetRequest, context: Context) -> models_pb2.GetResponse:
        if request.name != "a":
            await refuse(context, grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN")
        return models_pb2.GetResponse(model=self.shown)

    async def Resolve(
        self, request: models_pb2.ResolveRequest, context: Context
    ) -> models_pb2.ResolveResponse:
        copy = models_pb2.ResolveRequest()
        copy.CopyFrom(request)
        self.resolves.append(copy)
        if request.model == "z":
            await refuse(context, grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN")
        return self.resolved
