"""What models are made of and who used them: what is asked, and what comes back.

`AsyncClient` and `Client` are made of the calls here, on asyncio and for plain threads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from broker_client.pb.broker.v1 import models_pb2, models_pb2_grpc

MESSAGE = TypeVar("MESSAGE")

MS_PER_S: Final = 1000

GROUPS: Final[Mapping[str, models_pb2.UsageGroup.ValueType]] = {
    "model": models_pb2.USAGE_GROUP_MODEL,
    "agent": models_pb2.USAGE_GROUP_AGENT,
    "hour": models_pb2.USAGE_GROUP_HOUR,
    "all": models_pb2.USAGE_GROUP_ALL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """One row of use. What the rows are not by is empty: `model`, `agent_id`, or `hour_unix_s`,
    which is 0 then, as is `hours`, how many the row stands for.

    `requests` are all that ended, `outcomes` how they did. `busy_s` is the time that slots worked
    for it, `gpu_s` the part of it that was a GPU's. Loads belong to no agent.
    """

    model: str
    agent_id: str
    hour_unix_s: float
    hours: int
    requests: int
    completed: int
    outcomes: Mapping[str, int]
    prompt_tokens: int
    output_tokens: int
    loads: int
    busy_s: float
    gpu_s: float
    queue_wait_s: float
    queue_wait_ms_max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """What was used. `kept_since_unix_s` None: nothing is kept. `left_out`: rows beyond what was
    asked for, those with fewest requests."""

    rows: tuple[ModelUsage, ...]
    kept_since_unix_s: float | None
    left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNode:
    """A model on one backend, as part of a tree. `parent` is what it was made from, as it says
    itself, "" where it says nothing; `children` were made from it, `twins` are other names that
    share its weights. Deleting it alone frees `freed_bytes`, or where `freed_at_least` that much
    and maybe more."""

    name: str
    backend: str
    parent: str
    parent_missing: bool
    children: tuple[str, ...]
    twins: tuple[str, ...]
    adapters: int
    size_bytes: int
    freed_bytes: int
    freed_at_least: bool
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTree:
    """Per backend, parents before what was made from them. `left_out`: models that there was no
    room for."""

    nodes: tuple[ModelNode, ...]
    left_out: int


class AsyncModelAccounts(ABC):
    """The calls on asyncio."""

    _models: models_pb2_grpc.ModelsAsyncStub

    @abstractmethod
    async def _short(self, method: Callable[..., Awaitable[MESSAGE]], request: object) -> MESSAGE:
        """One short call; BrokerError where it fails."""

    async def usage(
        self,
        *,
        by: str = "model",
        since_unix_s: float | None = None,
        until_unix_s: float | None = None,
        model: str = "",
        agent_id: str = "",
        rows_max: int = 0,
    ) -> UsageReport:
        """Who used which models, summed up "by" "model", "agent", "hour" or "all" three; hours that
        the time touches are in it as a whole. Those with most requests first, hours in order; at
        most `rows_max`, 0 means 100."""
        request = usage_request(by, since_unix_s, until_unix_s, model, agent_id, rows_max)
        return usage_report_of(await self._short(self._models.GetUsage, request))

    async def model_tree(self, name: str = "", *, backend: str = "") -> ModelTree:
        """What models are made of: all, or the family of one; ModelUnknown, BackendNotFound."""
        request = models_pb2.GetTreeRequest(name=name, backend=backend)
        return model_tree_of(await self._short(self._models.GetTree, request))


class ModelAccounts(ABC):
    """The calls for plain threads; see `AsyncModelAccounts`."""

    _models: models_pb2_grpc.ModelsStub

    @abstractmethod
    def _short(self, method: Callable[..., MESSAGE], request: object) -> MESSAGE:
        """One short call; BrokerError where it fails."""

    def usage(
        self,
        *,
        by: str = "model",
        since_unix_s: float | None = None,
        until_unix_s: float | None = None,
        model: str = "",
        agent_id: str = "",
        rows_max: int = 0,
    ) -> UsageReport:
        """Who used which models, summed up "by" "model", "agent", "hour" or "all" three; hours that
        the time touches are in it as a whole. Those with most requests first, hours in order; at
        most `rows_max`, 0 means 100."""
        request = usage_request(by, since_unix_s, until_unix_s, model, agent_id, rows_max)
        return usage_report_of(self._short(self._models.GetUsage, request))

    def model_tree(self, name: str = "", *, backend: str = "") -> ModelTree:
        """What models are made of: all, or the family of one; ModelUnknown, BackendNotFound."""
        request = models_pb2.GetTreeRequest(name=name, backend=backend)
        return model_tree_of(self._short(self._models.GetTree, request))


def usage_request(
    by: str,
    since_unix_s: float | None,
    until_unix_s: float | None,
    model: str,
    agent_id: str,
    rows_max: int,
) -> models_pb2.GetUsageRequest:
    """The message that asks. ValueError where `by` is none of the groups."""
    group = GROUPS.get(by)
    if group is None:
        raise ValueError(f"by is {by!r}; must be one of {', '.join(GROUPS)}")
    return models_pb2.GetUsageRequest(
        since_unix_ms=round((since_unix_s or 0) * MS_PER_S),
        until_unix_ms=round((until_unix_s or 0) * MS_PER_S),
        group=group,
        model=model,
        agent_id=agent_id,
        rows_max=rows_max,
    )


def usage_report_of(message: models_pb2.GetUsageResponse) -> UsageReport:
    """The wire's answer, typed."""
    kept_since_ms = message.kept_since_unix_ms
    return UsageReport(
        rows=tuple(model_usage_of(each) for each in message.rows),
        kept_since_unix_s=kept_since_ms / MS_PER_S if kept_since_ms else None,
        left_out=message.left_out,
    )


def model_usage_of(message: models_pb2.ModelUsage) -> ModelUsage:
    """The wire's row, typed."""
    return ModelUsage(
        model=message.model,
        agent_id=message.agent_id,
        hour_unix_s=message.hour_unix_ms / MS_PER_S,
        hours=message.hours,
        requests=message.requests,
        completed=message.completed,
        outcomes=dict(message.outcomes),
        prompt_tokens=message.prompt_tokens,
        output_tokens=message.output_tokens,
        loads=message.loads,
        busy_s=message.busy_s,
        gpu_s=message.gpu_s,
        queue_wait_s=message.queue_wait_s,
        queue_wait_ms_max=message.queue_wait_ms_max,
    )


def model_tree_of(message: models_pb2.GetTreeResponse) -> ModelTree:
    """The wire's answer, typed."""
    return ModelTree(nodes=tuple(map(model_node_of, message.nodes)), left_out=message.left_out)


def model_node_of(message: models_pb2.ModelNode) -> ModelNode:
    """The wire's node, typed."""
    return ModelNode(
        name=message.name,
        backend=message.backend,
        parent=message.parent,
        parent_missing=message.parent_missing,
        children=tuple(message.children),
        twins=tuple(message.twins),
        adapters=message.adapters,
        size_bytes=message.size_bytes,
        freed_bytes=message.freed_bytes,
        freed_at_least=message.freed_at_least,
        digest=message.digest,
    )
