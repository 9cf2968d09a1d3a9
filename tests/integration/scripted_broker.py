"""A broker that follows a script, behind a wire that can be cut: what the client's tests talk to.

Each call of Generate or Embed takes the next turn of the script. A turn is an asynchronous
generator over the request and the call's context.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from broker_client.pb.broker.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    common_pb2,
    inference_pb2,
    inference_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    pubsub_pb2,
    pubsub_pb2_grpc,
)
from tests.integration.scripted_accounts import ScriptedAccounts
from tests.integration.scripted_answers import Context as Context
from tests.integration.scripted_answers import Turn as Turn
from tests.integration.scripted_answers import refuse as refuse
from tests.integration.scripted_models import ScriptedModels
from tests.integration.wire import Wire

Request = (
    inference_pb2.GenerateRequest
    | inference_pb2.EmbedRequest
    | pubsub_pb2.SubscribeRequest
    | models_pb2.WatchRequest
)
Lever = (
    admin_pb2.BoostRequest
    | admin_pb2.BlockRequest
    | admin_pb2.PauseRequest
    | admin_pb2.ResumeRequest
    | admin_pb2.DrainRequest
)
WORDS = ("The ", "sky ", "is ", "blue", ".")


def queued(position: int = 1) -> inference_pb2.GenerateEvent:
    return inference_pb2.GenerateEvent(queued=inference_pb2.Queued(position=position))


def chunk(seq: int, text: str) -> inference_pb2.GenerateEvent:
    return inference_pb2.GenerateEvent(chunk=inference_pb2.Chunk(seq=seq, text=text, tokens=1))


def done() -> inference_pb2.GenerateEvent:
    return inference_pb2.GenerateEvent(
        done=inference_pb2.Done(model="tiny:latest", finish_reason=inference_pb2.FINISH_REASON_STOP)
    )


async def answer(
    request: inference_pb2.GenerateRequest, context: Context
) -> AsyncIterator[inference_pb2.GenerateEvent]:
    """The turn of a broker where all is well; resumes where it is asked to."""
    yield queued()
    yield inference_pb2.GenerateEvent(started=inference_pb2.Started(model="tiny:latest"))
    for seq in range(request.resume_from_seq, len(WORDS)):
        yield chunk(seq, WORDS[seq])
    yield done()


class ScriptedBroker(
    inference_pb2_grpc.InferenceServicer,
    ScriptedAccounts,
    ScriptedModels,
    admin_pb2_grpc.AdminServicer,
    pubsub_pb2_grpc.PubSubServicer,
):
    """Follows its script and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.script: deque[Turn] = deque()
        self.requests: list[Any] = []
        self.levers: list[Any] = []
        self.statuses = 0  # how often it was asked for its state, once or for each of a watch
        self.keeps_its_level = False  # GetStatus fails
        self.tells = asyncio.Event()  # not set: GetStatus is heard, and its answer held back
        self.tells.set()
        self.looked_at = asyncio.Event()  # GetStatus was called
        self.level_set = asyncio.Event()  # SetLevel was called
        self.level: common_pb2.DegradationLevel.ValueType = common_pb2.DEGRADATION_LEVEL_NORMAL
        self.hangs_after = 0  # states of a watch after which no more come; 0: it ends instead
        self.under_way: list[admin_pb2.RequestStatus] = []  # listed whenever any are asked for
        self.reloaded = admin_pb2.ReloadResponse()  # what a reload comes to
        self.backends = [admin_pb2.BackendStatus(name="gpu0", up=True)]
        self.metadata: list[dict[str, str | bytes]] = []
        self.gone = asyncio.Event()  # a caller went away during `hang`
        self.wire = Wire(0)

    @property
    def address(self) -> str:
        """Where the client connects: the wire's near end."""
        return f"127.0.0.1:{self.wire.port}"

    async def hang(
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[inference_pb2.GenerateEvent]:
        """The turn of a broker that answers with one piece and then nothing more."""
        try:
            yield queued()
            yield chunk(0, WORDS[0])
            await asyncio.Event().wait()
        finally:
            self.gone.set()

    def cut_after(self, pieces: int) -> Turn:
        """The turn of a broker whose connection is cut once so many pieces were sent."""

        async def turn(
            request: inference_pb2.GenerateRequest, context: Context
        ) -> AsyncIterator[inference_pb2.GenerateEvent]:
            yield queued()
            for seq in range(request.resume_from_seq, request.resume_from_seq + pieces):
                yield chunk(seq, WORDS[seq])
            self.wire.cut()
            await asyncio.Event().wait()

        return turn

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[inference_pb2.GenerateEvent]:
        turn = self._next(request, context)
        async for event in turn(request, context):
            yield event

    async def Embed(
        self, request: inference_pb2.EmbedRequest, context: Context
    ) -> inference_pb2.EmbedResponse:
        turn = self._next(request, context)
        async for response in turn(request, context):
            assert isinstance(response, inference_pb2.EmbedResponse)
            return response
        raise AssertionError("a turn of Embed gives one response")

    async def Cancel(
        self, request: inference_pb2.CancelRequest, context: Context
    ) -> inference_pb2.CancelResponse:
        if request.request_id != "known":
            await refuse(context, grpc.StatusCode.NOT_FOUND, "REQUEST_UNKNOWN", outcome="")
        return inference_pb2.CancelResponse(state="queued")

    async def GetStatus(
        self, request: admin_pb2.GetStatusRequest, context: Context
    ) -> admin_pb2.GetStatusResponse:
        if self.keeps_its_level:
            await refuse(context, grpc.StatusCode.INTERNAL, "INTERNAL", outcome="")
        status = self._status(request.requests_max)
        self.looked_at.set()
        await self.tells.wait()
        return status

    async def WatchStatus(
        self, request: admin_pb2.WatchStatusRequest, context: Context
    ) -> AsyncIterator[admin_pb2.WatchStatusResponse]:
        """Three, as fast as they are taken; then it stops, or hangs after fewer."""
        for count in range(3):
            if count and count == self.hangs_after:
                await asyncio.Event().wait()
            yield admin_pb2.WatchStatusResponse(status=self._status(request.requests_max))
        await refuse(context, grpc.StatusCode.UNAVAILABLE, "DRAINING", outcome="")

    async def SetLevel(
        self, request: admin_pb2.SetLevelRequest, context: Context
    ) -> admin_pb2.SetLevelResponse:
        copy = admin_pb2.SetLevelRequest()
        copy.CopyFrom(request)
        self.levers.append(copy)
        self.level_set.set()
        self.level = request.level or common_pb2.DEGRADATION_LEVEL_NORMAL
        return admin_pb2.SetLevelResponse(level_status=self._level_status(request.for_ms or None))

    def _level_status(self, until_ms: int | None = None) -> admin_pb2.LevelStatus:
        part = admin_pb2.LoadPart(
            name="queue", known=True, value=2, limit=1000, share=0.002, detail="2 of 1000 wait"
        )
        return admin_pb2.LevelStatus(
            level=self.level, automatic=until_ms is None, until_ms=until_ms, parts=[part]
        )

    def _status(self, requests_max: int) -> admin_pb2.GetStatusResponse:
        self.statuses += 1
        return admin_pb2.GetStatusResponse(
            version="1.2.3",
            level=self.level,
            level_status=self._level_status(),
            queued=2,
            queued_max=1000,
            outcomes=[admin_pb2.OutcomeCount(outcome="completed", count=7)],
            backends=self.backends,
            requests=self.under_way[:requests_max]
            or [admin_pb2.RequestStatus(request_id="r")] * requests_max,
        )

    async def Drain(
        self, request: admin_pb2.DrainRequest, context: Context
    ) -> admin_pb2.DrainResponse:
        if request.backend:
            await self._lever(request, context)
            return admin_pb2.DrainResponse(queued=1, running=2)
        said = request.timeout_ms if request.HasField("timeout_ms") else 30_000
        return admin_pb2.DrainResponse(queued=1, running=2, timeout_ms=said)

    async def GetQuota(
        self, request: inference_pb2.GetQuotaRequest, context: Context
    ) -> inference_pb2.GetQuotaResponse:
        bucket = inference_pb2.TokenBucket(
            name="requests", per_minute=10, burst=10, left=0.25, next_ms=4_500
        )
        return inference_pb2.GetQuotaResponse(
            agent_id=request.agent_id,
            agent_type="opus",
            weight=2,
            priority_best=3,
            queued=1,
            queued_max=100,
            compartment="opus",
            compartment_running=4,
            compartment_max=10,
            buckets=[bucket],
            paused=True,
        )

    async def Explain(
        self, request: admin_pb2.ExplainRequest, context: Context
    ) -> admin_pb2.ExplainResponse:
        if request.request_id != "known":
            await refuse(context, grpc.StatusCode.NOT_FOUND, "REQUEST_UNKNOWN", outcome="")
        other = admin_pb2.RequestName(agent_id="opus-2", request_id="other")
        return admin_pb2.ExplainResponse(
            agent_id=request.agent_id or "opus-1",
            request_id="known",
            model="tiny:latest",
            priority=5,
            compartment="opus",
            state="queued",
            age_ms=1500,
            queue_wait_ms=1500,
            position=2,
            wait_reason=common_pb2.WAIT_REASON_BULKHEAD,
            wait_detail="10 of 10 in opus run",
            gates=[admin_pb2.Gate(name="request bucket", passed=True, detail="9 of 10 left")],
            overtakings=[admin_pb2.Overtaking(rule="a bulkhead", count=3, examples=[other])],
            complete=True,
        )

    async def CancelRequest(
        self, request: admin_pb2.CancelRequestRequest, context: Context
    ) -> admin_pb2.CancelRequestResponse:
        if request.request_id != "known":
            await refuse(context, grpc.StatusCode.NOT_FOUND, "REQUEST_UNKNOWN", outcome="")
        agent_id = request.agent_id or "opus-1"
        return admin_pb2.CancelRequestResponse(agent_id=agent_id, state="queued")

    async def ListAgents(
        self, request: admin_pb2.ListAgentsRequest, context: Context
    ) -> admin_pb2.ListAgentsResponse:
        """Two pages."""
        if not request.page_token:
            first = admin_pb2.Agent(agent_id="opus-1", weight=1, requests_left=9.5, boosted=True)
            return admin_pb2.ListAgentsResponse(agents=[first], next_page_token="opus-1")
        return admin_pb2.ListAgentsResponse(agents=[admin_pb2.Agent(agent_id="opus-2")])

    async def Boost(
        self, request: admin_pb2.BoostRequest, context: Context
    ) -> admin_pb2.BoostResponse:
        return admin_pb2.BoostResponse(agents=await self._lever(request, context))

    async def Block(
        self, request: admin_pb2.BlockRequest, context: Context
    ) -> admin_pb2.BlockResponse:
        return admin_pb2.BlockResponse(agents=await self._lever(request, context))

    async def Pause(
        self, request: admin_pb2.PauseRequest, context: Context
    ) -> admin_pb2.PauseResponse:
        return admin_pb2.PauseResponse(agents=await self._lever(request, context))

    async def Resume(
        self, request: admin_pb2.ResumeRequest, context: Context
    ) -> admin_pb2.ResumeResponse:
        return admin_pb2.ResumeResponse(agents=await self._lever(request, context))

    async def Reload(
        self, request: admin_pb2.ReloadRequest, context: Context
    ) -> admin_pb2.ReloadResponse:
        return self.reloaded

    async def Publish(
        self, request: pubsub_pb2.PublishRequest, context: Context
    ) -> pubsub_pb2.PublishResponse:
        """The number says how long the payload was, so that a test sees that it came."""
        if request.topic == "level":
            await refuse(context, grpc.StatusCode.PERMISSION_DENIED, "TOPIC_RESERVED", outcome="")
        return pubsub_pb2.PublishResponse(seq=len(request.payload), subscribers=2)

    async def Subscribe(
        self, request: pubsub_pb2.SubscribeRequest, context: Context
    ) -> AsyncIterator[pubsub_pb2.SubscribeResponse]:
        """Takes a turn of the script, as Generate does."""
        turn = self._next(request, context)
        async for message in turn(request, context):
            yield message

    async def _lever(self, request: Lever, context: Context) -> int:
        """Remembers what was asked for; an agent or a backend "absent" is not known, of a type
        there are 3 agents."""
        copy = type(request)()
        copy.CopyFrom(request)  # type: ignore[arg-type]  # The same type by construction.
        self.levers.append(copy)
        if getattr(request, "backend", "") == "absent":
            await refuse(context, grpc.StatusCode.NOT_FOUND, "BACKEND_NOT_FOUND", outcome="")
        if isinstance(request, admin_pb2.DrainRequest):
            return 0
        if request.scope.agent_id == "absent":
            await refuse(context, grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND", outcome="")
        return 1 if request.scope.agent_id else 3

    def _next(self, request: Request, context: Context) -> Turn:
        copy = type(request)()
        copy.CopyFrom(request)  # type: ignore[arg-type]  # The same type by construction.
        self.requests.append(copy)
        self.metadata.append(dict(context.invocation_metadata()))
        return self.script.popleft()


@asynccontextmanager
async def serving() -> AsyncIterator[ScriptedBroker]:
    """A scripted broker and its wire, up."""
    broker = ScriptedBroker()
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServicer_to_server(broker, server)
    models_pb2_grpc.add_ModelsServicer_to_server(broker, server)
    admin_pb2_grpc.add_AdminServicer_to_server(broker, server)
    pubsub_pb2_grpc.add_PubSubServicer_to_server(broker, server)
    broker.wire = Wire(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await broker.wire.start()
    try:
        yield broker
    finally:
        await broker.wire.close()
        await server.stop(None)
