"""What models are made of and who used them, on the wire: GetUsage and GetTree."""

from __future__ import annotations

from typing import Final

import grpc

from broker.api.grpc.model_codec import INT32_MAX, INT64_MAX
from broker.api.grpc.reading import open_call
from broker.api.grpc.status import abort
from broker.api.grpc.validation import (
    AGENT_ID_LENGTH_MAX,
    Problems,
    check_enum,
    check_length,
    check_model,
)
from broker.core.errors import BrokerError
from broker.core.usage import HOUR_MS, OUTCOMES, UsageGroup, UsageRow
from broker.models.dependencies import Node
from broker.services.model_accounts import ModelAccountsService, UsageAsked
from broker_client.pb.broker.v1 import models_pb2 as pb

ROWS_DEFAULT: Final = 100
ROWS_MAX: Final = 1_000
NODES_MAX: Final = 2_000
NAMES_MAX: Final = 50
# The year 9999: beyond it neither the clock nor the file goes.
UNIX_MS_MAX: Final = 253_402_300_799_999

_GROUPS: Final = {
    pb.USAGE_GROUP_UNSPECIFIED: UsageGroup.MODEL,
    pb.USAGE_GROUP_MODEL: UsageGroup.MODEL,
    pb.USAGE_GROUP_AGENT: UsageGroup.AGENT,
    pb.USAGE_GROUP_HOUR: UsageGroup.HOUR,
    pb.USAGE_GROUP_ALL: UsageGroup.ALL,
}
_GROUP_NUMBERS: Final = frozenset(pb.UsageGroup.values())

_Context = grpc.aio.ServicerContext


class ModelAccounts:
    """Translates; the service knows. A part of `ModelsServicer`."""

    _accounts: ModelAccountsService

    async def GetUsage(
        self,
        request: pb.GetUsageRequest,
        context: _Context[pb.GetUsageRequest, pb.GetUsageResponse],
    ) -> pb.GetUsageResponse:
        """Sums of what was used."""
        try:
            problems = open_call(request, context)
            check_usage(request, problems)
            problems.raise_any()
            answer = await self._accounts.usage(
                UsageAsked(
                    since_unix_ms=request.since_unix_ms,
                    until_unix_ms=request.until_unix_ms,
                    group=_GROUPS[request.group],
                    model=request.model,
                    agent_id=request.agent_id,
                    rows_max=request.rows_max or ROWS_DEFAULT,
                )
            )
        except BrokerError as error:
            await abort(context, error)
        return pb.GetUsageResponse(
            rows=[encode_usage(each) for each in answer.rows],
            kept_since_unix_ms=answer.kept_since_hour * HOUR_MS,
            left_out=min(answer.left_out, INT32_MAX),
        )

    async def GetTree(
        self, request: pb.GetTreeRequest, context: _Context[pb.GetTreeRequest, pb.GetTreeResponse]
    ) -> pb.GetTreeResponse:
        """What models are made of."""
        try:
            problems = open_call(request, context)
            check_model(request.name, "name", problems)
            check_model(request.backend, "backend", problems)
            problems.raise_any()
            found = await self._accounts.tree(request.name, request.backend)
        except BrokerError as error:
            await abort(context, error)
        return pb.GetTreeResponse(
            nodes=[encode_node(each) for each in found[:NODES_MAX]],
            left_out=max(0, len(found) - NODES_MAX),
        )


def check_usage(request: pb.GetUsageRequest, problems: Problems) -> None:
    """Every field of what is asked about use."""
    since_ms, until_ms = request.since_unix_ms, request.until_unix_ms
    for field, value in (("since_unix_ms", since_ms), ("until_unix_ms", until_ms)):
        rule = f"is {value}; 0 to {UNIX_MS_MAX}, in milliseconds since 1970"
        problems.require(0 <= value <= UNIX_MS_MAX, field, rule)
    if 0 < until_ms <= since_ms:
        problems.add("until_unix_ms", f"is {until_ms}; must be later than since_unix_ms")
    check_enum(request.group, _GROUP_NUMBERS, "group", problems)
    check_model(request.model, "model", problems)
    check_length(request.agent_id, AGENT_ID_LENGTH_MAX, "agent_id", problems)
    rule = f"is {request.rows_max}; 0 (meaning {ROWS_DEFAULT}) to {ROWS_MAX}"
    problems.require(0 <= request.rows_max <= ROWS_MAX, "rows_max", rule)


def encode_usage(row: UsageRow) -> pb.ModelUsage:
    """One row of use."""
    key, counts = row
    ended = dict(zip((each.value for each in OUTCOMES), counts.outcomes, strict=True))
    return pb.ModelUsage(
        model=key.model,
        agent_id=key.agent_id,
        hour_unix_ms=key.hour * HOUR_MS,
        hours=key.hours if key.hour else 0,
        requests=counts.requests,
        completed=counts.completed,
        outcomes={word: count for word, count in ended.items() if count},
        prompt_tokens=counts.prompt_tokens,
        output_tokens=counts.output_tokens,
        loads=counts.loads,
        busy_s=counts.busy_ns / 1e9,
        gpu_s=counts.gpu_ns / 1e9,
        queue_wait_s=counts.wait_ns / 1e9,
        queue_wait_ms_max=counts.wait_ns_max / 1e6,
    )


def encode_node(node: Node) -> pb.ModelNode:
    """One model of a tree."""
    facts = node.facts
    return pb.ModelNode(
        name=facts.name,
        backend=node.backend,
        parent=node.parent,
        parent_missing=node.is_parent_missing,
        children=node.children[:NAMES_MAX],
        twins=node.twins[:NAMES_MAX],
        adapters=min(len(facts.adapters), INT32_MAX),
        size_bytes=min(facts.size_bytes, INT64_MAX),
        freed_bytes=min(node.freed.bytes, INT64_MAX),
        freed_at_least=node.freed.is_bound,
        digest=facts.digest,
    )
