"""The state of one generation over its tries: pieces counted, endings told apart."""

from __future__ import annotations

import grpc
import pytest

from broker_client.errors import (
    ConnectionLost,
    DeadlineExpired,
    ErrorDetails,
    QueueFull,
    RequestUnknown,
    StreamBroken,
)
from broker_client.events import Chunk, Done, Event, Queued, Requeued, Retrying, Started
from broker_client.generation import Generation
from broker_client.pb.broker.v1 import common_pb2, inference_pb2
from broker_client.results import Answer
from broker_client.retry import RetryPolicy
from broker_client.text import TextReader

GenerateEvent = inference_pb2.GenerateEvent


def generation(deadline_ns: int | None = None, on_interruption: str = "FAIL") -> Generation:
    said = inference_pb2.OnInterruption.Value(f"ON_INTERRUPTION_{on_interruption}")
    request = inference_pb2.GenerateRequest(request_id="r1", on_interruption=said)
    return Generation(request, policy=RetryPolicy(), deadline_ns=deadline_ns)


def chunk(seq: int, text: str, tokens: int = 1) -> GenerateEvent:
    return GenerateEvent(chunk=inference_pb2.Chunk(seq=seq, text=text, tokens=tokens))


def done() -> GenerateEvent:
    return GenerateEvent(
        done=inference_pb2.Done(
            model="tiny:latest",
            usage=common_pb2.Usage(prompt_tokens=3, output_tokens=2),
            timings=common_pb2.Timings(queue_wait_ms=1.5),
            finish_reason=inference_pb2.FINISH_REASON_STOP,
        )
    )


def requeued(discard_before_seq: int) -> GenerateEvent:
    return GenerateEvent(
        requeued=inference_pb2.Requeued(reason="p1", discard_before_seq=discard_before_seq)
    )


def lost() -> ConnectionLost:
    return ConnectionLost(ErrorDetails(code=grpc.StatusCode.UNAVAILABLE))


def gone() -> RequestUnknown:
    return RequestUnknown(ErrorDetails(code=grpc.StatusCode.NOT_FOUND, reason="REQUEST_UNKNOWN"))


def fail(running: Generation, error: Exception) -> Done | Retrying | Requeued:
    assert isinstance(error, ConnectionLost | RequestUnknown)
    return running.fail(error, now_ns=0, chance=0.0)


def test_the_events_of_the_wire_become_typed() -> None:
    running = generation()
    queued = inference_pb2.Queued(
        position=2, reason=common_pb2.WAIT_REASON_LOADING, detail="tiny is loaded", request_id="r1"
    )
    assert running.take(GenerateEvent(queued=queued)) == Queued(
        position=2, eta_ms=None, reason="loading", detail="tiny is loaded", request_id="r1"
    )
    queued.eta_ms = 0
    event = running.take(GenerateEvent(queued=queued))
    assert isinstance(event, Queued)
    assert (event.eta_ms, event.eta_low_ms, event.eta_high_ms) == (0, None, None)
    queued.eta_low_ms, queued.eta_high_ms = 0, 400
    event = running.take(GenerateEvent(queued=queued))
    assert isinstance(event, Queued)
    assert (event.eta_low_ms, event.eta_high_ms) == (0, 400)
    started = inference_pb2.Started(
        model="tiny",
        backend="gpu0",
        level=common_pb2.DEGRADATION_LEVEL_NORMAL,
        changes=["x"],
        attempt=2,
    )
    assert running.take(GenerateEvent(started=started)) == Started(
        model="tiny", backend="gpu0", level="normal", substituted_for="", changes=("x",), attempt=2
    )


def test_words_and_kinds_of_a_newer_broker_do_no_harm() -> None:
    running = generation()
    queued = inference_pb2.Queued()
    queued.ParseFromString(b"\x18\x63")  # Field 3, the reason, with a number that nobody knows.
    event = running.take(GenerateEvent(queued=queued))
    assert isinstance(event, Queued)
    assert event.reason == "unspecified"
    assert running.take(GenerateEvent()) is None


