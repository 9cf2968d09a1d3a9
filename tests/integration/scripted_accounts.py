"""The part of the scripted broker that knows what models are made of and who used them."""

from __future__ import annotations

from typing import Any

import grpc

from broker_client.pb.broker.v1 import models_pb2
from tests.integration.scripted_answers import Context, refuse

HOUR_MS = 1_763_733_600_000  # 2025-11-21 14:00 UTC


def tree() -> models_pb2.GetTreeResponse:
    """A parent, its child, and one whose parent is gone."""
    parent = models_pb2.ModelNode(
        name="llama3:8b",
        backend="gpu0",
        children=["mario:latest"],
        twins=["mario:latest"],
        size_bytes=4_700_000_000,
        freed_at_least=True,
    )
    child = models_pb2.ModelNode(
        name="mario:latest",
        backend="gpu0",
        parent="llama3:8b",
        twins=["llama3:8b"],
        adapters=1,
        size_bytes=4_900_000_000,
        freed_bytes=200_000_000,
        freed_at_least=True,
    )
    orphan = models_pb2.ModelNode(
        name="orphan:1b",
        backend="gpu0",
        parent="gone:1b",
        parent_missing=True,
        size_bytes=800_000_000,
        freed_bytes=800_000_000,
    )
    return models_pb2.GetTreeResponse(nodes=[parent, child, orphan], left_out=3)


def usage() -> models_pb2.GetUsageResponse:
    """One row with everything in it, and one of loads alone."""
    busy = models_pb2.ModelUsage(
        model="llama3:8b",
        agent_id="opus-1",
        hour_unix_ms=HOUR_MS,
        hours=1,
        requests=1_200,
        completed=900,
        outcomes={"completed": 900, "refused": 300},
        prompt_tokens=70_000,
        output_tokens=12_345,
        busy_s=90.5,
        gpu_s=45.25,
        queue_wait_s=1_200.0,
        queue_wait_ms_max=61_000.0,
    )
    loads = models_pb2.ModelUsage(model="tiny:latest", hour_unix_ms=HOUR_MS, hours=1, loads=4)
    return models_pb2.GetUsageResponse(
        rows=[busy, loads], kept_since_unix_ms=HOUR_MS - 3_600_000, left_out=7
    )


class ScriptedAccounts:
    """Answers `accounted` and `grown`, and remembers in `requests` what it was asked."""

    requests: list[Any]
    accounted = usage()
    grown = tree()

    async def GetUsage(
        self, request: models_pb2.GetUsageRequest, context: Context
    ) -> models_pb2.GetUsageResponse:
        copy = models_pb2.GetUsageRequest()
        copy.CopyFrom(request)
        self.requests.append(copy)
        return self.accounted

    async def GetTree(
        self, request: models_pb2.GetTreeRequest, context: Context
    ) -> models_pb2.GetTreeResponse:
        if request.name == "absent":
            await refuse(context, grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN")
        copy = models_pb2.GetTreeRequest()
        copy.CopyFrom(request)
        self.requests.append(copy)
        return self.grown
