"""What operators ask of the broker, on asyncio and for plain threads: the clients' calls of Admin.

`AsyncClient` and `Client` are made of these; what is said and what comes back is in `operations`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TypeVar

from broker_client.catalogue import PAGE_SIZE, PAGES_MAX
from broker_client.operations import (
    Agent,
    CancelledRequest,
    Explanation,
    Reload,
    agent_of,
    boost_request,
    cancelled_of,
    drain_request,
    explanation_of,
    lasting_ms,
    reload_of,
    resume_request,
    scope_message,
)
from broker_client.pb.broker.v1 import admin_pb2, admin_pb2_grpc
from broker_client.status import Drain, drain_of

MESSAGE = TypeVar("MESSAGE")


class AsyncLevers(ABC):
    """The operators' calls on asyncio."""

    _admin: admin_pb2_grpc.AdminAsyncStub

    @abstractmethod
    async def _short(self, method: Callable[..., Awaitable[MESSAGE]], request: object) -> MESSAGE:
        """One short call; BrokerError where it fails."""

    async def drain(self, *, timeout_s: float | None = None, backend: str = "") -> Drain:
        """Tells the broker to leave, giving its work so long; None: the broker's own limit. With a
        `backend` that one gets no new work until resumed, and the broker stays; BackendNotFound."""
        request = drain_request(timeout_s, backend)
        return drain_of(await self._short(self._admin.Drain, request))

    async def explain(self, request_id: str, *, agent_id: str = "") -> Explanation:
        """The story of a request, under way or lately ended. Without an agent_id that of whichever
        agent has a request of this id; InvalidRequest names them where several have."""
        request = admin_pb2.ExplainRequest(agent_id=agent_id, request_id=request_id)
        return explanation_of(await self._short(self._admin.Explain, request))

    async def cancel_request(self, request_id: str, *, agent_id: str = "") -> CancelledRequest:
        """Ends a request of any agent; without an agent_id as in `explain`."""
        request = admin_pb2.CancelRequestRequest(agent_id=agent_id, request_id=request_id)
        return cancelled_of(await self._short(self._admin.CancelRequest, request))

    async def agents(self) -> list[Agent]:
        """The agents that the broker remembers, by id."""
        found: list[Agent] = []
        token = ""
        for _ in range(PAGES_MAX):
            request = admin_pb2.ListAgentsRequest(page_size=PAGE_SIZE, page_token=token)
            page = await self._short(self._admin.ListAgents, request)
            found.extend(agent_of(each) for each in page.agents)
            token = page.next_page_token
            if not token:
                break
        return found

    async def boost(
        self,
        *,
        agent_id: str = "",
        agent_type: str = "",
        weight_factor: float | None = None,
        rate_factor: float | None = None,
        priority_best: int = 0,
        for_s: float | None = None,
    ) -> int:
        """Has an agent, or all of a type, count for more or less; for_s None: until resumed. The
        number of agents known that it concerns; AgentNotFound where none has this id."""
        request = boost_request(
            scope_message(agent_id, agent_type),
            weight_factor=weight_factor,
            rate_factor=rate_factor,
            priority_best=priority_best,
            for_s=for_s,
        )
        return (await self._short(self._admin.Boost, request)).agents

    async def block(
        self,
        *,
        agent_id: str = "",
        agent_type: str = "",
        cancel_waiting: bool = False,
        for_s: float | None = None,
    ) -> int:
        """Has new requests of an agent, or of a type, refused; answers as `boost` does."""
        scope = scope_message(agent_id, agent_type)
        request = admin_pb2.BlockRequest(
            scope=scope, cancel_waiting=cancel_waiting, for_ms=lasting_ms(for_s)
        )
        return (await self._short(self._admin.Block, request)).agents

    async def pause(
        self, *, agent_id: str = "", agent_type: str = "", for_s: float | None = None
    ) -> int:
        """Has nothing of an agent, a type, or with neither of anybody, started; as `boost`."""
        scope = scope_message(agent_id, agent_type)
        request = admin_pb2.PauseRequest(scope=scope, for_ms=lasting_ms(for_s))
        return (await self._short(self._admin.Pause, request)).agents

    async def resume(self, *, agent_id: str = "", agent_type: str = "", backend: str = "") -> int:
        """Ends what was asked for with the same scope: boost, block and pause; as `boost`. With a
        `backend` its drain; BackendNotFound."""
        request = resume_request(agent_id, agent_type, backend)
        return (await self._short(self._admin.Resume, request)).agents

    async def reload(self) -> Reload:
        """Has the broker read its configuration again; it holds as a whole or not at all."""
        return reload_of(await self._short(self._admin.Reload, admin_pb2.ReloadRequest()))


