"""Bytes that are no message of the wire are the caller's mistake, and are answered as such.

gRPC would answer them with UNKNOWN and the parser's own words. Here they become a request that
`open_call` refuses with INVALID_ARGUMENT, like any other that breaks a limit. Nothing of a request
is read before its connection may open one more call, and none is waited for without end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from broker.api.grpc.floods import Door
from broker.api.grpc.status import abort
from broker.api.grpc.validation import Problems, check_metadata
from broker.core.errors import BrokerError, FieldProblem, InvalidRequest
from broker.core.requests import Outcome

_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands in for a request whose bytes could not be read."""

    why: str


class _Registrar:
    """Stands in for the server while generated code registers with it."""

    def __init__(self) -> None:
        self.registered: list[tuple[str, Mapping[str, Any]]] = []

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Generated code registers each handler twice; the other way takes precedence."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.registered.append((service, handlers))


def register(
    add: Callable[[Any, Any], None], servicer: object, server: grpc.aio.Server, door: Door
) -> None:
    """Adds a servicer by its generated `add` function, so that it reads as this module says. Its
    handlers must begin with `open_call`."""
    registrar = _Registrar()
    add(servicer, registrar)
    untyped: Any = server  # its stub package does not know registered handlers
    for service, handlers in registrar.registered:
        read = {name: _reading(each, door) for name, each in handlers.items()}
        untyped.add_registered_method_handlers(service, read)


def _reading(handler: Any, door: Door) -> Any:
    """The same handler, as gRPC calls those whose client may send several messages: only they are
    called before the request has come, and so can say no before, and for how long they wait."""
    parse, serialize = handler.request_deserializer, handler.response_serializer
    if handler.response_streaming:
        stream = handler.unary_stream

        async def write_all(_: object, context: _Context) -> None:
            request = await _receive(door, context, parse)
            async with aclosing(stream(request, context)) as answers:
                async for each in answers:
                    await context.write(each)

        return grpc.stream_stream_rpc_method_handler(write_all, None, serialize)
    answer = handler.unary_unary

    async def answer_one(_: object, context: _Context) -> Any:
        return await answer(await _receive(door, context, parse), context)

    return grpc.stream_unary_rpc_method_handler(answer_one, None, serialize)


async def _receive(
    door: Door, context: _Context, parse: Callable[[bytes], Any]
) -> Message | Unreadable:
    try:
        data = await door.receive(context)
    except BrokerError as error:
        await abort(context, error, outcome=Outcome.REFUSED)
    if not isinstance(data, bytes):
        return Unreadable("there is none")
    try:
        request: Message = parse(data)
    except DecodeError as error:
        return Unreadable(str(error))
    return request


def open_call(
    request: Message | Unreadable, context: grpc.aio.ServicerContext[Any, Any]
) -> Problems:
    """The first look at every call: what is wrong with its metadata, to add to. Raises
    InvalidRequest where there is no request to look at."""
    if isinstance(request, Unreadable):
        raise InvalidRequest((FieldProblem(field="request", problem=request.why),))
    problems = Problems()
    check_metadata(context.invocation_metadata(), problems)
    return problems
