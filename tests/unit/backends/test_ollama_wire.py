"""Ollama's streams, cut anywhere: lines, pieces, the end, and the ways in which there is none."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.backends.figures import COUNT_MAX
from broker.backends.ollama_wire import (
    LINE_BYTES_MAX,
    AnswerReader,
    LineSplitter,
    LineTooLong,
)
from broker.core.content import Completion, FinishReason, Piece, ToolCall

FINAL = (
    '{"model":"m","created_at":"x","response":"","done":true,"done_reason":"stop",'
    '"context":[1,2],"total_duration":60,"load_duration":10,"prompt_eval_count":3,'
    '"prompt_eval_duration":20,"eval_count":4,"eval_duration":30}\n'
)
COMPLETION = Completion(
    finish_reason=FinishReason.STOP,
    prompt_tokens=3,
    output_tokens=4,
    prompt_duration_ns=20,
    output_duration_ns=30,
    load_duration_ns=10,
    total_duration_ns=60,
)


def parts_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def lines_of(
    parts: Iterable[bytes], splitter: LineSplitter | None = None
) -> tuple[list[bytes], bytes]:
    splitter = splitter or LineSplitter()
    lines = [line for part in parts for line in splitter.feed(part)]
    return lines, splitter.end()


def read(text: str, *, chat: bool = False) -> tuple[list[Piece], AnswerReader]:
    reader = AnswerReader(chat=chat)
    pieces = reader.feed(text.encode())
    return pieces + reader.end(), reader


@given(
    st.lists(st.binary(max_size=20).map(lambda part: part.replace(b"\n", b"")), max_size=8),
    st.binary(max_size=9).map(lambda part: part.replace(b"\n", b"")),
    st.lists(st.integers(min_value=0), max_size=12),
)
def test_lines_are_the_same_however_they_are_cut(
    lines: list[bytes], rest: bytes, cuts: list[int]
) -> None:
    data = b"".join(line + b"\n" for line in lines) + rest
    expected = [line for line in lines if line], rest
    assert lines_of([data]) == expected
    assert lines_of(parts_of(data, cuts)) == expected
    assert lines_of(data[i : i + 1] for i in range(len(data))) == expected


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_line_has_a_limit_in_one_part_or_many(size: int) -> None:
    splitter = LineSplitter(10)
    assert splitter.feed(b"0123456789\n0123456789") == [b"0123456789"]
    assert splitter.feed(b"\n") == [b"0123456789"]
    data = b"0123456789a\n"
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    with pytest.raises(LineTooLong):
        lines_of(parts, splitter)


TEXTS = st.text(max_size=12)


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=6), st.booleans(), st.data())
def test_pieces_are_the_same_however_they_are_cut(
    said: list[tuple[str, str]], chat: bool, data: st.DataObject
) -> None:
    lines = []
    for text, thinking in said:
        if chat:
            body: dict[str, object] = {"message": {"content": text, "thinking": thinking}}
        else:
            body = {"response": text, "thinking": thinking}
        lines.append(json.dumps(body | {"done": False}, ensure_ascii=False))
    answer = ("\n".join(lines) + "\n").encode() if lines else b""
    answer += FINAL.encode()
    expected = [Piece(text, thinking) for text, thinking in said if text or thinking]
    cuts = data.draw(st.lists(st.integers(min_value=0), max_size=9))
    for parts in (
        [answer],
        parts_of(answer, cuts),
        [answer[i : i + 1] for i in range(len(answer))],
    ):
        reader = AnswerReader(chat=chat)
        pieces = [piece for part in parts for piece in reader.feed(part)]
        assert pieces == expected
        assert reader.completion == COMPLETION
        assert reader.end() == []


def test_the_last_line_may_carry_text_and_lack_its_end() -> None:
    pieces, reader = read('{"response":" all","done":true,"done_reason":"length","eval_count":1}')
    assert pieces == [Piece(" all")]
    assert reader.completion is not None
    assert reader.completion.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("reason", ["", "load", "unload", "content_filter"])
def test_other_reasons_are_unsaid(reason: str) -> None:
    _, reader = read(f'{{"response":"","done":true,"done_reason":"{reason}"}}\n')
    assert reader.completion is not None
    assert reader.completion.finish_reason is FinishReason.UNSAID


CALL = (
    '{"id":"c","function":{"index":0,"name":"f","arguments":{"z":"\\u003c","a":{"y":1.0,"b":2}}}}'
)
CALLED = ToolCall("c", "f", '{"z":"\\u003c","a":{"y":1.0,"b":2}}')


@pytest.mark.parametrize("last", [False, True], ids=["in an earlier line", "in the last line"])
def test_tool_calls_keep_the_order_of_their_arguments(last: bool) -> None:
    message = f'{{"message":{{"role":"assistant","content":"","tool_calls":[{CALL},{CALL}]}},'
    end = '"done":true,"done_reason":"stop"}\n'
    text = message + end if last else message + '"done":false}\n{' + end
    pieces, reader = read(text, chat=True)
    assert pieces == [Piece("", "", (CALLED, CALLED))]
    assert reader.completion is not None
    assert reader.completion.finish_reason is FinishReason.TOOL_CALLS


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("", "{}"), (',"arguments":null', "{}"), (',"arguments":{}', "{}")],
)
def test_a_call_without_arguments_has_none(arguments: str, expected: str) -> None:
    call = f'{{"function":{{"name":"f"{arguments}}}}}'
    pieces, _ = read(f'{{"message":{{"tool_calls":[{call}]}}}}\n', chat=True)
    assert pieces == [Piece("", "", (ToolCall("", "f", expected),))]


@pytest.mark.parametrize(
    ("text", "problem", "garbled"),
    [
        ("", "ended without its terminator", False),
        ('{"response":"a"}\n', "ended without its terminator", False),
        ('{"response":"a","done":false}', "ended without its terminator", False),
        ('{"response":"a"}\n{"error":"it broke"}\n', "it broke", False),
        ('{"response":"a"}\n{"error":"it broke"}', "it broke", False),
        ('{"response":"a"}\n{"error":{"message":"it broke"}}\n', "it broke", False),
        ('{"response":"a"}\ngarbage\n', "cannot be read", True),
        ('{"response":"a"}\n{"respon', "cannot be read", True),
        ('{"response":"a"}\n7\n', "cannot be read", True),
        ('{"response":7}\n', "cannot be read", True),
        ('{"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}\n', "no object", True),
    ],
)
def test_an_answer_without_a_good_end_is_a_failure(text: str, problem: str, garbled: bool) -> None:
    pieces, reader = read(text)
    assert pieces == ([Piece("a")] if '"a"' in text else [])
    assert reader.completion is None
    assert reader.failure is not None
    assert problem in reader.failure.message
    assert reader.is_garbled is garbled


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("name", ["prompt_eval_count", "eval_count"])
@pytest.mark.parametrize("count", [-1, -(10**400), COUNT_MAX + 1, 2**63, 2**64, 10**400])
def test_a_count_that_no_model_can_reach_is_a_failure(chat: bool, name: str, count: int) -> None:
    """Whoever counts so is not believed: its agent pays for the pieces that came."""
    said = '"message":{"content":"a"}' if chat else '"response":"a"'
    end = f'{{"done":true,"done_reason":"stop","{name}":{count}}}\n'
    pieces, reader = read(f"{{{said}}}\n{end}", chat=chat)
    assert pieces == [Piece("a")]
    assert reader.completion is None
    assert reader.failure is not None
    assert "cannot be read" in reader.failure.message
    assert reader.is_garbled


def test_the_largest_count_is_taken() -> None:
    _, reader = read(f'{{"done":true,"prompt_eval_count":{COUNT_MAX},"eval_count":0}}\n')
    assert reader.completion is not None
    assert (reader.completion.prompt_tokens, reader.completion.output_tokens) == (COUNT_MAX, 0)


DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("size", [2**63, -(2**63) - 1, 10**400, -(10**400)])
def test_a_duration_of_more_than_64_bits_is_a_failure(name: str, size: int) -> None:
    _, reader = read(f'{{"done":true,"{name}":{size}}}\n')
    assert reader.completion is None
    assert reader.is_garbled


@pytest.mark.parametrize(("said", "taken"), [(-(2**63), 0), (-1, 0), (2**63 - 1, 2**63 - 1)])
def test_a_clock_that_never_began_measured_nothing(said: int, taken: int) -> None:
    figures = ",".join(f'"{name}":{said}' for name in DURATIONS)
    _, reader = read(f'{{"done":true,{figures}}}\n')
    assert reader.completion is not None
    assert {
        reader.completion.total_duration_ns,
        reader.completion.load_duration_ns,
        reader.completion.prompt_duration_ns,
        reader.completion.output_duration_ns,
    } == {taken}


def test_bytes_that_are_no_text_are_a_failure() -> None:
    reader = AnswerReader(chat=False)
    assert reader.feed(b'{"response":"\xff"}\n') == []
    assert reader.is_garbled


@pytest.mark.parametrize("chat", [False, True])
def test_json_of_any_depth_is_a_failure(chat: bool) -> None:
    reader = AnswerReader(chat=chat)
    assert reader.feed(b'{"context":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n") == []
    assert reader.failure is not None
    assert reader.is_garbled


def test_nothing_is_read_after_the_end() -> None:
    pieces, reader = read(FINAL + '{"response":"more"}\n{"error":"late"}\n')
    assert pieces == []
    assert reader.completion == COMPLETION
    assert reader.failure is None
    assert reader.feed(b'{"response":"more"}\n') == []


def test_a_line_of_the_largest_size_is_read_and_a_larger_one_is_not() -> None:
    frame = '{"response":""}'
    largest = frame[:-2] + "x" * (LINE_BYTES_MAX - len(frame)) + '"}'
    pieces, _ = read(largest + "\n")
    assert len(pieces[0].text) == LINE_BYTES_MAX - len(frame)
    pieces, reader = read(largest.replace("x", "xx", 1) + "\n")
    assert pieces == []
    assert reader.failure is not None
    assert f"over {LINE_BYTES_MAX} bytes" in reader.failure.message
    assert reader.is_garbled
