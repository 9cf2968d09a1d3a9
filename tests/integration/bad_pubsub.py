"""Every field of Publish and Subscribe, broken; see `bad_fields`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from broker_client.pb.broker.v1 import pubsub_pb2 as pb

ID_RULE = "1 to 128 characters of [A-Za-z0-9._:/@-]"
PAYLOAD_BYTES_MAX = 65_536
LONG = "x" * 201
SEGMENTS = ":".join("s" * 17)
NO_NAMES = ("two words", "nul\0", "\u00fc", "line\n", ":", "a:", ":a", "a::b", "a;b")

# What the field is, the request, the field that must be named, and what must be said of it.
Case = tuple[str, Message, str, str]


def _publish(**changed: Any) -> pb.PublishRequest:
    return pb.PublishRequest(**{"agent_id": "opus-1", "topic": "free", **changed})


def _subscribe(*topics: str) -> pb.SubscribeRequest:
    return pb.SubscribeRequest(agent_id="opus-1", topics=topics)


def _cases() -> Iterator[Case]:
    for bad in ("", "x" * 129, "two words", "nul\0", "\u00fc", "line\n"):
        yield "PublishRequest.agent_id", _publish(agent_id=bad), "agent_id", ID_RULE
        listen = pb.SubscribeRequest(agent_id=bad, topics=["level"])
        yield "SubscribeRequest.agent_id", listen, "agent_id", ID_RULE
    for topic, says in (
        ("", "has 0 characters; 1 to 200"),
        (LONG, "has 201 characters; 1 to 200"),
        (SEGMENTS, "has 17 segments; at most 16"),
        *((each, 'with ":" between them') for each in (*NO_NAMES, "*", "a:**", "a:*:b")),
    ):
        yield "PublishRequest.topic", _publish(topic=topic), "topic", says
    too_much = _publish(payload=b"x" * (PAYLOAD_BYTES_MAX + 1))
    yield "PublishRequest.payload", too_much, "payload", "has 65537 bytes; at most 65536"
    for content_type, says in (
        ("x" * 129, "at most 128"),
        ("line\n", "printable ASCII"),
        ("\u00fc", "printable ASCII"),
    ):
        request = _publish(content_type=content_type)
        yield "PublishRequest.content_type", request, "content_type", says
    yield "SubscribeRequest.topics", _subscribe(), "topics", "has 0 patterns; 1 to 32"
    many = _subscribe(*["level"] * 33)
    yield "SubscribeRequest.topics", many, "topics", "has 33 patterns; 1 to 32"
    for pattern, says in (
        ("", "has 0 characters; 1 to 200"),
        (LONG, "has 201 characters; 1 to 200"),
        (SEGMENTS, "has 17 segments; at most 16"),
        *((each, 'with ":" between them') for each in (*NO_NAMES, "lev*", "***", "a:?")),
        ("**:a", "before its end"),
        ("a:**:b", "before its end"),
        ("**:**", "before its end"),
    ):
        request_ = _subscribe("level", pattern)
        yield "SubscribeRequest.topics", request_, "topics[1]", says


PUBSUB = tuple(_cases())
