"""Models as they are listed and watched, on the wire: List, Get and Watch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import grpc

from broker.api.grpc.list_frames import ListFrames
from broker.api.grpc.list_pages import ListPages
from broker.api.grpc.model_codec import decode_wanted, encode_change, encode_model
from broker.api.grpc.model_validation import check_list, check_watch
from broker.api.grpc.reading import open_call
from broker.api.grpc.status import abort
from broker.api.grpc.validation import PAGE_SIZE_DEFAULT, check_model
from broker.core.errors import BrokerError
from broker.services.model_news import Watcher
from broker.services.models import ModelsService
from broker_client.pb.broker.v1 import models_pb2 as pb

# From then on code runs as fast as it will; with a page of 100 it takes some ten milliseconds.
PREPARED_TIMES: Final = 10

_Context = grpc.aio.ServicerContext


class ModelListing:
    """Translates; the service knows. A part of `ModelsServicer`."""

    _listing: ModelsService
    _frames: ListFrames
    _pages: ListPages

    async def prepare(self) -> None:
        """Writes what is asked for first before anybody asks, so that who does is answered at once.
        Several times, as Python is slow with what it has not done before."""
        wanted = decode_wanted(pb.ListRequest())
        for _ in range(PREPARED_TIMES):
            found = await self._listing.page(wanted, "", PAGE_SIZE_DEFAULT)
            self._pages.encode(found).SerializeToString()

    async def List(
        self, request: pb.ListRequest, context: _Context[pb.ListRequest, pb.ListResponse]
    ) -> pb.ListResponse:
        """One page of the models that are meant."""
        try:
            problems = open_call(request, context)
            check_list(request, problems)
            problems.raise_any()
            size = request.page_size or PAGE_SIZE_DEFAULT
            found = await self._listing.page(decode_wanted(request), request.page_token, size)
            return self._pages.encode(found)
        except BrokerError as error:
            await abort(context, error)

    async def Get(
        self, request: pb.GetRequest, context: _Context[pb.GetRequest, pb.GetResponse]
    ) -> pb.GetResponse:
        """One model by its name."""
        try:
            problems = open_call(request, context)
            check_model(request.name, "name", problems)
            problems.raise_any()
            view = self._listing.get(request.name)
            return pb.GetResponse(model=encode_model(view, self._listing.unix_s()))
        except BrokerError as error:
            await abort(context, error)

    async def Watch(
        self, request: pb.WatchRequest, context: _Context[pb.WatchRequest, pb.WatchResponse]
    ) -> AsyncIterator[pb.WatchResponse]:
        """What List would answer, now and after every change. The next message is made when the
        one before was taken: for a caller that does not read nothing gathers here."""
        watcher: Watcher | None = None
        try:
            problems = open_call(request, context)
            check_watch(request, problems)
            problems.raise_any()
            watcher = self._listing.watch(decode_wanted(request))
            while True:
                changes = [encode_change(each) for each in watcher.take()]
                yield pb.WatchResponse(list=await self._frames.present(request), changes=changes)
                await watcher.wait()
        except BrokerError as error:
            await abort(context, error)
        finally:
            if watcher is not None:
                watcher.close()
