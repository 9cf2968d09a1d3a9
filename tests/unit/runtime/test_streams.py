"""A stream never waits for its reader, loses nothing, repeats nothing, and is bounded."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.content import Completion, FinishReason, Piece, ToolCall
from broker.core.effects import TellQueued, TellRequeued, TellSlowDown, WaitReason
from broker.core.errors import ClientTooSlow, DeadlineExpired, InvalidRequest, TakenOver
from broker.core.requests import Outcome
from broker.runtime.pieces import MESSAGE_TEXT_BYTES_MAX, Pieces
from broker.runtime.streams import (
    Done,
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
STARTED = Started("m:latest", "b", "", ())


def stream(bytes_max: int = 1000) -> ResponseStream:
    return ResponseStream(KEY, bytes_max)


def queued(position: int) -> TellQueued:
    return TellQueued(KEY, position, None, WaitReason.SLOT, "a slot")


async def read_all(subscription: Subscription) -> list[StreamEvent]:
    return [event async for event in subscription]


async def test_what_gathered_while_nobody_read_comes_in_one_message() -> None:
    mine = stream()
    reader = mine.attach()
    mine.feed([Piece("a"), Piece("b")])
    mine.feed([Piece("c")])
    mine.finish(DONE)
    assert await read_all(reader) == [Pieces(0, "abc", "", (), 3), DONE]


async def test_a_reader_that_waits_gets_each_piece_by_itself() -> None:
    mine = stream()
    reader = mine.attach()
    for seq, word in enumerate("abc"):
        waiting = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0)  # the reader waits now
        mine.feed([Piece(word)])
        assert await waiting == Pieces(seq, word, "", (), 1)


async def test_thinking_comes_before_text_and_text_before_calls_or_the_message_ends() -> None:
    mine = stream()
    reader = mine.attach()
    call = ToolCall("1", "f", "{}")
    mine.feed(
        [
            Piece("", "hm"),
            Piece("a"),
            Piece("", "more"),
            Piece("b", "", (call,)),
            Piece("c"),
        ]
    )
    mine.finish(DONE)
    assert await read_all(reader) == [
        Pieces(0, "a", "hm", (), 2),
        Pieces(2, "b", "more", (call,), 2),
        Pieces(4, "c", "", (), 1),
        DONE,
    ]


async def test_a_merged_message_has_a_largest_size() -> None:
    mine = stream(bytes_max=10 * MESSAGE_TEXT_BYTES_MAX)
    reader = mine.attach()
    half = "x" * (MESSAGE_TEXT_BYTES_MAX // 2)
    mine.feed([Piece(half)] * 5)
    mine.finish(DONE)
    events = await read_all(reader)
    assert [event.piece_count for event in events if isinstance(event, Pieces)] == [2, 2, 1]


async def test_a_reader_that_falls_too_far_behind_is_refused_more() -> None:
    mine = stream(bytes_max=10)
    mine.attach()
    mine.feed([Piece("12345"), Piece("12345")])
    with pytest.raises(ClientTooSlow, match="10 bytes"):
        mine.feed([Piece("1")])


async def test_what_was_read_is_forgotten_first_and_costs_nothing_then() -> None:
    mine = stream(bytes_max=10)
    reader = mine.attach()
    mine.feed([Piece("1234567890")])
    assert await anext(reader) == Pieces(0, "1234567890", "", (), 1)
    mine.feed([Piece("abc")])
    with pytest.raises(InvalidRequest, match="pieces 1 to 2 can be resumed"):
        mine.attach(0)
    assert await anext(reader) == Pieces(1, "abc", "", (), 1)


async def test_a_newer_reader_goes_on_where_it_says_and_the_older_one_is_told() -> None:
    mine = stream()
    old = mine.attach()
    mine.start(STARTED, _nothing)
    mine.feed([Piece("a"), Piece("b"), Piece("c")])
    waiting = asyncio.ensure_future(read_all(old))
    new = mine.attach(resume_from=2)
    with pytest.raises(TakenOver):
        await waiting
    mine.finish(DONE)
    assert await read_all(new) == [STARTED, Pieces(2, "c", "", (), 1), DONE]
    assert mine.is_read_by(new)
    assert not mine.is_read_by(old)


@pytest.mark.parametrize("resume_from", [-1, 3])
async def test_a_reader_cannot_begin_where_nothing_is(resume_from: int) -> None:
    mine = stream()
    mine.feed([Piece("a"), Piece("b")])
    with pytest.raises(InvalidRequest, match="resume_from_seq"):
        mine.attach(resume_from)


async def test_positions_are_conflated_to_the_latest() -> None:
    mine = stream()
    reader = mine.attach()
    for position in (9, 5, 2):
        mine.tell(queued(position))
    mine.start(STARTED, _nothing)
    mine.finish(DONE)
    assert await read_all(reader) == [queued(2), STARTED, DONE]


async def test_a_requeued_request_waits_again_for_a_newer_reader_too() -> None:
    mine = stream()
    mine.attach()
    mine.start(STARTED, _nothing)
    mine.tell(TellRequeued(KEY, "gone"))
    mine.tell(queued(1))
    reader = mine.attach()
    mine.fail(DeadlineExpired("too late"), Outcome.EXPIRED)
    events: list[StreamEvent] = []
    with pytest.raises(DeadlineExpired):
        await _collect(reader, events)
    assert events == [queued(1)]
    assert mine.outcome is Outcome.EXPIRED


async def test_pieces_that_came_before_a_failure_are_read_before_it() -> None:
    mine = stream()
    reader = mine.attach()
    mine.feed([Piece("a")])
    mine.fail(DeadlineExpired("too late"), Outcome.EXPIRED)
    assert await anext(reader) == Pieces(0, "a", "", (), 1)
    with pytest.raises(DeadlineExpired):
        await anext(reader)


@given(
    st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=30),
    st.lists(st.booleans(), max_size=60),
)
def test_however_it_is_read_every_piece_comes_once_and_in_order(
    pieces: list[tuple[str, str]], reads: list[bool]
) -> None:
    async def play() -> list[Pieces]:
        mine = stream(bytes_max=10_000)
        reader = mine.attach()
        got: list[Pieces] = []
        fed = 0
        for is_read in reads:
            if is_read and (event := mine.take_from(reader.position)) is not None:
                reader.position += event.piece_count
                got.append(event)
            elif fed < len(pieces):
                mine.feed([Piece(*pieces[fed])])
                fed += 1
        for each in pieces[fed:]:
            mine.feed([Piece(*each)])
        mine.finish(DONE)
        got.extend([event async for event in reader if isinstance(event, Pieces)])
        return got

    got = asyncio.run(play())
    assert [event.seq for event in got] == [
        sum(each.piece_count for each in got[:index]) for index in range(len(got))
    ]
    assert "".join(event.text for event in got) == "".join(text for text, _ in pieces)
    assert "".join(event.thinking for event in got) == "".join(each for _, each in pieces)


async def _collect(reader: Subscription, events: list[StreamEvent]) -> None:
    async for event in reader:
        events.append(event)


def _nothing() -> None:
    """The first piece interests nobody here."""


async def test_of_many_calls_to_slow_down_the_last_is_read_and_no_position_is_lost() -> None:
    mine = stream()
    reader = mine.attach()
    for number in range(1, 1000):
        mine.tell(queued(number))
        mine.tell(TellSlowDown(KEY, number))
    mine.feed([Piece("a")])
    mine.finish(DONE)
    assert await read_all(reader) == [
        queued(999),
        TellSlowDown(KEY, 999),
        Pieces(0, "a", "", (), 1),
        DONE,
    ]


async def test_a_call_to_slow_down_wakes_its_reader() -> None:
    mine = stream()
    waiting = asyncio.ensure_future(anext(mine.attach()))
    await asyncio.sleep(0)  # the reader waits now
    mine.tell(TellSlowDown(KEY, 5))
    assert await waiting == TellSlowDown(KEY, 5)


async def test_a_later_reader_hears_where_it_stands_and_not_what_was_said_to_another() -> None:
    mine = stream()
    mine.tell(TellSlowDown(KEY, 5))  # nobody reads
    mine.tell(queued(3))
    mine.attach()
    mine.tell(TellSlowDown(KEY, 6))
    reader = mine.attach()
    mine.finish(DONE)
    assert await read_all(reader) == [queued(3), DONE]
