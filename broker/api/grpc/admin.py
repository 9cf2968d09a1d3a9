"""The Admin service on the wire."""

from __future__ import annotations

from typing import Final

import grpc

from broker.api.grpc.codec import WAIT_REASON
from broker.api.grpc.models import encode_place
from broker.api.grpc.reading import open_call
from broker.api.grpc.status import abort
from broker.core.errors import BrokerError
from broker.core.requests import RequestKey
from broker.core.snapshot import BackendView, RequestView
from broker.core.tally import PriorityTally
from broker.services.status import BackendIdentity, Status, StatusService
from broker_client.pb.broker.v1 import admin_pb2 as pb
from broker_client.pb.broker.v1 import admin_pb2_grpc, common_pb2

REQUESTS_MAX: Final = 1000
DRAIN_MS_MAX: Final = 3_600_000

_Context = grpc.aio.ServicerContext


class AdminServicer(admin_pb2_grpc.AdminServicer):
    """Translates; the service knows."""

    def __init__(self, service: StatusService) -> None:
        self._service = service

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
        return encode_status(self._service.status(request.requests_max))

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
        snapshot, timeout_ms = self._service.drain(asked)
        return pb.DrainResponse(
            queued=snapshot.queued, running=snapshot.running, timeout_ms=timeout_ms
        )


def encode_status(status: Status) -> pb.GetStatusResponse:
    """The whole state as its message."""
    snapshot = status.snapshot
    return pb.GetStatusResponse(
        version=status.version,
        uptime_s=status.uptime_ns / 1e9,
        draining=snapshot.draining,
        level=common_pb2.DEGRADATION_LEVEL_NORMAL,
        queued=snapshot.queued,
        queued_max=snapshot.queued_max,
        running=snapshot.running,
        outcomes=[
            pb.OutcomeCount(outcome=outcome.value, count=count)
            for outcome, count in snapshot.outcomes.items()
        ],
        priorities=[_encode_priority(*each) for each in snapshot.priorities.items()],
        backends=[_encode_backend(each, status.backends[each.name]) for each in snapshot.backends],
        requests=[
            _encode_request(each, snapshot.at_ns, status.pieces[each.key])
            for each in snapshot.requests
        ],
    )


def _encode_priority(priority: int, tally: PriorityTally) -> pb.PriorityStatus:
    mean_ns = tally.queue_wait_ns_sum / tally.started if tally.started else 0
    return pb.PriorityStatus(
        priority=priority,
        queued=tally.queued,
        running=tally.running,
        ended=tally.ended,
        queue_wait_ms_mean=mean_ns / 1e6,
        queue_wait_ms_max=tally.queue_wait_ns_max / 1e6,
    )


def _encode_backend(view: BackendView, identity: BackendIdentity) -> pb.BackendStatus:
    return pb.BackendStatus(
        name=view.name,
        kind=identity.kind,
        url=identity.url,
        up=view.up,
        problem=view.problem,
        version=identity.version,
        models=[
            pb.BackendModel(
                name=each.model, place=encode_place(view.name, each), queued=each.queued
            )
            for each in view.residents
        ],
        loads=view.loads,
        loads_failed=view.loads_failed,
    )


def _encode_request(view: RequestView, now_ns: int, pieces: int) -> pb.RequestStatus:
    key: RequestKey = view.key
    encoded = pb.RequestStatus(
        request_id=key[1],
        agent_id=key[0],
        model=view.model,
        priority=view.priority,
        state=view.state.value,
        age_ms=(now_ns - view.arrived_ns) / 1e6,
        tokens=pieces,
        backend=view.backend,
        wait_detail=view.wait_detail,
    )
    if view.wait_reason is not None:
        encoded.wait_reason = WAIT_REASON[view.wait_reason]
    return encoded
