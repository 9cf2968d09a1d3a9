"""Streamed answers in OpenAI's dialect: what is handed out, how they end, how they fail."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from broker.backends.openai_wire import CALLS_MAX, OpenAiAnswerReader
from broker.core.content import Completion, FinishReason, Piece, ToolCall
from broker.core.errors import (
    AccessDenied,
    BackendBusy,
    BackendFailed,
    BackendRefused,
    BrokerError,
)

DONE = "data: [DONE]\n\n"


def said(delta: object = None, finish: str | None = None, **more: object) -> str:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return f"data: {json.dumps({'model': 'm', 'choices': [choice], **more})}\n\n"


def text(word: str) -> str:
    return said({"content": word})


def part(index: int, arguments: str = "", name: str = "", call_id: str = "") -> str:
    call: dict[str, object] = {"index": index}
    call["function"] = {"arguments": arguments, **({"name": name} if name else {})}
    if call_id:
        call["id"] = call_id
    return said({"tool_calls": [call]})


def read(*events: str, size: int = 0, ends: bool = True) -> tuple[list[Piece], OpenAiAnswerReader]:
    """All pieces of the answer, fed whole or in parts of this size."""
    data = "".join(events).encode()
    reader = OpenAiAnswerReader()
    pieces: list[Piece] = []
    for start in range(0, len(data), size or len(data) or 1):
        pieces += reader.feed(data[start : start + (size or len(data))])
    if ends:
        pieces += reader.end()
    return pieces, reader


def calls_of(pieces: Sequence[Piece]) -> list[ToolCall]:
    return [call for piece in pieces for call in piece.tool_calls]


def failure(*events: str) -> BrokerError:
    _, reader = read(*events)
    assert reader.completion is None
    assert reader.failure is not None
    return reader.failure


@pytest.mark.parametrize("size", [0, 1, 5])
def test_words_thinking_and_figures(size: int) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    timings = {"prompt_ms": 1.5, "predicted_ms": 20.0, "prompt_n": 5}
    pieces, reader = read(
        said({"role": "assistant", "content": ""}),
        ":\n\n",
        said({"reasoning": "hm"}),
        said({"reasoning_content": "so"}),
        text("né"),
        text("😀"),
        said(finish="stop"),
        f"data: {json.dumps({'choices': [], 'usage': usage, 'timings': timings})}\n\n",
        DONE,
        size=size,
    )
    assert pieces == [Piece("", "hm"), Piece("", "so"), Piece("né"), Piece("😀")]
    assert reader.completion == Completion(
        finish_reason=FinishReason.STOP,
        prompt_tokens=5,
        output_tokens=4,
        prompt_duration_ns=1_500_000,
        output_duration_ns=20_000_000,
        total_duration_ns=21_500_000,
    )


def test_a_server_that_does_not_count_is_counted_for() -> None:
    _, reader = read(text("a"), text("b"), said(finish="length"), DONE)
    assert reader.completion is not None
    assert reader.completion.output_tokens == 2
    assert reader.completion.finish_reason is FinishReason.LENGTH
    _, reader = read(text("a"), text("b"), said(finish="length"), DONE, size=1)
    assert reader.completion is not None
    assert reader.completion.output_tokens == 2


def escaped(word: str) -> str:
    """An event whose text is written as it stands, escapes and all."""
    return f'data: {{"choices": [{{"index": 0, "delta": {{"content": "{word}"}}}}]}}\n\n'


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        ([r"a\ud83d", r"\ude00b"], ["a", "😀b"]),
        ([r"\uD83D", "", r"\uDE00", r"\ud83d\ude00"], ["😀", "😀"]),
        ([r"a\ud83d", r"\ude00\ud83d", r"\ude01"], ["a", "😀", "😁"]),
        ([r"\ude00b", "c"], ["\ufffdb", "c"]),
        ([r"a\ud83d", "b"], ["a", "b"]),
        ([r"a\ud83d", r"b\ud83e", r"\udd14"], ["a", "b\ufffd", "🤔"]),
        ([r"\\ud83d\ud83d", r"\ude00\\"], [r"\ud83d", "😀\\"]),
    ],
    ids=["split", "apart", "twice", "no first", "no second", "another first", "backslashes"],
)
def test_the_halves_of_a_character_are_put_together(words: list[str], texts: list[str]) -> None:
    pieces, reader = read(*map(escaped, words), DONE, size=3)
    assert [piece.text for piece in pieces] == texts
    assert reader.completion is not None


def test_what_else_is_wrong_with_an_event_is_not_mended() -> None:
    assert "cannot be read" in failure('data: {"choices": [\\ud83d oops\n\n').message


def whole(message: object, finish: str | None = "stop", **more: object) -> str:
    """An answer of a server that passes over `stream`."""
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return json.dumps({"object": "chat.completion", "model": "m", "choices": [choice], **more})


def test_an_answer_that_comes_whole_is_one_piece() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    message = {"role": "assistant", "content": "two words", "reasoning_content": "hm"}
    pieces, reader = read(whole(message, usage=usage), size=7)
    assert pieces == [Piece("two words", "hm")]
    assert reader.completion is not None
    assert reader.completion.finish_reason is FinishReason.STOP
    assert (reader.completion.prompt_tokens, reader.completion.output_tokens) == (5, 4)
    pieces, reader = read(json.dumps({"choices": [{"text": "a", "finish_reason": "length"}]}))
    assert pieces == [Piece("a")]
    assert reader.completion is not None
    assert "terminator" in failure(whole({"content": "half"}, finish=None)).message


def test_calls_that_come_whole_have_no_numbers() -> None:
    made = [{"id": f"c{n}", "function": {"name": n, "arguments": "{}"}} for n in "ab"]
    pieces, reader = read(whole({"content": None, "tool_calls": made}, "tool_calls"))
    assert calls_of(pieces) == [ToolCall("ca", "a", "{}"), ToolCall("cb", "b", "{}")]
    assert reader.completion is not None
    assert reader.completion.finish_reason is FinishReason.TOOL_CALLS


@pytest.mark.parametrize(
    "events",
    [
        (DONE,),
        ('data: {"choices": []}\n\n', DONE),
        (said({"role": "assistant", "content": ""}), DONE),
    ],
    ids=["nothing", "no choices", "an empty word"],
)
def test_a_farewell_to_nothing_is_no_answer(events: tuple[str, ...]) -> None:
    assert "without a word" in failure(*events).message


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ((text("a"), DONE), FinishReason.UNSAID),
        ((text("a"), said(finish="stop")), FinishReason.STOP),
        ((text("a"), said(finish="content_filter"), DONE), FinishReason.UNSAID),
        ((said(finish="stop"), DONE), FinishReason.STOP),
        ((text("a"), said(finish="stop"), "data: [DONE]"), FinishReason.STOP),
    ],
)
def test_either_terminator_is_enough(events: tuple[str, ...], reason: FinishReason) -> None:
    _, reader = read(*events)
    assert reader.completion is not None
    assert reader.completion.finish_reason is reason


def test_what_comes_after_the_end_means_nothing() -> None:
    pieces, reader = read(text("a"), DONE, text("b"), "garbage\n")
    assert pieces == [Piece("a")]
    assert reader.failure is None
    assert reader.feed(text("c").encode()) == reader.end() == []


def test_choices_beside_the_first_are_left_out() -> None:
    second = {"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}
    pieces, reader = read(text("a"), f"data: {json.dumps({'choices': [second]})}\n\n", ends=False)
    assert pieces == [Piece("a")]
    assert not reader.has_finished


@pytest.mark.parametrize("size", [0, 1])
def test_a_call_is_whole_when_it_is_handed_out(size: int) -> None:
    parts = (part(0, "", "w", "id-0"), part(0, '{"city": "P'), part(0, 'aris"}'))
    pieces, _ = read(*parts, ends=False, size=size)
    assert pieces == []
    pieces, reader = read(*parts, said(finish="tool_calls"), DONE, size=size)
    assert calls_of(pieces) == [ToolCall("id-0", "w", '{"city": "Paris"}')]
    assert reader.completion is not None
    assert reader.completion.finish_reason is FinishReason.TOOL_CALLS


def test_several_calls_in_turn_and_mixed() -> None:
    one, two = ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", "{}")
    pieces, _ = read(part(0, '{"x":1}', "f", "a"), part(1, "", "g", "b"), ends=False)
    assert calls_of(pieces) == [one], "the first is whole when the next begins"
    mixed = (part(0, '{"x"', "f", "a"), part(1, "", "g", "b"), part(0, ":1}"))
    pieces, reader = read(*mixed, said(finish="stop"), DONE)
    assert calls_of(pieces) == [one, two]
    assert reader.completion is not None
    assert reader.completion.finish_reason is FinishReason.TOOL_CALLS, "whatever it is called"


@pytest.mark.parametrize("arguments", ["", "null", "  "])
def test_a_call_without_arguments_has_an_empty_object(arguments: str) -> None:
    pieces, _ = read(part(0, arguments, "f"), said(finish="tool_calls"), DONE)
    assert calls_of(pieces) == [ToolCall("", "f", "{}")]


def test_a_call_that_the_length_cut_off_is_dropped() -> None:
    pieces, reader = read(text("a"), part(0, '{"x', "f"), said(finish="length"), DONE)
    assert pieces == [Piece("a")]
    assert reader.completion is not None
    assert reader.completion.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("arguments", ['{"x', "[1]", '"x"', '{"x":1} {'])
def test_a_call_whose_arguments_are_no_object_is_a_failure(arguments: str) -> None:
    error = failure(part(0, arguments, "f"), said(finish="tool_calls"), DONE)
    assert "no JSON object" in error.message


def test_calls_without_end_are_garbage() -> None:
    _, reader = read(*(part(index, "{}", "f") for index in range(CALLS_MAX + 1)))
    assert reader.is_garbled


@pytest.mark.parametrize(
    ("events", "problem", "is_garbled"),
    [
        ((), "without its terminator", False),
        ((text("a"),), "without its terminator", False),
        ((text("a"), "data: {oops\n\n"), "cannot be read", True),
        ((text("a"), "<html>\n"), "cannot be read", True),
        ((text("a"), 'data: {"choices": "x"}\n\n'), "cannot be read", True),
        ((said(usage={"prompt_tokens": -1}),), "cannot be read", True),
        (('{"error": "Unexpected endpoint or method."}',), "Unexpected endpoint", False),
        (
            (text("a"), 'data: {"error": {"message": "it broke", "code": 500}}\n\n', DONE),
            "it",
            False,
        ),
        ((text("a"), 'error: {"code": 500, "message": "it broke"}\n\n'), "it broke", False),
        ((text("a"), "event: error\ndata: plain words\n\n"), "plain words", False),
        ((text("a"), 'event: error\ndata: {"message": "it broke"}\n\n'), "it broke", False),
        ((text("a"), 'data: {"object": "error", "message": "old"}\n\n', DONE), "old", False),
        ((text("a"), 'data: {"error": {}}\n\n'), "without a word", False),
    ],
)
def test_an_answer_without_a_good_end_is_a_failure(
    events: tuple[str, ...], problem: str, is_garbled: bool
) -> None:
    pieces, reader = read(*events)
    assert reader.completion is None
    assert type(reader.failure) is BackendFailed
    assert problem in reader.failure.message
    assert reader.is_garbled is is_garbled
    assert pieces == ([Piece("a")] if text("a") in events else [])


def test_bytes_that_are_no_text_are_garbage() -> None:
    reader = OpenAiAnswerReader()
    reader.feed(b'data: {"choices":[{"index":0,"delta":{"content":"\xe2\x82"}}]}\n\n')
    assert reader.is_garbled


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        *((400, BackendRefused), (422, BackendRefused), (429, BackendBusy), (503, BackendBusy)),
        *((401, AccessDenied), (403, AccessDenied)),
    ],
)
def test_an_error_before_any_word_is_what_its_code_says(code: int, kind: type[BrokerError]) -> None:
    event = f'data: {{"error": {{"message": "no", "code": {code}}}}}\n\n'
    assert type(failure(event)) is kind
    assert type(failure(said({"role": "assistant", "content": ""}), event)) is kind
    assert type(failure(text("a"), event)) is BackendFailed, "it had begun"
    for other in (408, 500):
        assert type(failure(event.replace(str(code), str(other)))) is BackendFailed


def test_an_error_that_ollama_swallows_is_seen() -> None:
    """recorded: 67_killed_mid_v1_chat. A server that never names its model is another thing."""
    nameless = said({"content": ""}).replace('"model": "m"', '"model": ""')
    assert "swallowed" in failure(text("a"), nameless).message
    word = text("a").replace('"model": "m"', '"model": ""')
    pieces, reader = read(nameless, word, said(finish="stop"), DONE)
    assert pieces == [Piece("a")]
    assert reader.completion is not None
