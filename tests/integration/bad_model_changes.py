"""Every field of the calls that change models, broken; see `bad_fields`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from broker_client.pb.broker.v1 import models_pb2 as pb

# What the field is, the request, the field that must be named, and what must be said of it.
Case = tuple[str, Message, str, str]


def _cases() -> Iterator[Case]:
    for make in (
        pb.PullRequest,
        pb.CancelPullRequest,
        pb.DeleteRequest,
        pb.LoadRequest,
        pb.UnloadRequest,
    ):
        name = make.DESCRIPTOR.name
        yield f"{name}.name", make(), "name", "is required"
        for field, length_max in (("name", 512), ("backend", 64), ("agent_id", 128)):
            fields: dict[str, Any] = {"name": "m", field: "x" * (length_max + 1)}
            says = f"has {length_max + 1} characters; at most {length_max}"
            yield f"{name}.{field}", make(**fields), field, says
    for malformed in ("a b", ":tag", "-m", "m:", "nul\0"):
        yield "PullRequest.name", pb.PullRequest(name=malformed), "name", "is no name of a model"


BAD_MODEL_CHANGES: tuple[Case, ...] = tuple(_cases())
