"""What a simulated model says: seeds, scripts, thinking, tools, stop words, cut characters."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from broker.sim.ollama_asked import Asked
from broker.sim.ollama_catalogue import (
    Capability,
    Catalogue,
    Says,
    SaysKind,
    SimModel,
    Speed,
    Template,
)
from broker.sim.ollama_gojson import Json
from broker.sim.ollama_prompt import (
    TemplateError,
    count_tokens,
    cut_middle,
    drop_oldest,
    render,
    tokenize,
)
from broker.sim.ollama_requests import read_chat, read_generate
from broker.sim.ollama_text import Delta, DoneReason, Speech, compose
from broker.sim.ollama_vocabulary import sample_of_schema

SPEED = Speed(prefill_tokens_per_s=1000.0, decode_tokens_per_s=100.0)
TOOL: Json = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather now",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


def model(says: Says, *, template: Template = Template.GO, vocab_size: int = 32_000) -> SimModel:
    return SimModel(
        name="m:latest",
        blob="0" * 64,
        digest="1" * 64,
        size_bytes=1,
        parameter_count=1,
        architecture="llama",
        speed=SPEED,
        says=says,
        template=template,
        vocab_size=vocab_size,
        capabilities=frozenset({Capability.COMPLETION, Capability.TOOLS, Capability.THINKING}),
    )


def script(*pieces: bytes, thinking: tuple[bytes, ...] = ()) -> Says:
    return Says(kind=SaysKind.SCRIPT, pieces=pieces, thinking=thinking)


def generate(said_by: SimModel, **fields: Json) -> Asked:
    body = {"model": "m", "prompt": "x", **fields}
    return read_generate(json.dumps(body).encode(), Catalogue([said_by]))


def chat(said_by: SimModel, **fields: Json) -> Asked:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    return read_chat(json.dumps(body).encode(), Catalogue([said_by]))


def speech(asked: Asked, *, num_ctx: int = 1024, seed: int = 0, room: int | None = None) -> Speech:
    return compose(asked, render(asked), num_ctx=num_ctx, server_seed=seed, room=room)


def deltas(said: Speech) -> list[Delta | None]:
    return [said.delta(index) for index in range(said.tokens)]


def contents(said: Speech) -> list[str]:
    return [delta.content for delta in deltas(said) if delta is not None and delta.content]


def thoughts(said: Speech) -> list[str]:
    return [delta.thinking for delta in deltas(said) if delta is not None and delta.thinking]


def test_the_same_seed_says_the_same_and_another_does_not() -> None:
    seeded = model(Says(output_tokens_min=40, output_tokens_max=40))
    first = contents(speech(generate(seeded, options={"seed": 1})))
    assert first == contents(speech(generate(seeded, options={"seed": 1})))
    assert first != contents(speech(generate(seeded, options={"seed": 2})))
    assert first != contents(speech(generate(seeded, options={"seed": 1}), seed=9))
    assert first != contents(speech(generate(seeded, prompt="y", options={"seed": 1})))
    assert len(first) == 40


def test_a_script_ends_with_a_token_that_shows_nothing() -> None:
    said = speech(generate(model(script(b" a", b" b"))))
    assert deltas(said) == [Delta(content=" a"), Delta(content=" b"), None]
    assert (said.tokens, said.reason) == (3, DoneReason.STOP)


@pytest.mark.parametrize(
    ("num_predict", "tokens", "reason"),
    [
        (1, 1, DoneReason.LENGTH),
        (2, 2, DoneReason.LENGTH),
        (3, 3, DoneReason.STOP),
        (-1, 3, DoneReason.STOP),
        (0, 3, DoneReason.STOP),  # no bound at all (OLLAMA.md §1.4b)
    ],
)
def test_num_predict_bounds_an_answer(num_predict: int, tokens: int, reason: DoneReason) -> None:
    said = speech(generate(model(script(b" a", b" b")), options={"num_predict": num_predict}))
    assert (said.tokens, said.reason) == (tokens, reason)


def test_num_predict_is_bounded_by_ten_contexts_and_by_a_context_that_does_not_shift() -> None:
    endless = model(Says(output_tokens_min=10**6, output_tokens_max=10**6))
    assert speech(generate(endless), num_ctx=64).tokens == 640
    assert speech(generate(endless), num_ctx=64, room=235).tokens == 235
    assert speech(generate(endless, options={"num_predict": 0}), num_ctx=64).tokens == 1_000_000


def test_num_predict_0_is_one_token_where_the_runner_renders_the_chat() -> None:
    native = model(script(b" a", b" b"), template=Template.NATIVE)
    assert speech(chat(native, options={"num_predict": 0})).tokens == 1
    assert speech(generate(native, options={"num_predict": 0})).tokens == 3


def test_a_character_of_several_tokens_comes_whole() -> None:
    said = speech(generate(model(script(b" p", b"\xe2", b"\x82", b"\xac", b"!"))))
    assert deltas(said)[:5] == [
        Delta(content=" p"),
        None,
        None,
        Delta(content="€"),
        Delta(content="!"),
    ]


def test_a_character_cut_off_is_dropped_and_a_broken_one_comes_with_the_next_text() -> None:
    euro = model(script(b" p", b"\xe2", b"\x82", b"\xac"))
    assert contents(speech(generate(euro, options={"num_predict": 3}))) == [" p"]
    broken = model(script(b" cut", b"\xe2", b"\x82", b" end"))
    assert contents(speech(generate(broken))) == [" cut", "\ufffd end"]


def test_a_stop_word_ends_the_answer_before_itself() -> None:
    said = speech(generate(model(script(b" a", b" is", b" b")), options={"stop": [" is"]}))
    assert (contents(said), said.tokens, said.reason) == ([" a"], 2, DoneReason.STOP)


def test_the_beginning_of_a_stop_word_is_held_back_until_it_is_sure() -> None:
    pieces = model(script(b"a<", b"/", b"b", b"</", b"s>", b"c"))
    said = speech(generate(pieces, options={"stop": ["</s>"]}))
    assert contents(said) == ["a", "</b"]
    assert said.tokens == 5
    unmet = speech(generate(model(script(b"a<", b"/")), options={"stop": ["</s>"]}))
    assert "".join(contents(unmet)) == "a</"


def test_a_stop_word_is_found_in_seeded_text_too() -> None:
    seeded = model(Says(output_tokens_min=500, output_tokens_max=500))
    whole = contents(speech(generate(seeded)))
    word = whole[17].strip()
    stopped = speech(generate(seeded, options={"stop": [word]}))
    assert "".join(contents(stopped)) == "".join(whole).split(word)[0]


def test_equal_tokens_without_end_break_the_answer_off_but_not_in_a_native_chat() -> None:
    loop = Says(kind=SaysKind.LOOP, pieces=(b" again",))
    said = speech(generate(model(loop)))
    assert (len(contents(said)), said.reason) == (31, DoneReason.NONE)
    native = speech(chat(model(loop, template=Template.NATIVE), options={"num_predict": 60}))
    assert (len(contents(native)), native.reason) == (60, DoneReason.LENGTH)


def test_thinking_is_split_and_trimmed_by_ollama_but_only_split_by_the_runner() -> None:
    says = script(b" It", b" is", thinking=(b" Let", b" me"))
    go = speech(chat(model(says)))
    assert (thoughts(go), contents(go), go.tokens) == (["Let", " me"], ["It", " is"], 7)
    native = speech(chat(model(says, template=Template.NATIVE)))
    assert (thoughts(native), contents(native)) == ([" Let", " me"], [" It", " is"])
    off = speech(chat(model(says), think=False))
    assert "".join(contents(off)) == "<think> Let me</think> It is"


def test_a_seeded_model_thinks_only_when_it_is_to() -> None:
    says = Says(
        output_tokens_min=5, output_tokens_max=5, thinking_tokens_min=3, thinking_tokens_max=3
    )
    said = speech(chat(model(says)))
    assert (len(thoughts(said)), len(contents(said)), said.tokens) == (3, 5, 11)
    assert not contents(said)[0].startswith(" ")
    off = speech(chat(model(says), think=False))
    assert (thoughts(off), len(contents(off)), off.tokens) == ([], 5, 6)


def test_a_tool_is_called_with_arguments_of_its_schema() -> None:
    said = speech(chat(model(Says()), tools=[TOOL]))
    shown = [delta for delta in deltas(said) if delta is not None]
    assert len(shown) == 1
    call = shown[0].tool_calls[0]
    assert (call.name, said.reason) == ("get_weather", DoneReason.STOP)
    assert isinstance(call.arguments["city"], str)
    assert isinstance(call.arguments["days"], int)
    assert call.id.startswith("call_")
    native = speech(chat(model(Says(), template=Template.NATIVE), tools=[TOOL]))
    assert [delta for delta in deltas(native) if delta is not None] == []
    assert (native.calls_at_end[0].name, len(native.calls_at_end[0].id)) == ("get_weather", 32)


def test_after_a_tools_result_the_model_answers_in_words() -> None:
    messages: Json = [{"role": "user", "content": "x"}, {"role": "tool", "content": "11 C"}]
    said = speech(chat(model(Says()), tools=[TOOL], messages=messages))
    assert contents(said)


def test_format_brings_json_of_the_schema() -> None:
    schema: Json = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "s": {"enum": ["a"]}},
    }
    text = "".join(contents(speech(generate(model(Says()), format=schema))))
    assert json.loads(text).keys() == {"n", "s"}
    assert json.loads("".join(contents(speech(generate(model(Says()), format="json"))))) == {}


def test_samples_follow_every_kind_of_schema() -> None:
    schema: Json = {
        "properties": {
            "a": {"type": "array", "items": {"type": "boolean"}},
            "b": {"anyOf": [{"type": "null"}, {"type": "string"}]},
            "c": {"const": 7},
            "d": {"type": ["number", "null"]},
        }
    }
    sample = sample_of_schema(schema, 3)
    assert isinstance(sample, dict)
    assert (sample["b"], sample["c"]) == (None, 7)
    assert isinstance(sample["d"], float)
    assert isinstance(sample["a"], list)
    assert isinstance(sample["a"][0], bool)


def test_tokenizers_agree_on_counts_and_beginnings() -> None:
    for vocab_size in (267, 4096, 32_000):
        said_by = model(Says(), vocab_size=vocab_size)
        whole, part = tokenize(said_by, "user: tell me more"), tokenize(said_by, "user: tell me")
        assert whole[: len(part)] == part
        assert count_tokens(said_by, "user: tell me more") == len(whole)
        assert all(0 <= token < vocab_size for token in whole)


def test_a_middle_cut_out_leaves_the_beginning_and_half_of_the_rest() -> None:
    cut = cut_middle(tuple(range(6019)), num_ctx=1024, num_keep=4)
    assert (len(cut), cut[:4], cut[-1]) == (514, (0, 1, 2, 3), 6018)


def test_the_oldest_messages_are_dropped_until_the_rest_fits() -> None:
    lines: list[Json] = [{"role": "system", "content": "be kind"}]
    lines += [{"role": "user", "content": f"{n} " + "abc " * 50} for n in range(20)]
    lines.append({"role": "user", "content": "now"})
    said_by = model(Says(), template=Template.NATIVE, vocab_size=4096)
    asked = drop_oldest(chat(said_by, messages=lines), num_ctx=1024)
    kept = [message.content.split(" ")[0] for message in asked.messages]
    assert kept == ["be", "16", "17", "18", "19", "now"]
    # As the recording 15_chat_history_truncated has it.
    assert count_tokens(said_by, render(asked)) == 878


def test_a_template_of_the_request_is_filled_in_or_refused() -> None:
    said_by = model(Says())
    assert render(generate(said_by, template="{{ .Prompt }}:")) == "x:"
    with pytest.raises(TemplateError) as caught:
        render(generate(said_by, template="{{ .X"))
    assert caught.value.text == "template: :1: unclosed action"
    assert render(replace(generate(said_by), raw=True)) == "x"


@pytest.mark.parametrize(
    ("prompt", "limit", "tokens", "reason"),
    [
        ("say 12 words, not 40", -1, 12, DoneReason.STOP),
        ("12", 5, 5, DoneReason.LENGTH),
        ("0", -1, 1, DoneReason.STOP),
        ("as many as you like", -1, 4, DoneReason.STOP),
    ],
)
def test_a_model_that_is_told_its_length_keeps_to_it(
    prompt: str, limit: int, tokens: int, reason: DoneReason
) -> None:
    obedient = model(Says(kind=SaysKind.TOLD, output_tokens_min=3, output_tokens_max=3))
    said = speech(generate(obedient, prompt=prompt, options={"num_predict": limit}))
    assert (said.tokens, said.reason) == (tokens, reason)
