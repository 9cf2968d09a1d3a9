"""Events as bytes: what is put together from pieces is the message itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.api.grpc.pubsub_codec import encode_batch, encode_event
from broker.core.effects import TellPriority
from broker.core.events import (
    AlertsState,
    Batch,
    CapacityState,
    Event,
    LevelState,
    ModelsState,
    Payload,
    RequestChange,
    What,
)
from broker.core.level import Level
from broker.core.stimuli import Scope
from broker.core.views import AlertView, LevelView
from broker_client.pb.broker.v1 import admin_pb2, common_pb2
from broker_client.pb.broker.v1 import pubsub_pb2 as pb

S = 1_000_000_000


def event(what: What, seq: int = 1, topic: str = "t") -> Event:
    return Event(seq=seq, topic=topic, at_unix_ns=1_700_000_000 * S, publisher="a", what=what)


def payload(size_bytes: int) -> Payload:
    return Payload(data=b"x" * size_bytes, content_type="a/b")


@given(
    st.lists(st.tuples(st.integers(0, 2**63 - 1), st.sampled_from((0, 1, 90, 127, 128, 20_000)))),
    st.integers(0, 2**63 - 1),
)
def test_a_message_of_pieces_is_the_message(drawn: list[tuple[int, int]], missed: int) -> None:
    events = tuple(event(payload(size_bytes), seq) for seq, size_bytes in drawn)
    data = encode_batch(Batch(events=events, missed=missed))
    whole = pb.SubscribeResponse(events=[encode_event(each) for each in events], missed=missed)
    assert pb.SubscribeResponse.FromString(data) == whole
    assert data == whole.SerializeToString()


def test_an_event_is_encoded_once_for_all_who_are_told() -> None:
    one = event(payload(10))
    first = encode_batch(Batch(events=(one,), missed=0))
    frame = one.frame
    assert first == frame
    encode_batch(Batch(events=(one,), missed=3))
    assert one.frame is frame


def test_moments_of_the_engines_clock_become_durations() -> None:
    view = LevelView(
        level=Level.LEVEL_1,
        before=Level.NORMAL,
        is_automatic=False,
        since_ns=3 * S,
        until_ns=9 * S,
        why="because",
        load=0.7,
        parts=(),
        sensors=(),
        host=None,
        gpus=(),
    )
    encoded = encode_event(event(LevelState(at_ns=5 * S, view=view))).level
    assert encoded == admin_pb2.LevelStatus(
        level=common_pb2.DEGRADATION_LEVEL_1,
        level_before=common_pb2.DEGRADATION_LEVEL_NORMAL,
        since_ms=2_000,
        until_ms=4_000,
        why="because",
        load=0.7,
    )
    alert = AlertView(name="n", severity="warning", summary="s", runbook="r", since_ns=2 * S)
    alerts = encode_event(event(AlertsState(at_ns=5 * S, firing=(alert,)))).alerts
    assert [each.since_ms for each in alerts.firing] == [3_000]


def test_whom_an_operator_meant() -> None:
    def scope_of(scope: Scope) -> pb.PriorityChange:
        told = TellPriority(
            scope=scope,
            weight_factor=2.0,
            rate_factor=1.0,
            priority_best=3,
            is_blocked=False,
            is_paused=True,
        )
        return encode_event(event(told)).priority

    one = scope_of(Scope(agent_id="opus-1"))
    assert one.scope == admin_pb2.Scope(agent_id="opus-1")
    assert (one.weight_factor, one.priority_best, one.blocked, one.paused) == (2.0, 3, False, True)
    assert scope_of(Scope(agent_type="opus")).scope == admin_pb2.Scope(agent_type="opus")
    assert not scope_of(Scope()).HasField("scope")


def test_what_has_not_happened_to_a_request_is_not_set() -> None:
    def change(state: str, first_token_ns: int) -> pb.RequestChange:
        what = RequestChange(
            agent_id="a",
            request_id="r",
            state=state,
            model="m",
            backend="b",
            priority=5,
            reason="",
            level=Level.CRITICAL,
            queue_wait_ns=S,
            first_token_ns=first_token_ns,
        )
        return encode_event(event(what)).request

    started, expired, completed = change("started", 0), change("expired", 0), change("done", S)
    assert started.level == common_pb2.DEGRADATION_LEVEL_CRITICAL
    assert started.queue_wait_ms == 1_000
    assert not started.HasField("total_ms")
    assert not started.HasField("usage")
    assert expired.HasField("total_ms")
    assert not expired.HasField("first_token_ms")
    assert completed.first_token_ms == 1_000


def test_states_that_are_lists_say_all_of_them() -> None:
    capacity = CapacityState(
        level=Level.NORMAL,
        queued=1,
        queued_max=2,
        running=3,
        slots=4,
        backends_up=("a", "b"),
        backends_down=("c",),
    )
    assert encode_event(event(capacity)).capacity == pb.Capacity(
        level=common_pb2.DEGRADATION_LEVEL_NORMAL,
        queued=1,
        queued_max=2,
        running=3,
        slots=4,
        backends_up=["a", "b"],
        backends_down=["c"],
    )
    assert encode_event(event(ModelsState(models=()))).WhichOneof("what") == "models"
