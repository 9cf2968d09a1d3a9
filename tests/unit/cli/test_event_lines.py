"""Each kind of event as a line."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from broker_client import Missed, Payload, TopicEvent
from broker_client.pb.broker.v1 import admin_pb2, common_pb2
from broker_client.pb.broker.v1 import pubsub_pb2 as pb
from broker_client.pubsub import topic_event_of
from brokerctl.event_lines import SHOWN_MAX, event_line, missed_line, payload_text, what_text
from brokerctl.events import document
from tests.unit.cli.states import busy_message, level_message


def event(**what: object) -> TopicEvent:
    message = pb.Event(seq=7, topic="t", **what)  # type: ignore[arg-type]  # It checks itself.
    message.at.FromSeconds(1_700_000_000)
    return topic_event_of(message)


def test_a_line_has_time_number_topic_and_publisher() -> None:
    at = datetime.fromtimestamp(1_700_000_000).strftime("%H:%M:%S.000")
    said = event(publisher="opus-1", payload=pb.Payload(data=b"hi"))
    assert event_line(said) == f"{at}     #7 t by opus-1: hi"
    assert event_line(event(is_state=True, level=level_message())).startswith(f"{at}    now t: 2,")


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (
            {"level": level_message()},
            "2, 1 before: gpu_memory is at 83 %: 13.3 GB of 16.0 GB are used by others",
        ),
        (
            {"capacity": pb.Capacity(queued=3, queued_max=9, slots=1, backends_down=["b"])},
            "level unspecified, 3 of 9 waiting, 0 running in 1 slot; down: b",
        ),
        (
            {
                "priority": pb.PriorityChange(
                    scope=admin_pb2.Scope(agent_id="a"),
                    weight_factor=2,
                    rate_factor=1,
                    priority_best=3,
                    blocked=True,
                )
            },
            "agent a: weight x 2, priorities from 3 on, blocked",
        ),
        (
            {"priority": pb.PriorityChange(scope=admin_pb2.Scope(agent_type="batch"))},
            "agents of type batch: as configured",
        ),
        ({"priority": pb.PriorityChange(paused=True)}, "everybody: paused"),
        ({"models": pb.ModelsState()}, "no model is loaded"),
        (
            {
                "request": pb.RequestChange(
                    agent_id="a",
                    request_id="r",
                    state="completed",
                    model="m",
                    backend="b",
                    priority=5,
                    queue_wait_ms=10,
                    first_token_ms=20,
                    total_ms=1500,
                    usage=common_pb2.Usage(output_tokens=3),
                )
            },
            "a r completed, m on b, priority 5, waited 10 ms, first token after 20 ms, "
            "ended after 1.5 s, 3 tokens",
        ),
        (
            {
                "request": pb.RequestChange(
                    agent_id="a", request_id="r", state="refused", model="m", reason="QUEUE_FULL"
                )
            },
            "a r refused (queue full), m, priority 0, waited 0 ms",
        ),
        ({"alerts": pb.AlertsState()}, "none fires"),
        (
            {"alerts": pb.AlertsState(firing=busy_message().alerts)},
            "QueueSaturation: 85 % of the queue is full",
        ),
        (
            {"health": pb.HealthChange(backend="gpu", model="m", step="slot_lost", detail="why")},
            "m on gpu slot lost: why",
        ),
        (
            {"health": pb.HealthChange(backend="gpu", step="restarting", restarts=2)},
            "gpu restarting, restarted 2 times",
        ),
        ({}, "of a kind that this brokerctl does not know"),
    ],
)
def test_what_happened_in_words(what: dict[str, object], text: str) -> None:
    assert what_text(event(**what).what) == text


def test_a_payload_is_shown_only_where_it_cannot_harm_a_terminal() -> None:
    def text(data: bytes) -> str:
        return payload_text(Payload(data=data, content_type="x/y"))

    assert text(b"plain") == "plain"
    assert text(b"\x1b[2J") == "4 bytes of x/y"
    assert text(b"two\nlines") == "9 bytes of x/y"
    assert text(b"\xff") == "1 byte of x/y"
    assert text(b"a" * 500).startswith("a" * SHOWN_MAX + "... (500 bytes")


def test_documents_hold_all_that_was_told() -> None:
    assert document(Missed(count=3)) == {"missed": 3}
    assert missed_line(Missed(count=1)).startswith("(missed 1 event:")
    told = document(event(payload=pb.Payload(data=b"hi")))
    assert told["at"] == datetime.fromtimestamp(1_700_000_000, UTC).isoformat(
        timespec="milliseconds"
    )
    assert told["what"] == {"content_type": "", "data": "hi"}
    binary = document(event(payload=pb.Payload(data=b"\xff\x00")))
    assert binary["what"] == {"content_type": "", "data_hex": "ff00"}
