"""What is changed of models, on the wire: Pull, ListPulls, CancelPull, Delete, Load and Unload."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import grpc

from broker.api.grpc.model_codec import INT32_MAX, INT64_MAX
from broker.api.grpc.reading import open_call
from broker.api.grpc.status import abort, shortened
from broker.api.grpc.validation import (
    AGENT_ID_LENGTH_MAX,
    Problems,
    check_length,
    check_model,
)
from broker.core.errors import BrokerError
from broker.core.model_name import NAME_LENGTH_MAX, canonical
from broker.models.pull import PullView
from broker.services.model_changes import ModelChangesService
from broker_client.pb.broker.v1 import models_pb2 as pb

BACKEND_LENGTH_MAX: Final = 64
WORDS_BYTES_MAX: Final = 768
BREAKS_MAX: Final = 500
# A call without a deadline waits so long for a model to be there, or to leave; a little before its
# deadline it hears why it is not.
TIMEOUT_NS_DEFAULT: Final = 600_000_000_000
MARGIN_S: Final = 0.25

_Context = grpc.aio.ServicerContext
_Named = (
    pb.PullRequest | pb.CancelPullRequest | pb.DeleteRequest | pb.LoadRequest | pb.UnloadRequest
)


class ModelChanges:
    """Translates; the service knows. A part of `ModelsServicer`."""

    _changes: ModelChangesService

    async def Pull(
        self, request: pb.PullRequest, context: _Context[pb.PullRequest, pb.PullResponse]
    ) -> AsyncIterator[pb.PullResponse]:
        """Downloads a model, or joins the download of it."""
        try:
            problems = open_named(request, context)
            is_short = 0 < len(request.name) <= NAME_LENGTH_MAX
            if is_short and canonical(request.name) is None:
                problems.add("name", "is no name of a model")
            problems.raise_any()
            views = self._changes.pull(
                request.name, request.backend, request.agent_id, is_urgent=request.now
            )
            async with aclosing(views):  # who goes away leaves the download at once
                async for view in views:
                    yield encode_pull(view)
        except BrokerError as error:
            await abort(context, error)

    async def ListPulls(
        self,
        request: pb.ListPullsRequest,
        context: _Context[pb.ListPullsRequest, pb.ListPullsResponse],
    ) -> pb.ListPullsResponse:
        """Those that wait, run, or ended lately."""
        try:
            open_call(request, context).raise_any()
            return pb.ListPullsResponse(pulls=[encode_pull(each) for each in self._changes.pulls()])
        except BrokerError as error:
            await abort(context, error)

    async def CancelPull(
        self,
        request: pb.CancelPullRequest,
        context: _Context[pb.CancelPullRequest, pb.CancelPullResponse],
    ) -> pb.CancelPullResponse:
        """Ends a download for all who want it."""
        try:
            open_named(request, context).raise_any()
            cancelled = await self._changes.cancel_pull(
                request.name, request.backend, request.agent_id
            )
            return pb.CancelPullResponse(cancelled=cancelled)
        except BrokerError as error:
            await abort(context, error)

    async def Delete(
        self, request: pb.DeleteRequest, context: _Context[pb.DeleteRequest, pb.DeleteResponse]
    ) -> pb.DeleteResponse:
        """Deletes a model from disks, or tells what that would do."""
        try:
            open_named(request, context).raise_any()
            deletion = await self._changes.delete(
                request.name,
                request.backend,
                request.agent_id,
                dry_run=request.dry_run,
                force=request.force,
            )
            return pb.DeleteResponse(
                backends=deletion.backends,
                freed_bytes=min(deletion.freed_bytes, INT64_MAX),
                breaks=deletion.breaks[:BREAKS_MAX],
                freed_at_least=deletion.is_bound,
            )
        except BrokerError as error:
            await abort(context, error)

    async def Load(
        self, request: pb.LoadRequest, context: _Context[pb.LoadRequest, pb.LoadResponse]
    ) -> pb.LoadResponse:
        """Makes a model resident."""
        try:
            open_named(request, context).raise_any()
            wished = await self._changes.load(
                request.name,
                request.backend,
                request.agent_id,
                timeout_ns(context.time_remaining()),
            )
            return pb.LoadResponse(backend=wished.backends[0], load_ms=wished.load_ns / 1e6)
        except BrokerError as error:
            await abort(context, error)

    async def Unload(
        self, request: pb.UnloadRequest, context: _Context[pb.UnloadRequest, pb.UnloadResponse]
    ) -> pb.UnloadResponse:
        """Has a model leave memory."""
        try:
            open_named(request, context).raise_any()
            wished = await self._changes.unload(
                request.name,
                request.backend,
                request.agent_id,
                timeout_ns(context.time_remaining()),
            )
            return pb.UnloadResponse(backends=wished.backends)
        except BrokerError as error:
            await abort(context, error)


def open_named(request: _Named, context: _Context[Any, Any]) -> Problems:
    """Opens the call, and looks at the fields that all of these share."""
    problems = open_call(request, context)
    problems.require(bool(request.name), "name", "is required")
    check_model(request.name, "name", problems)
    check_length(request.backend, BACKEND_LENGTH_MAX, "backend", problems)
    check_length(request.agent_id, AGENT_ID_LENGTH_MAX, "agent_id", problems)
    return problems


def timeout_ns(left_s: float | None) -> int:
    """How long a call waits that has so much time left."""
    if left_s is None:
        return TIMEOUT_NS_DEFAULT
    return max(0, int((left_s - MARGIN_S) * 1e9))


def encode_pull(view: PullView) -> pb.PullResponse:
    """A download at one moment, as its message."""
    return pb.PullResponse(
        name=view.name,
        backend=view.backend,
        state=view.state.value,
        detail=shortened(view.detail, WORDS_BYTES_MAX),
        completed_bytes=min(view.completed_bytes, INT64_MAX),
        total_bytes=min(view.total_bytes, INT64_MAX),
        bytes_per_s=view.bytes_per_s,
        eta_ms=None if view.eta_ms is None else min(view.eta_ms, INT64_MAX),
        listeners=min(view.listeners, INT32_MAX),
    )
