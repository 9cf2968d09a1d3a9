"""Which models are meant, field by field; see `validation`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from broker.api.grpc.level_codec import LEVEL
from broker.api.grpc.validation import Problems, check_enum, check_length, check_page_size
from broker_client.pb.broker.v1 import models_pb2 as pb
from broker_client.pb.broker.v1.common_pb2 import DEGRADATION_LEVEL_UNSPECIFIED

PAGE_TOKEN_LENGTH_MAX: Final = 512
SEARCH_LENGTH_MAX: Final = 128
CAPABILITIES_MAX: Final = 16
# What a model may be asked to be able to do, in the words of Ollama.
CAPABILITIES: Final = (
    *("completion", "embedding", "tools", "thinking", "vision", "insert", "audio"),
)
_AVAILABILITIES: Final = frozenset(pb.Availability.values())
_ORDERS: Final = frozenset(pb.ModelOrder.values())
_LEVELS: Final = frozenset({DEGRADATION_LEVEL_UNSPECIFIED, *LEVEL.values()})
_SHOWN_MAX: Final = 40


def check_list(request: pb.ListRequest, problems: Problems) -> None:
    """Every field but what only the list can judge: whether its token is one of its own."""
    check_length(request.page_token, PAGE_TOKEN_LENGTH_MAX, "page_token", problems)
    _check_wanted(request, problems)


def check_watch(request: pb.WatchRequest, problems: Problems) -> None:
    _check_wanted(request, problems)


def _check_wanted(request: pb.ListRequest | pb.WatchRequest, problems: Problems) -> None:
    check_page_size(request.page_size, problems)
    check_enum(request.order, _ORDERS, "order", problems)
    check_filter(request.filter, problems)


def check_filter(wanted: pb.ModelFilter, problems: Problems) -> None:
    """Every field of a filter; one that is not set asks nothing."""
    check_length(wanted.search, SEARCH_LENGTH_MAX, "filter.search", problems)
    check_enum(wanted.availability, _AVAILABILITIES, "filter.availability", problems)
    check_capabilities(wanted.capabilities, "filter.capabilities", problems)
    for name in ("size_bytes_max", "memory_bytes_max", "context_min"):
        check_at_least_0(getattr(wanted, name), f"filter.{name}", problems)
    check_enum(wanted.level, _LEVELS, "filter.level", problems)


def check_capabilities(names: Sequence[str], field: str, problems: Problems) -> None:
    """Words that are none a model could have match none, and are mistakes."""
    if len(names) > CAPABILITIES_MAX:
        problems.add(field, f"has {len(names)}; at most {CAPABILITIES_MAX}")
        return
    for index, name in enumerate(names):
        if name not in CAPABILITIES:
            shown = repr(name[:_SHOWN_MAX])
            problems.add(f"{field}[{index}]", f"is {shown}; one of {', '.join(CAPABILITIES)}")


def check_at_least_0(number: int, field: str, problems: Problems) -> None:
    problems.require(number >= 0, field, f"is {number}; 0 (any) or more")
