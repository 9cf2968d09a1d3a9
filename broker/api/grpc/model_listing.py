"""Models as they are listed, on the wire: List and Get."""

from __future__ import annotations

import grpc

from broker.api.grpc.model_codec import encode_model
from broker.api.grpc.reading import open_call
from broker.api.grpc.status import abort
from broker.api.grpc.validation import PAGE_SIZE_DEFAULT, check_model, check_page_size
from broker.core.errors import BrokerError
from broker.services.models import ModelsService
from broker_client.pb.broker.v1 import models_pb2 as pb

_Context = grpc.aio.ServicerContext


class ModelListing:
    """Translates; the service knows. A part of `ModelsServicer`."""

    _listing: ModelsService

    async def List(
        self, request: pb.ListRequest, context: _Context[pb.ListRequest, pb.ListResponse]
    ) -> pb.ListResponse:
        """One page, in order of the names. The token of a page is the last name before it."""
        try:
            problems = open_call(request, context)
            check_page_size(request.page_size, problems)
            check_model(request.page_token, "page_token", problems)
            problems.raise_any()
        except BrokerError as error:
            await abort(context, error)
        size = request.page_size or PAGE_SIZE_DEFAULT
        views, next_token = self._listing.page(request.page_token, size)
        unix_s = self._listing.unix_s()
        models = [encode_model(each, unix_s) for each in views]
        return pb.ListResponse(models=models, next_page_token=next_token)

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
