"""Every field of the calls that tell of use and of trees, broken; see `bad_fields`."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import Message

from broker_client.pb.broker.v1 import models_pb2 as pb

LATEST = 253_402_300_799_999

# What the field is, the request, the field that must be named, and what must be said of it.
Case = tuple[str, Message, str, str]


def _cases() -> Iterator[Case]:
    for number in (-1, LATEST + 1, 2**63 - 1, -(2**63)):
        rule = f"is {number}; 0 to {LATEST}"
        since, until = pb.GetUsageRequest(since_unix_ms=number), pb.GetUsageRequest()
        until.until_unix_ms = number
        yield "GetUsageRequest.since_unix_ms", since, "since_unix_ms", rule
        yield "GetUsageRequest.until_unix_ms", until, "until_unix_ms", rule
    for until_ms in (1, 999, 1_000):
        request = pb.GetUsageRequest(since_unix_ms=1_000, until_unix_ms=until_ms)
        yield "GetUsageRequest.until_unix_ms", request, "until_unix_ms", "must be later than"
    for number in (-1, 5, 2**31 - 1):
        request = pb.GetUsageRequest()
        request.group = number  # type: ignore[assignment]  # no group: what is to be found out
        yield "GetUsageRequest.group", request, "group", "which is none of its values"
    for rows in (-1, 1_001, 2**31 - 1):
        request = pb.GetUsageRequest(rows_max=rows)
        yield "GetUsageRequest.rows_max", request, "rows_max", f"is {rows}; 0 (meaning 100) to 1000"
    long = "x" * 513
    says = "has 513 characters; at most 512"
    yield "GetUsageRequest.model", pb.GetUsageRequest(model=long), "model", says
    yield "GetTreeRequest.name", pb.GetTreeRequest(name=long), "name", says
    yield "GetTreeRequest.backend", pb.GetTreeRequest(backend=long), "backend", says
    agent = pb.GetUsageRequest(agent_id="x" * 129)
    yield "GetUsageRequest.agent_id", agent, "agent_id", "has 129 characters; at most 128"


BAD_ACCOUNTS: tuple[Case, ...] = tuple(_cases())
