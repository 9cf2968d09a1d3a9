"""The Admin service on the wire."""

from __future__ import annotations

from typing import Final

import grpc

from broker.api.grpc.admin_codec import (
    decode_boost,
    decode_lasting,
    decode_scope,
    encode_agent,
    encode_explanation,
    encode_status,
)
from broker.api.grpc.reading import open_call
from broker.api.grpc.status import abort
from broker.api.grpc.validation import (
    AGENT_ID_LENGTH_MAX,
    PAGE_SIZE_DEFAULT,
    Problems,
    check_agent_id,
    check_boost,
    check_for_ms,
    check_length,
    check_page_size,
    check_request_id,
    check_scope,
)
from broker.core.errors import BrokerError
from broker.services.operations import OperationsService
from broker.services.status import StatusService
from broker_client.pb.broker.v1 import admin_pb2 as pb
from broker_client.pb.broker.v1 import admin_pb2_grpc

REQUESTS_MAX: Final = 1000
DRAIN_MS_MAX: Final = 3_600_000

_Context = grpc.aio.ServicerContext


class AdminServicer(admin_pb2_grpc.AdminServicer):
    """Translates; the services know."""

    def __init__(self, status: StatusService, operations: OperationsService) -> None:
        self._status = status
        self._operations = operations

    async def GetStatus(
        self,
        request: pb.GetStatusRequest,
        context: _Context[pb.GetStatusRequest, pb.GetStatusResponse],
    ) -> pb.GetStatusResponse:
        """The present state of everything."""
        try:
            problems = open_call(request, context)
            good = 0 <= request.requests_max <= REQUESTS_MAX
            problems.require(
                good, "requests_max", f"is {request.requests_max}; 0 to {REQUESTS_MAX}"
            )
            problems.raise_any()
        except BrokerError as error:
            await abort(context, error)
        return encode_status(self._status.status(request.requests_max))

    async def Drain(
        self, request: pb.DrainRequest, context: _Context[pb.DrainRequest, pb.DrainResponse]
    ) -> pb.DrainResponse:
        """Begins to leave and says what is still under way."""
        try:
            problems = open_call(request, context)
            good = 0 <= request.timeout_ms <= DRAIN_MS_MAX
            problems.require(good, "timeout_ms", f"is {request.timeout_ms}; 0 to {DRAIN_MS_MAX}")
            problems.raise_any()
        except BrokerError as error:
            await abort(context, error)
        asked = request.timeout_ms if request.HasField("timeout_ms") else None
        snapshot, timeout_ms = self._status.drain(asked)
        return pb.DrainResponse(
            queued=snapshot.queued, running=snapshot.running, timeout_ms=timeout_ms
        )

    async def Explain(
        self, request: pb.ExplainRequest, context: _Context[pb.ExplainRequest, pb.ExplainResponse]
    ) -> pb.ExplainResponse:
        """The story of one request."""
        try:
            problems = open_call(request, context)
            _check_named(request, problems)
            story = self._operations.explain(request.agent_id, request.request_id)
            return encode_explanation(story)
        except BrokerError as error:
            await abort(context, error)

    async def CancelRequest(
        self,
        request: pb.CancelRequestRequest,
        context: _Context[pb.CancelRequestRequest, pb.CancelRequestResponse],
    ) -> pb.CancelRequestResponse:
        """Ends any agent's request."""
        try:
            problems = open_call(request, context)
            _check_named(request, problems)
            agent_id, state = self._operations.cancel(request.agent_id, request.request_id)
            return pb.CancelRequestResponse(agent_id=agent_id, state=state)
        except BrokerError as error:
            await abort(context, error)

    async def ListAgents(
        self,
        request: pb.ListAgentsRequest,
        context: _Context[pb.ListAgentsRequest, pb.ListAgentsResponse],
    ) -> pb.ListAgentsResponse:
        """One page, in order of the ids. The token of a page is the last id before it."""
        try:
            problems = open_call(request, context)
            check_page_size(request.page_size, problems)
            check_length(request.page_token, AGENT_ID_LENGTH_MAX, "page_token", problems)
            problems.raise_any()
        except BrokerError as error:
            await abort(context, error)
        size = request.page_size or PAGE_SIZE_DEFAULT
        views, next_token = self._operations.agents_page(request.page_token, size)
        agents = [encode_agent(each) for each in views]
        return pb.ListAgentsResponse(agents=agents, next_page_token=next_token)

    async def Boost(
        self, request: pb.BoostRequest, context: _Context[pb.BoostRequest, pb.BoostResponse]
    ) -> pb.BoostResponse:
        """Agents count for more, or for less."""
        try:
            problems = open_call(request, context)
            check_boost(request, problems)
            problems.raise_any()
            scope, lasts_ns = decode_scope(request.scope), decode_lasting(request.for_ms)
            count = self._operations.boost(scope, decode_boost(request), lasts_ns)
            return pb.BoostResponse(agents=count)
        except BrokerError as error:
            await abort(context, error)

    async def Block(
        self, request: pb.BlockRequest, context: _Context[pb.BlockRequest, pb.BlockResponse]
    ) -> pb.BlockResponse:
        """New requests of agents are refused."""
        try:
            problems = open_call(request, context)
            check_scope(request.scope, problems, is_needed=True)
            check_for_ms(request.for_ms, problems)
            problems.raise_any()
            scope, lasts_ns = decode_scope(request.scope), decode_lasting(request.for_ms)
            waiting = request.cancel_waiting
            count = self._operations.block(scope, lasts_ns, cancels_waiting=waiting)
            return pb.BlockResponse(agents=count)
        except BrokerError as error:
            await abort(context, error)

    async def Pause(
        self, request: pb.PauseRequest, context: _Context[pb.PauseRequest, pb.PauseResponse]
    ) -> pb.PauseResponse:
        """Nothing of agents is started."""
        try:
            problems = open_call(request, context)
            check_scope(request.scope, problems, is_needed=False)
            check_for_ms(request.for_ms, problems)
            problems.raise_any()
            scope, lasts_ns = decode_scope(request.scope), decode_lasting(request.for_ms)
            return pb.PauseResponse(agents=self._operations.pause(scope, lasts_ns))
        except BrokerError as error:
            await abort(context, error)

    async def Resume(
        self, request: pb.ResumeRequest, context: _Context[pb.ResumeRequest, pb.ResumeResponse]
    ) -> pb.ResumeResponse:
        """Ends what was asked for with the same scope."""
        try:
            problems = open_call(request, context)
            check_scope(request.scope, problems, is_needed=False)
            problems.raise_any()
            return pb.ResumeResponse(agents=self._operations.resume(decode_scope(request.scope)))
        except BrokerError as error:
            await abort(context, error)

    async def Reload(
        self, request: pb.ReloadRequest, context: _Context[pb.ReloadRequest, pb.ReloadResponse]
    ) -> pb.ReloadResponse:
        """Reads the configuration again."""
        try:
            open_call(request, context).raise_any()
        except BrokerError as error:
            await abort(context, error)
        report = self._operations.reload()
        return pb.ReloadResponse(
            changed=report.changed, needs_restart=report.needs_restart, problems=report.problems
        )


def _check_named(request: pb.ExplainRequest | pb.CancelRequestRequest, problems: Problems) -> None:
    """A request by its id, with or without its agent."""
    if request.agent_id:
        check_agent_id(request.agent_id, problems)
    check_request_id(request.request_id, problems, required=True)
    problems.raise_any()