class Levers(ABC):
    """The operators' calls for plain threads; see `AsyncLevers`."""

    _admin: admin_pb2_grpc.AdminStub

    @abstractmethod
    def _short(self, method: Callable[..., MESSAGE], request: object) -> MESSAGE:
        """One short call; BrokerError where it fails."""

    def drain(self, *, timeout_s: float | None = None, backend: str = "") -> Drain:
        """Tells the broker to leave, giving its work so long; None: the broker's own limit. With a
        `backend` that one gets no new work until resumed, and the broker stays; BackendNotFound."""
        request = drain_request(timeout_s, backend)
        return drain_of(self._short(self._admin.Drain, request))

    def explain(self, request_id: str, *, agent_id: str = "") -> Explanation:
        """The story of a request, under way or lately ended. Without an agent_id that of whichever
        agent has a request of this id; InvalidRequest names them where several have."""
        request = admin_pb2.ExplainRequest(agent_id=agent_id, request_id=request_id)
        return explanation_of(self._short(self._admin.Explain, request))

    def cancel_request(self, request_id: str, *, agent_id: str = "") -> CancelledRequest:
        """Ends a request of any agent; without an agent_id as in `explain`."""
        request = admin_pb2.CancelRequestRequest(agent_id=agent_id, request_id=request_id)
        return cancelled_of(self._short(self._admin.CancelRequest, request))

    def agents(self) -> list[Agent]:
        """The agents that the broker remembers, by id."""
        found: list[Agent] = []
        token = ""
        for _ in range(PAGES_MAX):
            request = admin_pb2.ListAgentsRequest(page_size=PAGE_SIZE, page_token=token)
            page = self._short(self._admin.ListAgents, request)
            found.extend(agent_of(each) for each in page.agents)
            token = page.next_page_token
            if not token:
                break
        return found

    def boost(
        self,
        *,
        agent_id: str = "",
        agent_type: str = "",
        weight_factor: float | None = None,
        rate_factor: float | None = None,
        priority_best: int = 0,
        for_s: float | None = None,
    ) -> int:
        """Has an agent, or all of a type, count for more or less; for_s None: until resumed. The
        number of agents known that it concerns; AgentNotFound where none has this id."""
        request = boost_request(
            scope_message(agent_id, agent_type),
            weight_factor=weight_factor,
            rate_factor=rate_factor,
            priority_best=priority_best,
            for_s=for_s,
        )
        return self._short(self._admin.Boost, request).agents

    def block(
        self,
        *,
        agent_id: str = "",
        agent_type: str = "",
        cancel_waiting: bool = False,
        for_s: float | None = None,
    ) -> int:
        """Has new requests of an agent, or of a type, refused; answers as `boost` does."""
        scope = scope_message(agent_id, agent_type)
        request = admin_pb2.BlockRequest(
            scope=scope, cancel_waiting=cancel_waiting, for_ms=lasting_ms(for_s)
        )
        return self._short(self._admin.Block, request).agents

    def pause(self, *, agent_id: str = "", agent_type: str = "", for_s: float | None = None) -> int:
        """Has nothing of an agent, a type, or with neither of anybody, started; as `boost`."""
        scope = scope_message(agent_id, agent_type)
        request = admin_pb2.PauseRequest(scope=scope, for_ms=lasting_ms(for_s))
        return self._short(self._admin.Pause, request).agents

    def resume(self, *, agent_id: str = "", agent_type: str = "", backend: str = "") -> int:
        """Ends what was asked for with the same scope: boost, block and pause; as `boost`. With a
        `backend` its drain; BackendNotFound."""
        request = resume_request(agent_id, agent_type, backend)
        return self._short(self._admin.Resume, request).agents

    def reload(self) -> Reload:
        """Has the broker read its configuration again; it holds as a whole or not at all."""
        return reload_of(self._short(self._admin.Reload, admin_pb2.ReloadRequest()))
