"""Events of topics: what the broker tells of itself, and what agents tell each other.

A subscription first brings the present state of each of the broker's own topics that it asked for
(`is_state`), then what happens. What this side reads too slowly is dropped by the broker, oldest
first, and counted: a `Missed` stands where events are missing. What a topic means is in
proto/broker/v1/pubsub.proto.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

import grpc
from grpc import aio

from broker_client.catalogue import ModelPlace, place_of
from broker_client.errors import BrokerError
from broker_client.events import Usage, usage_of
from broker_client.machine import LevelStatus, level_status_of, level_word
from broker_client.pb.broker.v1 import pubsub_pb2
from broker_client.status import Alert, alert_of

# What reading a stream gives once it is over; the stub package does not know it.
_EOF: Final[object] = aio.EOF  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The number of an event that was told, and how many subscribers it concerned then."""

    seq: int
    subscribers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """What an agent published, as it was given."""

    data: bytes
    content_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How much there is to have; `slots` are those of resident models."""

    level: str
    queued: int
    queued_max: int
    running: int
    slots: int
    backends_up: tuple[str, ...]
    backends_down: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityChange:
    """What an operator changed in how an agent or a type counts; neither named: everybody.
    `priority_best` 0 leaves that of the type."""

    agent_id: str
    agent_type: str
    weight_factor: float
    rate_factor: float
    priority_best: int
    blocked: bool
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OccupyingModel:
    """A model that occupies a backend."""

    name: str
    place: ModelPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsState:
    """The models that occupy backends, or are about to. `changed_unix_ms` is when what is known of
    all models last changed: another one than before means that `models` answers otherwise."""

    models: tuple[OccupyingModel, ...]
    changed_unix_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestChange:
    """A step in the life of a request: `state` is "started", or how it ended. Times are None where
    there was no first token, or where it has not ended."""

    agent_id: str
    request_id: str
    state: str
    model: str
    backend: str
    priority: int
    reason: str
    queue_wait_ms: float
    first_token_ms: float | None
    total_ms: float | None
    usage: Usage
    level: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertsState:
    """All alerts that fire."""

    firing: tuple[Alert, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthChange:
    """Something ails a backend, or a model on one (else ""), or is cured: "frozen", "slot_lost",
    "sick", "cured", "cure_failed", "down", "up", "wedged", "restarting", "restarted" or "given_up".
    """

    backend: str
    model: str
    step: str
    detail: str
    restarts: int


What = (
    Payload
    | LevelStatus
    | Capacity
    | PriorityChange
    | ModelsState
    | RequestChange
    | AlertsState
    | HealthChange
    | None
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicEvent:
    """Something that happened, under a number that grows over all topics of this life of the
    broker. `publisher` is empty where the broker spoke. `is_state`: it is the present state, as
    looked at then, and `seq` that of the last change. `what` is None where this version does not
    know its kind."""

    seq: int
    topic: str
    at: datetime
    publisher: str
    is_state: bool
    what: What


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """So many events were dropped here, as this side read too slowly."""

    count: int


News = TopicEvent | Missed


def news_of(message: pubsub_pb2.SubscribeResponse) -> Iterator[News]:
    """All that a message of the stream tells, in its order."""
    if message.missed:
        yield Missed(count=message.missed)
    for each in message.events:
        yield topic_event_of(each)


def topic_event_of(message: pubsub_pb2.Event) -> TopicEvent:
    """The wire's event, typed."""
    return TopicEvent(
        seq=message.seq,
        topic=message.topic,
        at=message.at.ToDatetime(tzinfo=UTC),
        publisher=message.publisher,
        is_state=message.is_state,
        what=what_of(message),
    )


def what_of(message: pubsub_pb2.Event) -> What:
    """What an event tells of."""
    match message.WhichOneof("what"):
        case "payload":
            payload = message.payload
            return Payload(data=payload.data, content_type=payload.content_type)
        case "level":
            return level_status_of(message.level)
        case "capacity":
            return capacity_of(message.capacity)
        case "priority":
            return priority_change_of(message.priority)
        case "models":
            return ModelsState(
                models=tuple(
                    OccupyingModel(name=each.name, place=place_of(each.place))
                    for each in message.models.models
                ),
                changed_unix_ms=message.models.changed_unix_ms,
            )
        case "request":
            return request_change_of(message.request)
        case "alerts":
            return AlertsState(firing=tuple(alert_of(each) for each in message.alerts.firing))
        case "health":
            health = message.health
            return HealthChange(
                backend=health.backend,
                model=health.model,
                step=health.step,
                detail=health.detail,
                restarts=health.restarts,
            )
        case _:
            return None


