"""Which model would answer, on the wire: Resolve."""

from __future__ import annotations

import grpc

from broker.api.grpc.reading import open_call
from broker.api.grpc.requirements_codec import check_requirements, decode_requirements
from broker.api.grpc.status import abort, shortened
from broker.api.grpc.validation import check_model
from broker.core.errors import BrokerError
from broker.core.resolution import Resolution
from broker.services.models import ModelsService
from broker_client.pb.broker.v1 import models_pb2 as pb

_Context = grpc.aio.ServicerContext

WORDS_BYTES_MAX = 4_096  # of the sentence that says why


class ModelResolution:
    """Translates; the service knows. A part of `ModelsServicer`."""

    _listing: ModelsService

    async def Resolve(
        self, request: pb.ResolveRequest, context: _Context[pb.ResolveRequest, pb.ResolveResponse]
    ) -> pb.ResolveResponse:
        """The model that such a request would get now, and why that one."""
        try:
            problems = open_call(request, context)
            check_model(request.model, "model", problems)
            given = request.HasField("requirements")
            if given:
                check_requirements(request.requirements, problems)
            elif not request.model:
                problems.add(
                    "model", "must name a model or an alias where requirements are not set"
                )
            problems.raise_any()
            wants = decode_requirements(request.requirements) if given else None
            return encode_resolution(self._listing.resolve(request.model, wants))
        except BrokerError as error:
            await abort(context, error)


def encode_resolution(found: Resolution) -> pb.ResolveResponse:
    """What would answer, as its message."""
    return pb.ResolveResponse(
        model=found.model,
        because=shortened(found.because, WORDS_BYTES_MAX),
        alternatives=found.alternatives,
        rejected=[
            pb.RejectedModel(name=each.name, because=shortened(each.because, WORDS_BYTES_MAX))
            for each in found.rejected
        ],
    )
