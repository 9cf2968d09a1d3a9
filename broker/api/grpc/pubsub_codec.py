"""Events as bytes of the wire: each is encoded once, and a message is put together from pieces."""

from __future__ import annotations

from typing import Final, assert_never

from broker.api.grpc.level_codec import LEVEL, encode_level
from broker.api.grpc.model_codec import encode_place
from broker.api.grpc.status_codec import encode_alert
from broker.core.effects import TellPriority
from broker.core.events import (
    AlertsState,
    Batch,
    CapacityState,
    Event,
    HealthChange,
    LevelState,
    ModelsState,
    Payload,
    RequestChange,
)
from broker_client.pb.broker.v1 import pubsub_pb2 as pb

# A message is its fields one after the other, each behind its number and kind: events are field 1
# of SubscribeResponse and have a length, `missed` is field 2 and a number. Source: protobuf's
# encoding guide.
_EVENT_TAG: Final = b"\x0a"
_MISSED_TAG: Final = b"\x10"
assert [each.number for each in pb.SubscribeResponse.DESCRIPTOR.fields] == [1, 2]


def encode_batch(batch: Batch) -> bytes:
    """A whole SubscribeResponse."""
    pieces = [event.frame or _framed(event) for event in batch.events]
    if batch.missed:
        pieces.append(_MISSED_TAG + _varint(batch.missed))
    return b"".join(pieces)


def _framed(event: Event) -> bytes:
    """An event with its tag and length; kept with it, for all its other subscribers."""
    data = encode_event(event).SerializeToString()
    event.frame = _EVENT_TAG + _varint(len(data)) + data
    return event.frame


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def encode_event(event: Event) -> pb.Event:
    """An event as its message."""
    encoded = pb.Event(
        seq=event.seq, topic=event.topic, publisher=event.publisher, is_state=event.is_state
    )
    encoded.at.FromNanoseconds(event.at_unix_ns)
    match event.what:
        case Payload():
            encoded.payload.CopyFrom(_payload(event.what))
        case LevelState(at_ns=at_ns, view=view):
            encoded.level.CopyFrom(encode_level(view, at_ns))
        case CapacityState():
            encoded.capacity.CopyFrom(_capacity(event.what))
        case TellPriority():
            encoded.priority.CopyFrom(_priority(event.what))
        case ModelsState():
            encoded.models.CopyFrom(_models(event.what, event.at_unix_ns / 1e9))
        case RequestChange():
            encoded.request.CopyFrom(_request(event.what))
        case AlertsState(at_ns=at_ns, firing=firing):
            alerts = [encode_alert(each, at_ns) for each in firing]
            encoded.alerts.CopyFrom(pb.AlertsState(firing=alerts))
        case HealthChange():
            encoded.health.CopyFrom(_health(event.what))
        case _:
            assert_never(event.what)
    return encoded


def _health(change: HealthChange) -> pb.HealthChange:
    return pb.HealthChange(
        backend=change.backend,
        model=change.model,
        step=change.step,
        detail=change.detail,
        restarts=change.restarts,
    )


def _payload(payload: Payload) -> pb.Payload:
    return pb.Payload(data=payload.data, content_type=payload.content_type)


def _capacity(state: CapacityState) -> pb.Capacity:
    return pb.Capacity(
        level=LEVEL[state.level],
        queued=state.queued,
        queued_max=state.queued_max,
        running=state.running,
        slots=state.slots,
        backends_up=state.backends_up,
        backends_down=state.backends_down,
    )


def _priority(told: TellPriority) -> pb.PriorityChange:
    encoded = pb.PriorityChange(
        weight_factor=told.weight_factor,
        rate_factor=told.rate_factor,
        priority_best=told.priority_best,
        blocked=told.is_blocked,
        paused=told.is_paused,
    )
    if told.scope.agent_id:
        encoded.scope.agent_id = told.scope.agent_id
    elif told.scope.agent_type:
        encoded.scope.agent_type = told.scope.agent_type
    return encoded


def _models(state: ModelsState, unix_s: float) -> pb.ModelsState:
    return pb.ModelsState(
        models=[
            pb.OccupyingModel(name=each.model, place=encode_place(backend, each, unix_s))
            for backend, each in state.models
        ],
        changed_unix_ms=state.changed_unix_ms,
    )


def _request(change: RequestChange) -> pb.RequestChange:
    encoded = pb.RequestChange(
        agent_id=change.agent_id,
        request_id=change.request_id,
        state=change.state,
        model=change.model,
        backend=change.backend,
        priority=change.priority,
        reason=change.reason,
        queue_wait_ms=change.queue_wait_ns / 1e6,
        level=LEVEL[change.level],
    )
    if change.first_token_ns:
        encoded.first_token_ms = change.first_token_ns / 1e6
    if change.state != "started":
        encoded.total_ms = change.total_ns / 1e6
        encoded.usage.prompt_tokens = change.prompt_tokens
        encoded.usage.output_tokens = change.output_tokens
    return encoded
