"""What a request wants of a model that it does not name, broken field by field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.message import Message

from broker_client.pb.broker.v1 import models_pb2 as pb
from tests.integration.wire_requests import embed, generate


def _wanting(**wanted: Any) -> Iterator[Message]:
    requirements = pb.ModelRequirements(**wanted)
    yield generate(requirements=requirements)
    yield embed(requirements=requirements)
    yield pb.ResolveRequest(model="talk", requirements=requirements)


def _cases() -> Iterator[tuple[str, Message, str, str]]:
    for name, value, says in (
        ("context_min", -1, "0 (any) or more"),
        ("context_min", 16_777_217, "at most 16777216"),
        ("size_bytes_max", -1, "0 (any) or more"),
        ("memory_bytes_max", -1, "0 (any) or more"),
        ("prefer", "cheap", "one of fast, small, large"),
        ("prefer", "x" * 513, "one of fast, small, large"),
    ):
        for each in _wanting(**{name: value}):
            yield f"ModelRequirements.{name}", each, f"requirements.{name}", says
    covers = "ModelRequirements.capabilities"
    for each in _wanting(capabilities=["tools"] * 17):
        yield covers, each, "requirements.capabilities", "at most 16"
    for each in _wanting(capabilities=["tools", "wit"]):
        yield covers, each, "requirements.capabilities[1]", "one of completion"
    too_long = pb.ResolveRequest(model="x" * 513)
    yield "ResolveRequest.model", too_long, "model", "at most 512"
    nothing = pb.ResolveRequest()
    yield "ResolveRequest.model", nothing, "model", "where requirements are not set"


REQUIREMENTS: Final = tuple(_cases())