def capacity_of(message: pubsub_pb2.Capacity) -> Capacity:
    """The wire's state, typed."""
    return Capacity(
        level=level_word(message.level),
        queued=message.queued,
        queued_max=message.queued_max,
        running=message.running,
        slots=message.slots,
        backends_up=tuple(message.backends_up),
        backends_down=tuple(message.backends_down),
    )


def priority_change_of(message: pubsub_pb2.PriorityChange) -> PriorityChange:
    """The wire's change, typed."""
    return PriorityChange(
        agent_id=message.scope.agent_id,
        agent_type=message.scope.agent_type,
        weight_factor=message.weight_factor,
        rate_factor=message.rate_factor,
        priority_best=message.priority_best,
        blocked=message.blocked,
        paused=message.paused,
    )


def request_change_of(message: pubsub_pb2.RequestChange) -> RequestChange:
    """The wire's change, typed."""
    return RequestChange(
        agent_id=message.agent_id,
        request_id=message.request_id,
        state=message.state,
        model=message.model,
        backend=message.backend,
        priority=message.priority,
        reason=message.reason,
        queue_wait_ms=message.queue_wait_ms,
        first_token_ms=message.first_token_ms if message.HasField("first_token_ms") else None,
        total_ms=message.total_ms if message.HasField("total_ms") else None,
        usage=usage_of(message.usage),
        level=level_word(message.level),
    )


class AsyncSubscription:
    """A subscription on asyncio: iterate over it for its news, without end; leave it with `aclose`.

    With `async with` the broker has it before the block begins, and no event after that is lost
    unsaid. It ends in a `BrokerError`: Draining where the broker leaves, ConnectionLost. Nothing is
    tried again, since what happened meanwhile could not be told: subscribe anew for the state.
    """

    def __init__(
        self, open_call: Callable[[], Any], typed: Callable[[aio.AioRpcError], BrokerError]
    ) -> None:
        self._open_call = open_call
        self._typed = typed
        self._call: Any = None
        self._news: deque[News] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> News:
        while not self._news:
            await self._read()
        return self._news.popleft()

    async def _read(self) -> None:
        if self._call is None:
            self._call = self._open_call()
        try:
            message = await self._call.read()
        except aio.AioRpcError as error:
            raise self._typed(error) from error
        if message is _EOF:
            raise StopAsyncIteration
        self._news.extend(news_of(message))

    async def aclose(self) -> None:
        """Ends the call."""
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> Self:
        try:
            await self._read()
        except StopAsyncIteration:
            pass  # it is over, which whoever iterates will see
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class SyncSubscription:
    """The same for plain threads. `close` may be called by another thread: the iteration ends."""

    def __init__(
        self, open_call: Callable[[], Any], typed: Callable[[grpc.RpcError], BrokerError]
    ) -> None:
        self._open_call = open_call
        self._typed = typed
        self._call: Any = None
        self._is_closed = False
        self._news: deque[News] = deque()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> News:
        while not self._news:
            self._read()
        return self._news.popleft()

    def _read(self) -> None:
        if self._is_closed:
            raise StopIteration
        if self._call is None:
            self._call = self._open_call()
            if self._is_closed:  # meanwhile, by a thread that saw no call to end
                self._call.cancel()
        try:
            message = next(self._call)
        except grpc.RpcError as error:
            if self._is_closed:
                raise StopIteration from error
            raise self._typed(error) from error
        self._news.extend(news_of(message))

    def close(self) -> None:
        """Ends the call."""
        self._is_closed = True
        if self._call is not None:
            self._call.cancel()

    def __enter__(self) -> Self:
        try:
            self._read()
        except StopIteration:
            pass  # it is over, which whoever iterates will see
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
