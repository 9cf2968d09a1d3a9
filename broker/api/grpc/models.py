"""The Models service on the wire."""

from __future__ import annotations

from typing import Final

import grpc

from broker.api.grpc.reading import open_call
from broker.api.grpc.status import abort
from broker.api.grpc.validation import PAGE_SIZE_DEFAULT, check_model, check_page_size
from broker.core.errors import BrokerError
from broker.core.residency import ResidencyState
from broker.core.snapshot import ResidencyView
from broker.services.models import ModelsService, ModelView
from broker_client.pb.broker.v1 import models_pb2 as pb
from broker_client.pb.broker.v1 import models_pb2_grpc

INT32_MAX: Final = 2**31 - 1
INT64_MAX: Final = 2**63 - 1

_STATE: Final = {each: pb.ModelState.Value(f"MODEL_STATE_{each.name}") for each in ResidencyState}

_Context = grpc.aio.ServicerContext


class ModelsServicer(models_pb2_grpc.ModelsServicer):
    """Translates; the service knows."""

    def __init__(self, service: ModelsService) -> None:
        self._service = service

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
        views, next_token = self._service.page(request.page_token, size)
        unix_s = self._service.unix_s()
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
            view = self._service.get(request.name)
            return pb.GetResponse(model=encode_model(view, self._service.unix_s()))
        except BrokerError as error:
            await abort(context, error)


def _in(number: int, number_max: int) -> int:
    """What a backend says of itself, as near as the wire can carry it: one odd number must not
    cost the whole answer."""
    return max(0, min(number, number_max))


def encode_model(view: ModelView, unix_s: float) -> pb.Model:
    """A model and its places, at a moment of the wall's clock."""
    facts = view.entry.facts
    return pb.Model(
        name=facts.name,
        capabilities=sorted(facts.capabilities),
        size_bytes=_in(facts.size_bytes, INT64_MAX),
        parameter_size=facts.parameter_size,
        quantization=facts.quantization,
        family=facts.family,
        context_length_train=_in(facts.context_length_train, INT32_MAX),
        places=[
            encode_place(each.backend, each.residency, unix_s, is_up=each.is_up)
            for each in view.places
        ],
    )


def encode_place(
    backend: str,
    residency: ResidencyView | None,
    unix_s: float | None = None,
    *,
    is_up: bool = True,
) -> pb.ModelPlace:
    """Where a model is, and how it is there; at a moment of the wall's clock also how long yet. A
    backend that should have let it go by then will when its work has ended: that is in no time. Of
    one that does not answer nobody knows."""
    if residency is None:
        state = pb.MODEL_STATE_ABSENT if is_up else pb.MODEL_STATE_UNKNOWN
        return pb.ModelPlace(backend=backend, state=state)
    expires_unix_s = residency.expires_unix_s
    left_ms: int | None = None
    if expires_unix_s is not None and unix_s is not None:
        left_ms = _in(round((expires_unix_s - unix_s) * 1000), INT64_MAX)
    return pb.ModelPlace(
        backend=backend,
        state=_STATE[residency.state] if is_up else pb.MODEL_STATE_UNKNOWN,
        slots=residency.slots,
        running=residency.running,
        num_ctx=_in(residency.num_ctx, INT32_MAX),
        memory_bytes=_in(residency.memory_bytes, INT64_MAX),
        gpu_memory_bytes=_in(residency.gpu_memory_bytes, INT64_MAX),
        managed=residency.managed,
        expires_ms=left_ms,
    )
