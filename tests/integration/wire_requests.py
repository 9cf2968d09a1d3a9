"""Requests as they go over the wire: good ones but for what a test changes, and their fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from broker_client.pb.broker.v1 import admin_pb2, inference_pb2, models_pb2, pubsub_pb2
from broker_client.pb.broker.v1 import inference_pb2 as pb

SERVICES = (inference_pb2, models_pb2, admin_pb2, pubsub_pb2)


def generate(**changed: Any) -> pb.GenerateRequest:
    """A good generation but for what is changed."""
    request = pb.GenerateRequest(agent_id="opus-1", model="talk", prompt=pb.Prompt(text="hello"))
    request.MergeFrom(pb.GenerateRequest(**changed))
    return request


def chat(*messages: pb.Message, **changed: Any) -> pb.GenerateRequest:
    return generate(chat=pb.Chat(messages=messages), **changed)


def said(**changed: Any) -> pb.GenerateRequest:
    """A chat of one message, good but for what is changed."""
    return chat(pb.Message(**{"role": "user", "content": "hello", **changed}))


def called(**changed: Any) -> pb.GenerateRequest:
    """A chat whose one tool call is good but for what is changed."""
    call = pb.ToolCall(**{"id": "1", "name": "f", "arguments_json": "{}", **changed})
    return said(role="assistant", tool_calls=[call])


def tool(**changed: Any) -> pb.GenerateRequest:
    """A chat whose one tool is good but for what is changed."""
    good = {"name": "f", "description": "", "parameters_json": "{}"}
    return chat(pb.Message(role="user"), tools=[pb.Tool(**{**good, **changed})])


def embed(**changed: Any) -> pb.EmbedRequest:
    """A good embedding but for what is changed."""
    request = pb.EmbedRequest(agent_id="opus-1", model="embed")
    request.MergeFrom(pb.EmbedRequest(**{"inputs": ["hello"], **changed}))
    return request


def request_types() -> Iterator[tuple[str, Descriptor]]:
    """(full method name, request message) of every call that the broker offers."""
    for module in SERVICES:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}", method.input_type


def limited_fields() -> set[str]:
    """Every field of every request that can hold a value which breaks a limit."""
    found: set[str] = set()
    waiting = [message for _, message in request_types()]
    seen: set[str] = set()
    while waiting:
        message = waiting.pop()
        if message.full_name in seen:
            continue
        seen.add(message.full_name)
        for field in message.fields:
            inner = field.message_type
            if inner is not None:
                waiting.append(inner)
            holds_only = inner is not None and not field.is_repeated
            if field.type != FieldDescriptor.TYPE_BOOL and not holds_only:
                found.add(f"{message.name}.{field.name}")
    return found
