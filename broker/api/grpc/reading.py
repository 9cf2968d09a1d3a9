"""Bytes that are no message of the wire are the caller's mistake, and are answered as such.

gRPC would answer them with UNKNOWN and the parser's own words. Here they become a request that
`open_call` refuses with INVALID_ARGUMENT, like any other that breaks a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from broker.api.grpc.validation import Problems, check_metadata
from broker.core.errors import FieldProblem, InvalidRequest


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


def register(add: Callable[[Any, Any], None], servicer: object, server: grpc.aio.Server) -> None:
    """Adds a servicer by its generated `add` function, so that it reads as this module says. Its
    handlers must begin with `open_call`."""
    registrar = _Registrar()
    add(servicer, registrar)
    untyped: Any = server  # its stub package does not know registered handlers
    for service, handlers in registrar.registered:
        read = {name: _reading(each) for name, each in handlers.items()}
        untyped.add_registered_method_handlers(service, read)


def _reading(handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    read, serialize = _reader(handler.request_deserializer), handler.response_serializer
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(handler.unary_stream, read, serialize)
    return grpc.unary_unary_rpc_method_handler(handler.unary_unary, read, serialize)


def _reader(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError as error:
            return Unreadable(str(error))

    return read


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
