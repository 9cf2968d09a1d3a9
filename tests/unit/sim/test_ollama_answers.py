"""Lines and documents of a simulated Ollama: order of fields, omitted zeros, escapes, stamps."""

from __future__ import annotations

import json
import math
import time

import pytest

from broker.sim.ollama_answers import (
    Ending,
    Lines,
    Stamp,
    embed_document,
    embedding,
    embeddings_document,
    local_stamp,
    logprob_item,
)
from broker.sim.ollama_asked import Asked, ShowAsked, error_body
from broker.sim.ollama_catalogue import Catalogue, recorded_catalogue
from broker.sim.ollama_inventory import parameter_size, show_document, tags_document
from broker.sim.ollama_requests import read_chat, read_embed, read_generate
from broker.sim.ollama_text import Delta, DoneReason, ToolCall
from broker.sim.ollama_work import ExchangeId, Finished

CATALOGUE = recorded_catalogue()
WALL_NS = 1_795_226_300_852_674_580
STAMP = "2026-11-21T01:58:20.85267458Z"
FINISHED = Finished(
    exchange=ExchangeId(1),
    at_ns=0,
    total_duration_ns=5,
    load_duration_ns=4,
    prompt_eval_count=3,
    prompt_eval_duration_ns=0,
    eval_count=2,
    eval_duration_ns=1,
)


def generated() -> Asked:
    return read_generate(b'{"model":"Plain","prompt":"x"}', CATALOGUE)


def chatted() -> Asked:
    return read_chat(b'{"model":"plain","messages":[{"role":"user"}]}', CATALOGUE)


def test_a_line_of_each_endpoint() -> None:
    assert Lines(generated()).chunk(WALL_NS, Delta(content=" <a>")).decode() == (
        f'{{"model":"Plain","created_at":"{STAMP}","response":" \\u003ca\\u003e","done":false}}\n'
    )
    assert Lines(chatted()).chunk(WALL_NS, Delta(thinking="hm")).decode() == (
        f'{{"model":"plain","created_at":"{STAMP}","message":'
        '{"role":"assistant","content":"","thinking":"hm"},"done":false}\n'
    )


def test_the_last_object_leaves_out_what_is_zero() -> None:
    ending = Ending(reason=DoneReason.STOP, finished=FINISHED, context=(7, 8))
    assert Lines(generated()).last(WALL_NS, Delta(), ending).decode() == (
        f'{{"model":"Plain","created_at":"{STAMP}","response":"","done":true,"done_reason":"stop",'
        '"context":[7,8],"total_duration":5,"load_duration":4,"prompt_eval_count":3,'
        '"eval_count":2,"eval_duration":1}'
    )


def test_an_answer_broken_off_has_neither_reason_nor_figures() -> None:
    last = Lines(generated()).last(WALL_NS, Delta(content="a"), Ending(reason=DoneReason.NONE))
    assert last.decode().endswith('"response":"a","done":false}')


def test_a_tool_call_in_go_s_order() -> None:
    call = ToolCall(id="call_1", name="f", arguments={"z": 1, "a": [True]})
    line = Lines(chatted()).chunk(WALL_NS, Delta(tool_calls=(call,))).decode()
    assert (
        '"content":"","tool_calls":[{"id":"call_1","function":'
        '{"index":0,"name":"f","arguments":{"z":1,"a":[true]}}}]}' in line
    )


def test_a_logprob_item_has_as_many_alternatives_as_asked_for() -> None:
    assert logprob_item(" é", 0) == '{"token":" é","logprob":0,"bytes":[32,195,169]}'
    item = json.loads(logprob_item("a", 2))
    assert item["top_logprobs"] == [
        {"token": "a", "logprob": 0, "bytes": [97]},
        {"token": "", "logprob": -3.4028234663852886e38},
    ]


@pytest.mark.parametrize(
    ("wall_ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
    ],
)
def test_stamps_cut_trailing_zeros(wall_ns: int, text: str) -> None:
    assert Stamp().utc(wall_ns) == text


def test_local_stamps_carry_the_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "EST+5")
    time.tzset()
    try:
        assert local_stamp(1_500_000_000) == "1969-12-31T19:00:01.5-05:00"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_vectors_are_seeded_and_of_length_one_also_when_cut() -> None:
    vector = embedding(0, "blob", "a", 64, 0)
    assert vector == embedding(0, "blob", "a", 64, 0) != embedding(0, "blob", "b", 64, 0)
    assert len(embedding(0, "blob", "a", 64, 16)) == 16
    for one in (vector, embedding(0, "blob", "a", 64, 16)):
        assert math.isclose(sum(part * part for part in one), 1.0)


def test_embedding_documents() -> None:
    asked = read_embed(b'{"model":"tiny-e","input":"x"}', CATALOGUE)
    whole = json.loads(embed_document(asked, [[0.5, -0.5]], FINISHED))
    assert list(whole) == [
        "model",
        "embeddings",
        "total_duration",
        "load_duration",
        "prompt_eval_count",
    ]
    assert embed_document(asked, [], FINISHED) == b'{"model":"tiny-e","embeddings":[]}'
    assert embeddings_document([0.1]) == b'{"embedding":[0.10000000149011612]}'
    assert embeddings_document([]) == b'{"embedding":[]}'


def test_errors_are_escaped_as_go_does() -> None:
    assert error_body('"m" <x>') == b'{"error":"\\"m\\" \\u003cx\\u003e"}'


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (921_088, "921K"),
        (5_507_328, "5.51M"),
        (226_530_000, "226.53M"),
        (8_030_000_000, "8.0B"),
        (8_000_000_000, "8B"),
        (999, "999"),
    ],
)
def test_parameter_sizes(count: int, text: str) -> None:
    assert parameter_size(count) == text


def test_tags_are_newest_first_and_empty_is_a_list() -> None:
    assert tags_document(Catalogue([])) == b'{"models":[]}'
    models = json.loads(tags_document(CATALOGUE))["models"]
    stamps = [entry["modified_at"][:19] for entry in models]
    assert stamps == sorted(stamps, reverse=True)


def test_show_has_arrays_only_when_verbose() -> None:
    model = CATALOGUE.find("plain")
    assert model is not None
    brief = json.loads(show_document(ShowAsked(model=model, verbose=False, system="")))
    assert brief["model_info"]["tokenizer.ggml.tokens"] is None
    whole = json.loads(show_document(ShowAsked(model=model, verbose=True, system="s")))
    assert len(whole["model_info"]["tokenizer.ggml.tokens"]) == model.vocab_size
    assert whole["system"] == "s"
