"""The bare unary call: the least that any request over gRPC costs, the measure of a decision.

    python -m bench.unary

One grpc.aio method on uvloop that takes a GenerateRequest and answers a GenerateEvent; it does
nothing. `call` is the client's side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import uvloop

from broker_client.pb.broker.v1 import inference_pb2 as pb

METHOD = "Bare"
SERVICE = "bench.Unary"

Call = Callable[[pb.GenerateRequest], Awaitable[pb.GenerateEvent]]


async def _answer(
    request: pb.GenerateRequest,
    context: grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateEvent],
) -> pb.GenerateEvent:
    return pb.GenerateEvent(queued=pb.Queued(position=1, request_id=request.request_id))


def call(channel: grpc.aio.Channel) -> Call:
    """The method as its clients see it."""
    return channel.unary_unary(
        f"/{SERVICE}/{METHOD}",
        request_serializer=pb.GenerateRequest.SerializeToString,
        response_deserializer=pb.GenerateEvent.FromString,
    )


async def _serve() -> None:
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        _answer,
        request_deserializer=pb.GenerateRequest.FromString,
        response_serializer=pb.GenerateEvent.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler(SERVICE, {METHOD: method})
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"unary listening on {port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())
