"""Every field of the calls of operators, and of GetQuota, broken; see `bad_fields`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from broker_client.pb.broker.v1 import admin_pb2 as pb
from broker_client.pb.broker.v1 import common_pb2, inference_pb2

ID_RULE = "1 to 128 characters of [A-Za-z0-9._:/@-]"
BAD_IDS = ("", "x" * 129, "two words", "nul\0", "\u00fc", "line\n")
DAYS_30_MS = 2_592_000_000
OPUS = pb.Scope(agent_type="opus")

# What the field is, the request, the field that must be named, and what must be said of it.
Case = tuple[str, Message, str, str]


def _boost(**changed: Any) -> pb.BoostRequest:
    return pb.BoostRequest(**{"scope": OPUS, "priority_best": 1, **changed})


def _ids() -> Iterator[Case]:
    for bad in BAD_IDS:
        quota = inference_pb2.GetQuotaRequest(agent_id=bad)
        yield "GetQuotaRequest.agent_id", quota, "agent_id", ID_RULE
        for make in (pb.ExplainRequest, pb.CancelRequestRequest):
            name = make.DESCRIPTOR.name
            yield f"{name}.request_id", make(request_id=bad), "request_id", ID_RULE
            if bad:
                named = make(agent_id=bad, request_id="fine")
                yield f"{name}.agent_id", named, "agent_id", ID_RULE


def _scopes() -> Iterator[Case]:
    for bad in BAD_IDS:
        for who in ("agent_id", "agent_type"):
            scope = pb.Scope(**{who: bad})
            for request in (
                _boost(scope=scope),
                pb.BlockRequest(scope=scope),
                pb.PauseRequest(scope=scope),
                pb.ResumeRequest(scope=scope),
            ):
                yield f"Scope.{who}", request, f"scope.{who}", ID_RULE
    for request in (_boost(scope=pb.Scope()), pb.BlockRequest(), pb.BlockRequest(scope=pb.Scope())):
        yield "Scope.agent_id", request, "scope", "agent_id or an agent_type"


def _backends() -> Iterator[Case]:
    long, rule = "b" * 64, "has 64 characters; at most 63"
    yield "DrainRequest.backend", pb.DrainRequest(backend=long), "backend", rule
    both = pb.DrainRequest(backend="b", timeout_ms=0)
    yield "DrainRequest.timeout_ms", both, "timeout_ms", "does not go with backend"
    yield "ResumeRequest.backend", pb.ResumeRequest(backend=long), "backend", rule
    for scope in (OPUS, pb.Scope()):
        mixed = pb.ResumeRequest(backend="b", scope=scope)
        yield "ResumeRequest.backend", mixed, "backend", "does not go with scope"


def _numbers() -> Iterator[Case]:
    for name in ("weight_factor", "rate_factor"):
        for value in (0, -1, 0.009, 100.1, math.nan, math.inf, -math.inf):
            yield f"BoostRequest.{name}", _boost(**{name: value}), name, "0.01 to 100"
    for best in (-1, 11, 2**31 - 1, -(2**31)):
        yield "BoostRequest.priority_best", _boost(priority_best=best), "priority_best", "1 to 10"
    nothing = pb.BoostRequest(scope=OPUS, for_ms=1)
    yield "BoostRequest.weight_factor", nothing, "weight_factor", "set one"
    for for_ms in (-1, DAYS_30_MS + 1, 2**63 - 1, -(2**63)):
        rule = f"is {for_ms}; 0 (until resumed) to {DAYS_30_MS} (30 days)"
        yield "BoostRequest.for_ms", _boost(for_ms=for_ms), "for_ms", rule
        block = pb.BlockRequest(scope=OPUS, for_ms=for_ms)
        yield "BlockRequest.for_ms", block, "for_ms", rule
        yield "PauseRequest.for_ms", pb.PauseRequest(for_ms=for_ms), "for_ms", rule
    for size in (-1, 501, 2**31 - 1):
        page = pb.ListAgentsRequest(page_size=size)
        yield "ListAgentsRequest.page_size", page, "page_size", "to 500"
    token = pb.ListAgentsRequest(page_token="x" * 129)
    yield "ListAgentsRequest.page_token", token, "page_token", "at most 128"


def _levels_and_watches() -> Iterator[Case]:
    for number in (-1, 5, 2**31 - 1):
        request = pb.SetLevelRequest(for_ms=1)
        request.level = number  # type: ignore[assignment]  # no level: what is to be found out
        yield "SetLevelRequest.level", request, "level", f"is {number}; 1 to 4, or not set"
    for for_ms in (-1, DAYS_30_MS + 1, 2**63 - 1, -(2**63)):
        level = pb.SetLevelRequest(level=common_pb2.DEGRADATION_LEVEL_1, for_ms=for_ms)
        rule = f"is {for_ms}; 0 (until it is set again) to {DAYS_30_MS} (30 days)"
        yield "SetLevelRequest.for_ms", level, "for_ms", rule
    endless = pb.SetLevelRequest(for_ms=1000)
    yield "SetLevelRequest.for_ms", endless, "for_ms", "only for a level"
    for interval_ms in (-1, 1, 99, 3_600_001, 2**63 - 1):
        watch = pb.WatchStatusRequest(interval_ms=interval_ms)
        rule = f"is {interval_ms}; 100 to 3600000, or 0 for 1000"
        yield "WatchStatusRequest.interval_ms", watch, "interval_ms", rule
    for most in (-1, 1001, 2**31 - 1):
        watch = pb.WatchStatusRequest(requests_max=most)
        yield "WatchStatusRequest.requests_max", watch, "requests_max", "0 to 1000"


OPERATIONS: tuple[Case, ...] = (
    *_ids(),
    *_scopes(),
    *_backends(),
    *_numbers(),
    *_levels_and_watches(),
)
