"""The Inference service on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc

from broker.api.grpc.codec import (
    EventEncoder,
    decode_embed,
    decode_generate,
    fill_timings,
    fill_usage,
    fingerprint,
    whole_ms,
)
from broker.api.grpc.delivery import Deliveries, DeliveryLimits
from broker.api.grpc.floods import OpenCalls
from broker.api.grpc.level_codec import LEVEL
from broker.api.grpc.reading import open_call
from broker.api.grpc.requirements_codec import check_requirements
from broker.api.grpc.status import abort
from broker.api.grpc.traceparent import traceparent_of
from broker.api.grpc.validation import (
    RequestLimits,
    check_agent_id,
    check_embed,
    check_generate,
    check_request_id,
)
from broker.core.content import Embeddings
from broker.core.errors import BrokerError, Internal
from broker.core.requests import Outcome
from broker.core.views import QuotaView
from broker.runtime.streams import Done, Started, Subscription
from broker.services.inference import InferenceService, Submission
from broker_client.pb.broker.v1 import inference_pb2 as pb
from broker_client.pb.broker.v1 import inference_pb2_grpc

_Context = grpc.aio.ServicerContext


class InferenceServicer(inference_pb2_grpc.InferenceServicer):
    """Translates; the service decides."""

    def __init__(
        self,
        service: InferenceService,
        limits: RequestLimits,
        delivery: DeliveryLimits,
        calls_per_agent_max: int,
    ) -> None:
        self._service = service
        self._limits = limits
        self._deliveries = Deliveries(delivery, service.end_slow)
        self._open_calls = OpenCalls(calls_per_agent_max)

    async def Generate(
        self,
        request: pb.GenerateRequest,
        context: _Context[pb.GenerateRequest, pb.GenerateEvent],
    ) -> AsyncIterator[pb.GenerateEvent]:
        """Streams until `done`, or ends in an error status. A client that goes away, at any
        moment, takes its request with it."""
        subscription: Subscription | None = None
        entered = ""
        try:
            call = self._read_generate(request, context)
            self._open_calls.enter(call.agent_id)
            entered = call.agent_id
            subscription = self._service.submit(call, traceparent=traceparent_of(context))
            self._deliveries.watch(context, subscription)
            encode = EventEncoder(subscription.stream.key[1]).encode
            while not subscription.is_over:
                event = subscription.poll()
                if event is None:
                    await subscription.wait()
                else:
                    yield encode(event)
        except BrokerError as error:
            await _abort(context, error, subscription)
        finally:
            self._left(entered, subscription)

    async def Embed(
        self, request: pb.EmbedRequest, context: _Context[pb.EmbedRequest, pb.EmbedResponse]
    ) -> pb.EmbedResponse:
        """Waits for its vectors."""
        subscription: Subscription | None = None
        entered = ""
        try:
            call = self._read_embed(request, context)
            self._open_calls.enter(call.agent_id)
            entered = call.agent_id
            subscription = self._service.submit(call, traceparent=traceparent_of(context))
            encoded = pb.EmbedResponse()
            async for event in subscription:
                if isinstance(event, Started):
                    encoded.level = LEVEL[event.level]
                    encoded.changes[:] = event.changes
                    encoded.chosen_because = event.chosen_because
                elif isinstance(event, Done) and isinstance(event.result, Embeddings):
                    return _add_embeddings(encoded, event, event.result)
            raise Internal("the stream ended without vectors")
        except BrokerError as error:
            await _abort(context, error, subscription)
        finally:
            self._left(entered, subscription)

    def _left(self, entered: str, subscription: Subscription | None) -> None:
        """The handler is over, whatever the reason."""
        if entered:
            self._open_calls.leave(entered)
        if subscription is not None:
            self._deliveries.leave(subscription)
            self._service.leave(subscription)

    async def Cancel(
        self, request: pb.CancelRequest, context: _Context[pb.CancelRequest, pb.CancelResponse]
    ) -> pb.CancelResponse:
        """Ends a request of the same agent."""
        try:
            problems = open_call(request, context)
            check_agent_id(request.agent_id, problems)
            check_request_id(request.request_id, problems, required=True)
            problems.raise_any()
            state = self._service.cancel(request.agent_id, request.request_id)
            return pb.CancelResponse(state=state)
        except BrokerError as error:
            await abort(context, error)

    async def GetQuota(
        self,
        request: pb.GetQuotaRequest,
        context: _Context[pb.GetQuotaRequest, pb.GetQuotaResponse],
    ) -> pb.GetQuotaResponse:
        """What an agent may use at this moment."""
        try:
            problems = open_call(request, context)
            check_agent_id(request.agent_id, problems)
            problems.raise_any()
            return encode_quota(self._service.quota(request.agent_id))
        except BrokerError as error:
            await abort(context, error)

    def _read_generate(
        self,
        request: pb.GenerateRequest,
        context: _Context[pb.GenerateRequest, pb.GenerateEvent],
    ) -> Submission:
        problems = open_call(request, context)
        digest, size_bytes = fingerprint(request)
        text_bytes = check_generate(request, size_bytes, self._limits, problems)
        if request.HasField("requirements"):
            check_requirements(request.requirements, problems)
        problems.raise_any()
        remaining_s = context.time_remaining()
        return decode_generate(request, digest, size_bytes, text_bytes, remaining_s)

    def _read_embed(
        self, request: pb.EmbedRequest, context: _Context[pb.EmbedRequest, pb.EmbedResponse]
    ) -> Submission:
        problems = open_call(request, context)
        digest, size_bytes = fingerprint(request)
        text_bytes = check_embed(request, size_bytes, self._limits, problems)
        if request.HasField("requirements"):
            check_requirements(request.requirements, problems)
        problems.raise_any()
        return decode_embed(request, digest, size_bytes, text_bytes, context.time_remaining())


async def _abort(
    context: grpc.aio.ServicerContext[Any, Any],
    error: BrokerError,
    subscription: Subscription | None,
) -> NoReturn:
    """Says how the request ended; one that never began was refused."""
    if subscription is None:
        await abort(context, error, outcome=Outcome.REFUSED)
    sent = subscription.position
    await abort(context, error, outcome=subscription.stream.outcome, sent_pieces=sent)


def _add_embeddings(encoded: pb.EmbedResponse, done: Done, result: Embeddings) -> pb.EmbedResponse:
    encoded.model = done.model
    encoded.embeddings.extend(pb.Embedding(values=each) for each in result.vectors)
    if done.is_soft_met is not None:
        encoded.soft_deadline_met = done.is_soft_met
    fill_usage(encoded.usage, result)
    fill_timings(encoded.timings, done.timings, result)
    return encoded


def encode_quota(view: QuotaView) -> pb.GetQuotaResponse:
    """What an agent may use as its message."""
    return pb.GetQuotaResponse(
        agent_id=view.agent_id,
        agent_type=view.agent_type,
        weight=view.weight,
        priority_best=view.priority_best,
        may_be_critical=view.may_be_critical,
        queued=view.queued,
        queued_max=view.queued_max,
        running=view.running,
        compartment=view.compartment,
        compartment_running=view.compartment_running,
        compartment_max=view.compartment_max,
        buckets=[
            pb.TokenBucket(
                name=each.name,
                per_minute=each.per_minute,
                burst=each.burst,
                left=each.left,
                next_ms=whole_ms(each.next_ns),
            )
            for each in view.buckets
        ],
        paused=view.is_paused,
        blocked=view.is_blocked,
    )
