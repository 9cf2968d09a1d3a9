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


class ReadingServer:
    """What generated code registers its handlers with: passes them on to the real server, so
    that each reads its requests as this module says."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Generated code registers every handler twice; the other way takes precedence."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        read = {name: _reading(each) for name, each in handlers.items()}
        self._server.add_registered_method_handlers(service, read)


def _reading(handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
    parse = handler.request_deserializer
    serialize = handler.response_serializer
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(
            handler.unary_stream, _reader(parse), serialize
        )
    return grpc.unary_unary_rpc_method_handler(handler.unary_unary, _reader(parse), serialize)


def _reader(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError as error:
            return Unreadable(str(error))

    return read


def open_call(request: Message | Unreadable, context: grpc.aio.ServicerContext[Any, Any]) -> Problems:
    """The first look at every call: what is wrong with its metadata, to add to. Raises
    InvalidRequest where there is no request to look at."""
    if isinstance(request, Unreadable):
        raise InvalidRequest((FieldProblem(field="request", problem=request.why),))
    problems = Problems()
    check_metadata(context.invocation_metadata(), problems)
    return problems
