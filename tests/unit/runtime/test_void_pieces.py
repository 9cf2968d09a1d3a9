"""Where an answer begins anew its pieces count on, and every reader hears which ones are void."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.content import Completion, FinishReason, Piece, ToolCall
from broker.core.effects import TellQueued, TellRequeued, WaitReason
from broker.core.errors import ClientTooSlow, InvalidRequest
from broker.runtime.pieces import Pieces, SoFar
from broker.runtime.streams import (
    Done,
    Requeued,
    ResponseStream,
    Started,
    StreamEvent,
    Subscription,
    Timings,
)

KEY = ("agent-1", "r1")
DONE = Done(
    "m:latest",
    Completion(finish_reason=FinishReason.STOP, prompt_tokens=1, output_tokens=1),
    Timings(queue_wait_ns=0, load_wait_ns=0, first_token_ns=0, per_token_ns=0, total_ns=0),
)
VOIDS = TellRequeued(KEY, "lost", voids_pieces=True)
KEEPS = TellRequeued(KEY, "lost")
WAITS = TellQueued(KEY, 1, None, WaitReason.BACKOFF, "a backend")


def started(attempt: int) -> Started:
    return Started("m:latest", "b", "", (), attempt=attempt)


def begun(bytes_max: int = 1000) -> ResponseStream:
    """A stream whose first attempt has said "a", "b"."""
    mine = ResponseStream(KEY, bytes_max)
    mine.start(started(1), _nothing)
    mine.feed([Piece("a"), Piece("b")])
    return mine


def begin_anew(mine: ResponseStream, attempt: int = 2) -> None:
    mine.tell(VOIDS)
    mine.tell(WAITS)
    mine.start(started(attempt), _nothing)


def _nothing() -> None:
    """The first piece interests nobody here."""


def read_now(reader: Subscription) -> list[StreamEvent]:
    """Everything that can be read without a wait."""
    events: list[StreamEvent] = []
    while (event := reader.poll()) is not None:
        events.append(event)
    return events


def test_pieces_count_on_after_those_that_are_void() -> None:
    mine = begun()
    reader = mine.attach()
    assert read_now(reader) == [started(1), Pieces(0, "ab", "", (), 2)]
    begin_anew(mine)
    mine.feed([Piece("x")])
    assert read_now(reader) == [Requeued("lost", 2), WAITS, started(2), Pieces(2, "x", "", (), 1)]
    assert (mine.pieces_count, mine.void_before, reader.position) == (3, 2, 3)


def test_a_reader_that_is_behind_gets_no_void_piece() -> None:
    mine = begun()
    reader = mine.attach()
    begin_anew(mine)
    mine.feed([Piece("x"), Piece("y")])
    mine.finish(DONE)
    assert read_now(reader) == [
        started(1),
        Requeued("lost", 2),
        WAITS,
        started(2),
        Pieces(2, "xy", "", (), 2),
        DONE,
    ]


def test_until_it_has_heard_of_it_a_reader_has_been_sent_what_it_has_read() -> None:
    mine = begun()
    reader = mine.attach()
    assert reader.poll() == started(1)
    mine.tell(VOIDS)
    assert reader.position == 0
    assert reader.poll() == Requeued("lost", 2)
    assert reader.position == 2


def test_where_nothing_is_void_what_came_before_is_read_before() -> None:
    mine = begun()
    reader = mine.attach()
    mine.tell(KEEPS)
    mine.start(started(2), _nothing)
    mine.feed([Piece("c")])
    mine.finish(DONE)
    assert read_now(reader) == [
        started(1),
        Pieces(0, "ab", "", (), 2),
        Requeued("lost"),
        started(2),
        Pieces(2, "c", "", (), 1),
        DONE,
    ]


@pytest.mark.parametrize("resume_from", [0, 1, 2])
def test_a_newer_reader_of_void_pieces_is_told_and_begins_after_them(resume_from: int) -> None:
    mine = begun()
    begin_anew(mine)
    mine.feed([Piece("x"), Piece("y")])
    reader = mine.attach(resume_from)
    assert read_now(reader) == [Requeued("lost", 2), started(2), Pieces(2, "xy", "", (), 2)]


def test_a_newer_reader_that_had_a_piece_since_was_told_already() -> None:
    mine = begun()
    begin_anew(mine)
    mine.feed([Piece("x"), Piece("y")])
    assert read_now(mine.attach(3)) == [started(2), Pieces(3, "y", "", (), 1)]


def test_a_newer_reader_hears_once_what_was_said_last() -> None:
    mine = begun()
    mine.tell(VOIDS)
    assert read_now(mine.attach()) == [Requeued("lost", 2)]


def test_void_pieces_take_no_room_and_the_reader_behind_them_is_bounded_still() -> None:
    mine = begun(bytes_max=4)
    reader = mine.attach()
    mine.tell(VOIDS)
    mine.feed([Piece("1234")])
    with pytest.raises(ClientTooSlow):
        mine.feed([Piece("5")])
    assert read_now(reader)[:2] == [started(1), Requeued("lost", 2)]


def test_after_pieces_were_dropped_the_void_ones_cannot_be_resumed_either() -> None:
    mine = begun(bytes_max=4)
    reader = mine.attach()
    mine.tell(VOIDS)
    mine.start(started(1), _nothing)
    mine.feed([Piece("1234")])
    read_now(reader)
    mine.feed([Piece("5")])
    with pytest.raises(InvalidRequest, match="pieces 3 to 4 can be resumed"):
        mine.attach(2)
    assert read_now(mine.attach(3)) == [started(1), Pieces(3, "5", "", (), 1)]


def test_what_stands_of_an_answer() -> None:
    mine = begun(bytes_max=4)
    assert mine.so_far() == SoFar("ab", "", False, True)
    mine.tell(VOIDS)
    mine.feed([Piece("c", "hm"), Piece("", "", (ToolCall("1", "f", ""),))])
    assert mine.so_far() == SoFar("c", "hm", True, True)
    read_now(mine.attach(2))
    mine.feed([Piece("d")])
    assert not mine.so_far().is_whole


def test_calls_of_tools_take_their_room() -> None:
    mine = ResponseStream(KEY, 10)
    with pytest.raises(ClientTooSlow):
        mine.feed([Piece("", "", (ToolCall("1", "f", '"0123456789"'),))])


@given(st.lists(st.sampled_from(["piece", "void", "keep", "read"]), max_size=40))
def test_however_it_is_read_the_last_answer_is_whole(steps: list[str]) -> None:
    """A client that drops what it is told to has exactly what the last attempts said."""
    mine = ResponseStream(KEY, 10_000)
    reader = mine.attach()
    meant: list[str] = []
    got: dict[int, str] = {}
    fed = 0

    def read(count: int) -> None:
        for _ in range(count):
            event = reader.poll()
            if isinstance(event, Requeued):
                for seq in [each for each in got if each < event.void_before]:
                    del got[seq]
            elif isinstance(event, Pieces):
                assert not got or event.seq > max(got)
                got[event.seq] = event.text

    for step in steps:
        if step == "piece":
            mine.feed([Piece(f"{fed},")])
            meant.append(f"{fed},")
            fed += 1
        elif step == "read":
            read(1)
        else:
            mine.tell(VOIDS if step == "void" else KEEPS)
            mine.start(started(2), _nothing)
            if step == "void":
                meant.clear()
    read(3 * len(steps) + 1)
    assert "".join(got.values()) == "".join(meant)


async def test_a_reader_that_waits_wakes_when_pieces_become_void() -> None:
    mine = begun()
    reader = mine.attach()
    read_now(reader)
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)  # the reader waits now
    mine.tell(VOIDS)
    assert await waiting == Requeued("lost", 2)