def test_a_second_try_begins_where_the_first_one_stopped() -> None:
    running = generation()
    assert running.request().resume_from_seq == 0
    running.take(chunk(0, "a"))
    running.take(chunk(1, "bc", tokens=2))
    assert isinstance(fail(running, lost()), Retrying)
    assert running.request().resume_from_seq == 3
    assert isinstance(running.take(chunk(3, "d")), Chunk)


@pytest.mark.parametrize("seq", [0, 2])
def test_a_gap_or_a_repeat_is_an_error(seq: int) -> None:
    running = generation()
    running.take(chunk(0, "a"))
    with pytest.raises(StreamBroken, match=f"piece {seq} came where 1 was due"):
        running.take(chunk(seq, "x"))


def test_numbers_go_on_after_void_pieces() -> None:
    running = generation()
    running.take(chunk(0, "a"))
    running.take(chunk(1, "b"))
    assert running.take(requeued(2)) == Requeued(reason="p1", discard_before_seq=2)
    assert running.request().resume_from_seq == 2
    with pytest.raises(StreamBroken, match="piece 0 came where 2 was due"):
        running.take(chunk(0, "A"))
    running.take(chunk(2, "A"))
    assert running.request().resume_from_seq == 3


def test_back_in_the_queue_with_all_that_came_still_standing() -> None:
    running = generation()
    running.take(chunk(0, "a"))
    running.take(requeued(0))
    running.take(chunk(1, "b"))
    assert running.request().resume_from_seq == 2


def test_void_pieces_that_were_not_sent_any_more_are_due_no_more() -> None:
    running = generation()
    running.take(chunk(0, "a"))
    running.take(requeued(5))
    running.take(chunk(5, "A"))
    assert running.request().resume_from_seq == 6


def test_being_told_again_what_is_void_changes_nothing() -> None:
    running = generation()
    running.take(requeued(3))
    running.take(chunk(3, "a"))
    running.take(requeued(3))
    assert isinstance(running.take(chunk(4, "b")), Chunk)


def test_done_is_given_when_the_stream_has_ended() -> None:
    running = generation()
    assert running.take(done()) is None
    assert running.finish().usage.output_tokens == 2


def test_a_stream_that_ends_well_without_done_is_broken() -> None:
    with pytest.raises(StreamBroken, match="without a done event"):
        generation().finish()


def test_a_connection_lost_after_done_changes_nothing() -> None:
    running = generation()
    running.take(done())
    assert isinstance(fail(running, lost()), Done)


def test_a_request_that_is_gone_when_resumed_was_lost() -> None:
    running = generation()
    running.take(chunk(0, "abc", tokens=3))
    fail(running, lost())
    running.request()
    with pytest.raises(ConnectionLost, match="dropped") as raised:
        fail(running, gone())
    assert raised.value.sent_pieces == 3


@pytest.mark.parametrize("on_interruption", ["RESTART", "CONTINUE"])
def test_a_request_that_is_gone_begins_anew_where_it_may(on_interruption: str) -> None:
    running = generation(on_interruption=on_interruption)
    running.take(chunk(0, "a"))
    running.take(chunk(1, "b"))
    fail(running, lost())
    running.request()
    void = fail(running, gone())
    assert isinstance(void, Requeued)
    assert void.discard_before_seq == 2
    assert (running.request().request_id, running.request().resume_from_seq) == ("r1", 0)
    # The broker that does not know it counts from 0, the caller goes on counting.
    event = running.take(chunk(0, "A"))
    assert isinstance(event, Chunk)
    assert event.seq == 2
    running.take(chunk(1, "B"))
    assert running.request().resume_from_seq == 2
    assert running.take(requeued(2)) == Requeued(reason="p1", discard_before_seq=4)
    event = running.take(chunk(2, "C"))
    assert isinstance(event, Chunk)
    assert event.seq == 4


