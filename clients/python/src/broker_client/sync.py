"""The client for plain threads: a thin transport around `Generation`, which decides.

The same methods and rules as `AsyncClient`, with plain iterators. One client may be used by many
threads at once; one iterator by one thread.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc

from broker_client.accounts import ModelAccounts
from broker_client.awareness import LevelMemory, Look, ResourceAwareness, is_degraded
from broker_client.channel import CHANNEL_OPTIONS, METADATA, broker_address
from broker_client.choices import ModelChoices
from broker_client.error_status import error_of_status
from broker_client.errors import BrokerError
from broker_client.events import Chunk, Done, Event, Lowered, Requeued, Retrying, SlowDown
from broker_client.generation import Generation
from broker_client.levers import Levers
from broker_client.machine import LevelStatus, level_status_of, level_word
from broker_client.model_changes import ModelChanges
from broker_client.model_lists import ModelLists
from broker_client.operations import level_request, watch_request
from broker_client.pacers import SyncPacer, policy_of
from broker_client.pacing import PacePolicy, Pacing
from broker_client.pb.broker.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    models_pb2_grpc,
    pubsub_pb2,
    pubsub_pb2_grpc,
)
from broker_client.pubsub import Published, SyncSubscription
from broker_client.quota import Quota, quota_of
from broker_client.requests import Ask, EmbedAsk, embed_request, generate_request
from broker_client.results import Answer, EmbedResult, GenerateResult, embed_result_of
from broker_client.retry import NS_PER_S, Attempts, RetryPolicy, deadline_after
from broker_client.status import Status, status_of
from broker_client.text import TextReader, steady

MESSAGE = TypeVar("MESSAGE")


class SyncGeneration:
    """One running generation: iterate over it for its events; `close` ends it early."""

    def __init__(self, request_id: str, events: Generator[Event, None, None]) -> None:
        self.request_id = request_id
        self._events = events

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Cancels the call if it still runs."""
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Client(Levers, ModelLists, ModelChoices, ModelChanges, ModelAccounts):
    """A broker, for one agent; see `AsyncClient` for the arguments and the methods' meaning."""

    def __init__(
        self,
        address: str | None = None,
        *,
        agent_id: str = "",
        retry: RetryPolicy | None = None,
        call_timeout_s: float = 10.0,
        awareness: ResourceAwareness | None = None,
        level_age_s_max: float = 1.0,
        pace: PacePolicy | bool | None = True,
    ) -> None:
        self.address = broker_address(address)
        self.agent_id = agent_id
        self._retry = retry if retry is not None else RetryPolicy()
        self._call_timeout_s = call_timeout_s
        self._awareness = awareness
        self._pacer = SyncPacer(policy_of(pace))
        self._level = LevelMemory(round(level_age_s_max * NS_PER_S))
        self._level_lock = threading.Lock()  # one look for all who ask at once
        self._random = random.Random()
        self._channel = grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        self._inference = inference_pb2_grpc.InferenceStub(self._channel)
        self._models = models_pb2_grpc.ModelsStub(self._channel)
        self._admin = admin_pb2_grpc.AdminStub(self._channel)
        self._pubsub = pubsub_pb2_grpc.PubSubStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all calls and the connection."""
        self._channel.close()

    @property
    def pacing(self) -> Pacing | None:
        """What the client's own pacing does now; None where it is switched off."""
        return self._pacer.pacing

    def stream(self, **ask: Unpack[Ask]) -> SyncGeneration:
        """One generation as a stream of events, `Done` the last. The call begins when iterated."""
        request = generate_request(ask, agent_id=self.agent_id)
        generation = Generation(
            request,
            policy=self._retry,
            deadline_ns=deadline_after(ask.get("deadline_s"), now_ns=time.monotonic_ns()),
        )
        return SyncGeneration(
            request.request_id, self._events(generation, ask.get("awareness", self._awareness))
        )

    def generate(self, **ask: Unpack[Ask]) -> GenerateResult:
        """One generation, put together."""
        with self.stream(**ask) as events:
            answer = Answer(events.request_id)
            for event in events:
                answer.add(event)
        return answer.result()

    def text(self, **ask: Unpack[Ask]) -> Iterator[str]:
        """Only the text of a generation, as it comes; StreamBroken where given text turns void."""
        reader = TextReader()
        with self.stream(**steady(ask)) as events:
            for event in events:
                if isinstance(event, Chunk | Requeued) and (text := reader.read(event)):
                    yield text

    def embed(self, **ask: Unpack[EmbedAsk]) -> EmbedResult:
        """Vectors for texts."""
        request = embed_request(ask, agent_id=self.agent_id)
        attempts = Attempts(
            self._retry,
            deadline_ns=deadline_after(ask.get("deadline_s"), now_ns=time.monotonic_ns()),
        )
        with self._pacer.place(request.priority) as place:
            # Bounded by the retry policy: each turn after the first spends one try of it.
            while True:
                place.take(attempts.deadline_ns)
                timeout_s = attempts.timeout_s(time.monotonic_ns())
                try:
                    result = embed_result_of(self._call(self._inference.Embed, request, timeout_s))
                    place.complete()
                    return result
                except BrokerError as error:
                    place.heed(error)
                    delay_ns = attempts.delay_ns(
                        error, received=0, now_ns=time.monotonic_ns(), chance=self._random.random()
                    )
                time.sleep(delay_ns / NS_PER_S)

    def cancel(self, request_id: str) -> str:
        """Ends a request of this agent; the state it was in. RequestUnknown where there is none."""
        request = inference_pb2.CancelRequest(agent_id=self.agent_id, request_id=request_id)
        return self._short(self._inference.Cancel, request).state

    def status(self, *, requests_max: int = 0) -> Status:
        """The broker's present state, with at most so many requests listed."""
        request = admin_pb2.GetStatusRequest(requests_max=requests_max)
        return status_of(self._short(self._admin.GetStatus, request))

    def watch_status(
        self, *, requests_max: int = 0, interval_s: float = 1.0
    ) -> Generator[Status, None, None]:
        """The broker's state again and again, the first at once, until the iterator is left.
        Draining where the broker stops; nothing is tried again."""
        request = watch_request(requests_max, interval_s)
        call = self._admin.WatchStatus(request, metadata=METADATA)
        try:
            for message in call:
                yield status_of(message.status)
        except grpc.RpcError as error:
            raise self._typed(error) from error
        finally:
            call.cancel()  # type: ignore[no-untyped-call]

    def level(self) -> str:
        """The broker's level, "normal", "1", "2" or "critical", as it was at most
        `level_age_s_max` ago. Takes a second at most; where the broker did not tell it, that is
        remembered as long, and raised again."""
        return self._look(None)

    def is_degraded(self) -> bool:
        """Is the level above "normal", so that one should ask for less? Cheap: see `level`."""
        return is_degraded(self.level())

    def set_level(self, level: str | None, *, for_s: float | None = None) -> LevelStatus:
        """Sets the level ("normal", "1", "2" or "critical") by hand, for_s None: until it is set
        again; None leaves it to the measured load. What holds then."""
        answer = self._short(self._admin.SetLevel, level_request(level, for_s))
        held = level_status_of(answer.level_status)
        told_ns = time.monotonic_ns()
        with self._level_lock:  # an answer on its way may be of before
            self._level.learn(held.level, told_ns)
        return held

    def quota(self) -> Quota:
        """What this agent may use, what is left of it, and when more comes."""
        request = inference_pb2.GetQuotaRequest(agent_id=self.agent_id)
        return quota_of(self._short(self._inference.GetQuota, request))

    def publish(self, topic: str, payload: bytes = b"", *, content_type: str = "") -> Published:
        """Tells the subscribers of a free topic. TopicReserved, PublishRateLimited."""
        request = pubsub_pb2.PublishRequest(
            agent_id=self.agent_id, topic=topic, payload=payload, content_type=content_type
        )
        told = self._short(self._pubsub.Publish, request)
        return Published(seq=told.seq, subscribers=told.subscribers)

    def subscribe(self, *topics: str) -> SyncSubscription:
        """The events of topics, or of patterns of them ("requests", "team:*:done", "**")."""
        request = pubsub_pb2.SubscribeRequest(agent_id=self.agent_id, topics=topics)
        return SyncSubscription(
            lambda: self._pubsub.Subscribe(request, metadata=METADATA), self._typed
        )

    def _events(
        self, generation: Generation, awareness: ResourceAwareness | None
    ) -> Generator[Event, None, None]:
        if awareness is not None and (lowered := self._lowered(generation, awareness)):
            yield lowered
        with self._pacer.place(generation.priority) as place:
            # Bounded by the retry policy: each turn after the first spends one try of it.
            while True:
                place.take(generation.deadline_ns)
                timeout_s = generation.timeout_s(time.monotonic_ns())
                step: Event
                call = self._inference.Generate(
                    generation.request(), timeout=timeout_s, metadata=METADATA
                )
                try:
                    for message in call:
                        if (event := generation.take(message)) is not None:
                            if isinstance(event, SlowDown):
                                place.slow_down(event.retry_after_ms)
                            yield event
                    step = generation.finish()
                except grpc.RpcError as error:
                    heard = place.heed(self._typed(error))
                    step = generation.fail(
                        heard, now_ns=time.monotonic_ns(), chance=self._random.random()
                    )
                finally:
                    # Does nothing to a call that has ended. The stub package leaves it untyped.
                    call.cancel()  # type: ignore[no-untyped-call]
                if isinstance(step, Done):
                    place.complete()
                    yield step
                    return
                yield step
                if isinstance(step, Retrying):
                    time.sleep(step.delay_s)

    def _lowered(self, generation: Generation, awareness: ResourceAwareness) -> Lowered | None:
        """A broker that does not tell its level gets the request as it is: what is wrong there the
        call itself will meet, and knows how to try again."""
        try:
            left_s = generation.timeout_s(time.monotonic_ns())
            return generation.lower(awareness, self._look(left_s))
        except BrokerError:
            return None

    def _look(self, left_s: float | None) -> str:
        """The level, for one that has so long; one looks for all who ask meanwhile."""
        now_ns = time.monotonic_ns()
        if known := self._level.recall(now_ns):
            return known
        look = Look(self._level, now_ns, call_timeout_s=self._call_timeout_s, left_s=left_s)
        if not self._level_lock.acquire(timeout=look.patience_s):
            raise look.too_late()
        try:
            asked_ns = time.monotonic_ns()
            return look.recall(asked_ns) or self._ask_level(look, asked_ns)
        finally:
            self._level_lock.release()

    def _ask_level(self, look: Look, asked_ns: int) -> str:
        request = admin_pb2.GetStatusRequest()
        timeout_s = look.timeout_s(asked_ns)
        try:
            status = self._call(self._admin.GetStatus, request, timeout_s)
        except BrokerError as error:
            look.fail(error, time.monotonic_ns())
            raise
        return self._level.learn(level_word(status.level), asked_ns)

    def _short(self, method: Callable[..., MESSAGE], request: object) -> MESSAGE:
        return self._call(method, request, self._call_timeout_s)

    def _call(
        self, method: Callable[..., MESSAGE], request: object, timeout_s: float | None
    ) -> MESSAGE:
        try:
            return method(request, timeout=timeout_s, metadata=METADATA)
        except grpc.RpcError as error:
            raise self._typed(error) from error

    def _typed(self, error: grpc.RpcError) -> BrokerError:
        if not isinstance(error, grpc.Call):
            raise error  # Only a fault of gRPC itself comes without a status.
        return error_of_status(
            error.code(), error.details(), error.trailing_metadata(), address=self.address
        )
