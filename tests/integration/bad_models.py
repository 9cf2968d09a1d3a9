"""Every field of the calls that list and change models, broken; see `bad_fields`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from broker_client.pb.broker.v1 import models_pb2 as pb
from tests.integration.bad_model_changes import BAD_MODEL_CHANGES
from tests.integration.bad_requirements import REQUIREMENTS

# What the field is, the request, the field that must be named, and what must be said of it.
Case = tuple[str, Message, str, str]


def _filtered(**wanted: Any) -> Iterator[pb.ListRequest | pb.WatchRequest]:
    for make in (pb.ListRequest, pb.WatchRequest):
        yield make(filter=pb.ModelFilter(**wanted))


def _filters() -> Iterator[Case]:
    for request in _filtered(search="x" * 129):
        yield "ModelFilter.search", request, "filter.search", "has 129 characters; at most 128"
    for request in _filtered(capabilities=["tools"] * 17):
        yield "ModelFilter.capabilities", request, "filter.capabilities", "has 17; at most 16"
    for bad in ("", "Tools", "tool", "nul\0", "x" * 1000):
        for request in _filtered(capabilities=["tools", bad]):
            name = "filter.capabilities[1]"
            yield "ModelFilter.capabilities", request, name, "one of completion, embedding, tools"
    no_limit, no_value = "is {}; 0 (any)", "is {}, which is none of its values"
    for name, numbers, rule in (
        ("size_bytes_max", (-1, -(2**63)), no_limit),
        ("memory_bytes_max", (-1, -(2**63)), no_limit),
        ("context_min", (-1, -(2**31)), no_limit),
        ("availability", (-1, 4, 2**31 - 1), no_value),
        ("level", (-1, 5, 2**31 - 1), no_value),
    ):
        for number in numbers:
            for request in _filtered(**{name: number}):
                yield f"ModelFilter.{name}", request, f"filter.{name}", rule.format(number)


def _pages() -> Iterator[Case]:
    for make in (pb.ListRequest, pb.WatchRequest):
        name = make.DESCRIPTOR.name
        for size in (-1, 501, 2**31 - 1):
            yield f"{name}.page_size", make(page_size=size), "page_size", "to 500"
        for number in (-1, 4, 2**31 - 1):
            rule = f"is {number}, which is none of its values"
            request = make()
            request.order = number  # type: ignore[assignment]  # no order: what is to be found out
            yield f"{name}.order", request, "order", rule
    for token in ("x" * 513,):
        yield (
            "ListRequest.page_token",
            pb.ListRequest(page_token=token),
            "page_token",
            "at most 512",
        )


BAD_MODELS: tuple[Case, ...] = (*_filters(), *_pages(), *REQUIREMENTS, *BAD_MODEL_CHANGES)
