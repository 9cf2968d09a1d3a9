"""The Admin service on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from broker.api.grpc.admin_codec import (
    decode_boost,
    decode_lasting,
    decode_scope,
    encode_agent,
    encode_explanation,
)
from broker.api.grpc.admin_validation import (
    INTERVAL_MS_DEFAULT,
    check_boost,
    check_drain,
    check_for_ms,
    check_requests_max,
    check_resume,
    check_scope,
    check_set_level,
    check_watch,
)
from broker.api.grpc.level_codec import LEVEL_OF_NUMBER, encode_level
from broker.api.grpc.reading import open_call
from broker.api.grpc.status import abort
from broker.api.grpc.status_codec import encode_status
from broker.api.grpc.validation import (
    AGENT_ID_LENGTH_MAX,
    PAGE_SIZE_DEFAULT,
    Problems,
    check_agent_id,
    check_length,
    check_page_size,
    check_request_id,
)
from broker.core.errors import BrokerError
from broker.services.operations import OperationsService
from broker.services.status import StatusService
from broker_client.pb.broker.v1 import admin_pb2 as pb
from broker_client.pb.broker.v1 import admin_pb2_grpc

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
            check_requests_max(request.requests_max, problems)
            problems.raise_any()
        except BrokerError as error:
            await abort(context, error)
        return encode_status(self._status.status(request.requests_max))

    async def WatchStatus(
        self,
        request: pb.WatchStatusRequest,
        context: _Context[pb.WatchStatusRequest, pb.WatchStatusResponse],
    ) -> AsyncIterator[pb.WatchStatusResponse]:
        """The present state again and again. The next one is made when the one before was taken:
        for a caller that does not read nothing gathers here, it gets what holds when it does."""
        try:
            problems = open_call(request, context)
            check_watch(request, problems)
            problems.raise_any()
            interval_s = (request.interval_ms or INTERVAL_MS_DEFAULT) / 1000
            while True:
                status = encode_status(self._status.status(request.requests_max))
                yield pb.WatchStatusResponse(status=status)
                await self._status.wait_left(interval_s)
        except BrokerError as error:
            await abort(context, error)

    async def SetLevel(
        self,
        request: pb.SetLevelRequest,
        context: _Context[pb.SetLevelRequest, pb.SetLevelResponse],
    ) -> pb.SetLevelResponse:
        """Sets the level by hand, or leaves it to the load again."""
        try:
            problems = open_call(request, context)
            check_set_level(request, problems)
            problems.raise_any()
        except BrokerError as error:
            await abort(context, error)
        level = LEVEL_OF_NUMBER.get(request.level)
        view = self._status.set_level(level, decode_lasting(request.for_ms))
        return pb.SetLevelResponse(level_status=encode_level(view, self._status.now_ns()))

    async def Drain(
        self, request: pb.DrainRequest, context: _Context[pb.DrainRequest, pb.DrainResponse]
    ) -> pb.DrainResponse:
        """Begins to leave, or to start nothing on one backend, and says what is under way."""
        try:
            problems = open_call(request, context)
            check_drain(request, problems)
            problems.raise_any()
            if request.backend:
                queued, running = self._operations.drain_backend(request.backend)
                return pb.DrainResponse(queued=queued, running=running)
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
        """Ends what was asked for with the same scope, or the drain of a backend."""
        try:
            problems = open_call(request, context)
            check_resume(request, problems)
            problems.raise_any()
            if request.backend:
                self._operations.resume_backend(request.backend)
                return pb.ResumeResponse()
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
