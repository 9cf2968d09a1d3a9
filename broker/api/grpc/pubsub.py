"""The PubSub service on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from broker.api.grpc.pubsub_codec import encode_batch
from broker.api.grpc.pubsub_validation import check_publish, check_subscribe
from broker.api.grpc.reading import open_call
from broker.api.grpc.status import abort
from broker.core.errors import BrokerError
from broker.core.events import Payload, Subscription
from broker.services.pubsub import PubSubService
from broker_client.pb.broker.v1 import pubsub_pb2 as pb

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["PubSub"].full_name

_Context = grpc.aio.ServicerContext


class PubSubServicer:
    """Translates; the service decides."""

    def __init__(self, service: PubSubService, payload_bytes_max: int) -> None:
        self._service = service
        self._payload_bytes_max = payload_bytes_max

    async def Publish(
        self, request: pb.PublishRequest, context: _Context[pb.PublishRequest, pb.PublishResponse]
    ) -> pb.PublishResponse:
        """Tells the subscribers of a free topic."""
        try:
            problems = open_call(request, context)
            check_publish(request, self._payload_bytes_max, problems)
            problems.raise_any()
            payload = Payload(data=request.payload, content_type=request.content_type)
            told = self._service.publish(request.agent_id, request.topic, payload)
            return pb.PublishResponse(seq=told.seq, subscribers=told.subscribers)
        except BrokerError as error:
            await abort(context, error)

    async def Subscribe(
        self, request: pb.SubscribeRequest, context: _Context[pb.SubscribeRequest, bytes]
    ) -> AsyncIterator[bytes]:
        """Whole messages, already encoded, until the client goes away or the broker leaves."""
        subscription: Subscription | None = None
        try:
            problems = open_call(request, context)
            check_subscribe(request, problems)
            problems.raise_any()
            subscription = self._service.subscribe(request.agent_id, tuple(request.topics))
            yield encode_batch(subscription.take())
            while True:
                await subscription.wait()
                yield encode_batch(subscription.take())
        except BrokerError as error:
            await abort(context, error)
        finally:
            if subscription is not None:
                self._service.leave(request.agent_id, subscription)


def add_pubsub_to_server(servicer: PubSubServicer, server: Any) -> None:
    """As the generated function of this name would, but that what Subscribe sends is bytes: one
    encoding serves all who are told an event."""
    handlers = {
        "Publish": grpc.unary_unary_rpc_method_handler(
            servicer.Publish,
            request_deserializer=pb.PublishRequest.FromString,
            response_serializer=pb.PublishResponse.SerializeToString,
        ),
        "Subscribe": grpc.unary_stream_rpc_method_handler(
            servicer.Subscribe,
            request_deserializer=pb.SubscribeRequest.FromString,
            response_serializer=bytes,
        ),
    }
    server.add_registered_method_handlers(SERVICE_NAME, handlers)