def test_a_request_that_is_gone_before_its_first_piece_is_simply_sent_anew() -> None:
    running = generation()
    fail(running, lost())
    assert running.request().resume_from_seq == 0
    assert isinstance(running.take(chunk(0, "a")), Chunk)


def test_a_broker_that_begins_anew_may_refuse_for_a_while() -> None:
    running = generation(on_interruption="RESTART")
    running.take(chunk(0, "a"))
    fail(running, lost())
    running.request()
    fail(running, gone())
    running.request()
    full = QueueFull(
        ErrorDetails(code=grpc.StatusCode.UNAVAILABLE, retry_after_s=1, outcome="refused")
    )
    assert isinstance(running.fail(full, now_ns=0, chance=0.0), Retrying)


def test_no_try_begins_after_the_deadline() -> None:
    running = generation(deadline_ns=1_000_000_000)
    assert running.timeout_s(0) == 1.0
    with pytest.raises(DeadlineExpired):
        running.timeout_s(1_000_000_000)


def events_of(*messages: GenerateEvent) -> list[Event]:
    running = generation()
    events = [event for each in messages if (event := running.take(each)) is not None]
    return [*events, running.finish()]


def calling(seq: int, thinking: str) -> GenerateEvent:
    call = inference_pb2.ToolCall(id="1", name="w", arguments_json='{"a":1}')
    return GenerateEvent(
        chunk=inference_pb2.Chunk(seq=seq, thinking=thinking, tool_calls=[call], tokens=1)
    )


def test_an_answer_is_put_together_without_its_void_pieces() -> None:
    answer = Answer("r1")
    for event in events_of(
        calling(0, "no"), chunk(1, "b"), requeued(2), chunk(2, "B"), calling(3, "hm"), done()
    ):
        answer.add(event)
    result = answer.result()
    assert (result.text, result.thinking, result.request_id) == ("B", "hm", "r1")
    assert len(result.tool_calls) == 1
    assert result.tool_calls[0].arguments() == {"a": 1}
    assert (result.model, result.finish_reason) == ("tiny:latest", "stop")
    assert result.timings.queue_wait_ms == 1.5


def test_void_pieces_inside_one_message_cannot_be_taken_apart() -> None:
    answer = Answer("r1")
    first, _ = events_of(chunk(0, "abc", tokens=3), done())
    answer.add(first)
    with pytest.raises(StreamBroken, match="in one message"):
        answer.add(Requeued(reason="p1", discard_before_seq=1))


def test_an_answer_without_done_is_none() -> None:
    with pytest.raises(StreamBroken):
        Answer("r1").result()


def test_text_that_was_given_cannot_be_void() -> None:
    reader = TextReader()
    assert reader.read(Chunk(seq=0, text="", thinking="t", tool_calls=(), tokens=1)) == ""
    assert reader.read(Requeued(reason="p1", discard_before_seq=1)) == ""
    assert reader.read(Chunk(seq=1, text="a", thinking="", tool_calls=(), tokens=1)) == "a"
    assert reader.read(Requeued(reason="p1", discard_before_seq=0)) == ""
    assert reader.read(Requeued(reason="p1", discard_before_seq=1)) == ""
    with pytest.raises(StreamBroken, match="p1"):
        reader.read(Requeued(reason="p1", discard_before_seq=2))


def test_arguments_that_are_no_object_are_an_error() -> None:
    event = events_of(
        GenerateEvent(
            chunk=inference_pb2.Chunk(
                tokens=1, tool_calls=[inference_pb2.ToolCall(name="w", arguments_json="[1]")]
            )
        ),
        done(),
    )[0]
    assert isinstance(event, Chunk)
    with pytest.raises(ValueError, match="no JSON object"):
        event.tool_calls[0].arguments()
