"""Events out of bytes, wherever they are cut."""

from __future__ import annotations

import pytest

from broker.backends.server_sent_events import ERROR, Event, EventSplitter

STREAM = (
    b": a comment\n\n"
    b"data: one\n\n"
    b"data:two\r\n\r\n"
    b"event: error\ndata: {\r\ndata: }\r\n\r\n"
    b"id: 7\nretry: 10\ndata:  three\n\n"
    b"error: it broke\n\n"
    b'{"bare": 1}\n\n'
    b":\n\n"
    b"data: \xe2\x82\xac\n\n"
    b"data: rest"
)
EVENTS = [
    Event("", b"one"),
    Event("", b"two"),
    Event(ERROR, b"{\n}"),
    Event("", b" three"),
    Event(ERROR, b"it broke"),
    Event("", b'{"bare": 1}'),
    Event("", "€".encode()),
    Event("", b"rest"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 10_000])
def test_events_do_not_depend_on_the_cuts(size: int) -> None:
    splitter = EventSplitter(1_000)
    events: list[Event] = []
    for start in range(0, len(STREAM), size):
        events += splitter.feed(STREAM[start : start + size])
    assert events + splitter.end() == EVENTS


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_a_byte_order_mark_before_all_is_left_out(size: int) -> None:
    stream = b"\xef\xbb\xbfdata: one\n\ndata: \xef\xbb\xbftwo\n\n"
    splitter = EventSplitter(1_000)
    events: list[Event] = []
    for start in range(0, len(stream), size):
        events += splitter.feed(stream[start : start + size])
    assert events == [Event("", b"one"), Event("", b"\xef\xbb\xbftwo")]
    splitter.feed(b"\xef\xbb\xbfdata: three\n\n")
    assert "cannot be read" in splitter.problem, "it is one at the beginning only"


@pytest.mark.parametrize("line", [b"HTTP/1.1 200 OK\n", b"oops: 1\n", b"da ta: 1\n"])
def test_a_line_of_no_known_field_is_no_event(line: bytes) -> None:
    splitter = EventSplitter(1_000)
    assert splitter.feed(b"data: 1\n\n" + line + b"data: 2\n\n") == [Event("", b"1")]
    assert "cannot be read" in splitter.problem


@pytest.mark.parametrize(
    "parts",
    [
        (b"data: " + b"x" * 90, b"x" * 10),
        (b"data: x\n" * 20,),
        (b"data: " + b"x" * 200 + b"\n\n",),
    ],
)
def test_an_event_has_a_greatest_size(parts: tuple[bytes, ...]) -> None:
    splitter = EventSplitter(100)
    assert splitter.feed(b"data: " + b"x" * 90 + b"\n\n") == [Event("", b"x" * 90)]
    assert not splitter.problem
    for part in parts:
        assert splitter.feed(part) == []
    assert "over 100 bytes" in splitter.problem


def test_nothing_is_nothing() -> None:
    splitter = EventSplitter(100)
    assert splitter.feed(b"") == splitter.feed(b"\n\n\r\n") == splitter.end() == []


def test_a_read_that_is_one_event_is_read_as_any_other() -> None:
    splitter = EventSplitter(1_000)
    reads = (b"data: a\n\n", b"data: b\n\n", b"event: error\n", b"data: c\n\n", b"data: d\n\n")
    events = [event for read in reads for event in splitter.feed(read)]
    assert events == [Event("", b"a"), Event("", b"b"), Event(ERROR, b"c"), Event("", b"d")]
    splitter.feed(b"data: x")
    assert splitter.feed(b"data: y\n\n") == [Event("", b"xdata: y")]
    assert EventSplitter(10).feed(b"data: 0123456789\n\n") == []
