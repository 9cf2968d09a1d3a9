"""Reading of request bodies: types, names, capabilities, and the words of each refusal.

The texts are those of reference/OLLAMA.md §1.3-1.5 and §2 where no recording shows them.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from broker.sim.ollama_asked import Action, Asked, Refusal
from broker.sim.ollama_catalogue import Catalogue, recorded_catalogue
from broker.sim.ollama_fields import FOREVER_NS, parse_duration_ns, parse_keep_alive_ns
from broker.sim.ollama_gojson import EmptyBody, GoJsonError, Json, decode, marshal, number, quote
from broker.sim.ollama_requests import (
    read_chat,
    read_embed,
    read_embeddings,
    read_generate,
    read_show,
)

CATALOGUE = recorded_catalogue()


def generate(**fields: Json) -> Asked:
    return read_generate(
        json.dumps({"model": "plain", "prompt": "x", **fields}).encode(), CATALOGUE
    )


def refusal(read: Callable[[bytes, Catalogue], object], body: object) -> tuple[int, str]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Refusal) as caught:
        read(raw, CATALOGUE)
    return caught.value.status, caught.value.text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"model":', "unexpected EOF"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b"{a:1}", "invalid character 'a' looking for beginning of object key string"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b"trux", "invalid character 'x' in literal true (expecting 'e')"),
        (b'"a\nb"', "invalid character '\\n' in string literal"),
        (b'{"a":01}', "invalid character '1' after object key:value pair"),
        (b'{"a":-}', "invalid character '}' in numeric literal"),
        (b'{"a":1.}', "invalid character '}' after decimal point in numeric literal"),
        (b'{"a":1e}', "invalid character '}' in exponent of numeric literal"),
        (b'{"a":"\\x"}', "invalid character 'x' in string escape code"),
        (b'{"a":"\\u12g4"}', "invalid character 'g' in \\u hexadecimal character escape"),
        (b"NaN", "invalid character 'N' looking for beginning of value"),
        (b"'", "invalid character '\\'' looking for beginning of value"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
    ],
)
def test_a_syntax_error_has_the_words_of_go(body: bytes, text: str) -> None:
    with pytest.raises(GoJsonError) as caught:
        decode(body)
    assert caught.value.text == text


def test_a_body_ends_with_its_first_value() -> None:
    assert decode(b' {"a":1} trailing') == {"a": 1}
    assert decode(b'{"a":"\xff"}') == {"a": "\ufffd"}
    assert decode(b'{"a":"\\ud800"}') == {"a": "\ufffd"}
    with pytest.raises(EmptyBody):
        decode(b" \n")


def test_values_are_written_as_go_writes_them() -> None:
    assert quote("<a&b>\u2028\x01é") == '"\\u003ca\\u0026b\\u003e\\u2028\\u0001é"'
    assert marshal({"b": [1, 0.5, True, None], "a": {}}) == '{"b":[1,0.5,true,null],"a":{}}'
    assert [number(x) for x in (1e-05, 1e-12, 1e-7, 3.0, 1e20)] == [
        "0.00001",
        "1e-12",
        "1e-7",
        "3",
        "100000000000000000000",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (0, 0),
        (1.5, 1_500_000_000),
        (-1, FOREVER_NS),
        (-0.5, FOREVER_NS),
        (1e10, 1),  # Go's nanoseconds overflow: unloaded at once
        ("5m", 300_000_000_000),
        ("1h30m", 5_400_000_000_000),
        ("300ms", 300_000_000),
        ("1.5s", 1_500_000_000),
        (".5s", 500_000_000),
        ("0", 0),
        ("-1m", FOREVER_NS),
    ],
)
def test_keep_alive_in_all_its_forms(value: Json, expected: int | None) -> None:
    assert parse_keep_alive_ns(value) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("300", 'time: missing unit in duration "300"'),
        ("-1", 'time: missing unit in duration "-1"'),
        ("", 'time: invalid duration ""'),
        ("soon", 'time: invalid duration "soon"'),
        (".s", 'time: invalid duration ".s"'),
        ("3x", 'time: unknown unit "x" in duration "3x"'),
        (True, "Unsupported type: 'bool'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
        ([], "Unsupported type: '[]interface {}'"),
    ],
)
def test_a_keep_alive_that_go_refuses(value: Json, text: str) -> None:
    with pytest.raises(GoJsonError) as caught:
        parse_keep_alive_ns(value)
    assert caught.value.text == text


def test_a_duration_has_a_largest_value() -> None:
    assert parse_duration_ns("2540400h") == 9_145_440_000_000_000_000
    with pytest.raises(GoJsonError):
        parse_duration_ns("9999999h")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"prompt": 5}, "number into Go struct field GenerateRequest.prompt of type string"),
        ({"stream": "no"}, "string into Go struct field GenerateRequest.stream of type bool"),
        (
            {"options": []},
            "array into Go struct field GenerateRequest.options of type map[string]interface {}",
        ),
        (
            {"top_logprobs": 1.5},
            "number 1.5 into Go struct field GenerateRequest.top_logprobs of type int",
        ),
        (
            {"images": {}},
            "object into Go struct field GenerateRequest.images of type []api.ImageData",
        ),
        (
            {"model": None, "raw": 1, "prompt": 2},
            "number into Go struct field GenerateRequest.raw of type bool",
        ),
    ],
)
def test_a_field_of_another_type(fields: dict[str, Json], text: str) -> None:
    body = {"model": "plain", **fields}
    assert refusal(read_generate, body) == (400, f"json: cannot unmarshal {text}")


def test_a_wrong_type_deep_in_a_chat_names_its_path() -> None:
    body = {"model": "plain", "messages": [{"role": "user", "content": [1]}]}
    path = "ChatRequest.messages.content of type string"
    assert refusal(read_chat, body) == (
        400,
        f"json: cannot unmarshal array into Go struct field {path}",
    )


def test_a_type_that_reads_itself_stops_before_an_earlier_wrong_type() -> None:
    body = {"model": "plain", "prompt": 5, "keep_alive": "soon"}
    assert refusal(read_generate, body) == (400, 'time: invalid duration "soon"')


def test_keys_match_whatever_their_case_and_null_is_nothing() -> None:
    body = b'{"MODEL":"tiny-e","Model":"plain","PROMPT":"a","stream":null,"unknown":[1]}'
    asked = read_generate(body, CATALOGUE)
    assert (asked.spelled, asked.messages[0].content, asked.stream) == ("plain", "a", True)


def test_bodies_that_are_not_objects() -> None:
    assert refusal(read_generate, b"") == (400, "missing request body")
    assert refusal(read_generate, b"null") == (404, "model '' not found")
    text = "json: cannot unmarshal array into Go value of type api.GenerateRequest"
    assert refusal(read_generate, b"[]") == (400, text)


def test_an_unload_needs_an_empty_prompt_and_zero() -> None:
    assert generate(prompt="", keep_alive=0).action is Action.UNLOAD
    assert generate(prompt="", keep_alive="0s").action is Action.UNLOAD
    assert generate(prompt="").action is Action.LOAD
    assert generate(prompt="", keep_alive=-1).action is Action.LOAD
    assert generate(keep_alive=0).action is Action.ANSWER


def test_each_endpoint_says_in_its_own_words_that_there_is_no_model() -> None:
    absent = {"model": "nope", "prompt": "x", "input": "x", "messages": []}
    tried = 'model "nope" not found, try pulling it first'
    assert refusal(read_generate, absent) == (404, "model 'nope' not found")
    assert refusal(read_chat, absent) == (404, "model 'nope' not found")
    assert refusal(read_embed, absent) == (404, tried)
    assert refusal(read_embeddings, absent) == (404, tried)
    assert refusal(read_show, absent) == (404, "model 'nope:latest' not found")


def test_cloud_models_are_disabled() -> None:
    for name in ("m:cloud", "m:120b-cloud", "user/m:cloud"):
        assert refusal(read_generate, {"model": name})[0] == 403
    assert refusal(read_generate, {"model": "cloud"}) == (404, "model 'cloud' not found")


def test_names_match_whatever_their_case_but_not_for_embeddings() -> None:
    assert generate(model="PLAIN").spelled == "PLAIN"
    assert read_embed(b'{"model":"TINY-E","input":"x"}', CATALOGUE).model.name == "tiny-e:latest"
    assert refusal(read_embeddings, {"model": "TINY-E", "prompt": "x"})[0] == 404


def test_thinking_is_on_where_the_template_thinks_and_refused_where_it_does_not() -> None:
    assert generate(model="think").think is True
    assert generate(model="think", think=False).think is False
    assert generate(model="think", think="high").think == "high"
    assert generate(model="tiny-s", think=False).think is None
    body = {"model": "tiny-s", "prompt": "x", "think": "low"}
    assert refusal(read_generate, body) == (400, '"tiny-s" does not support thinking')
    bad = {"model": "tiny-s", "think": 1}
    assert refusal(read_generate, bad)[1].startswith("think must be a boolean or string")


def test_options_are_typed_and_merged_over_the_models_own() -> None:
    asked = generate(
        model="tiny-s-variant:v2", options={"num_predict": 2.9, "seed": None, "no_such": {}}
    )
    assert asked.options.runner.num_ctx == 512  # the model's PARAMETER
    assert (asked.options.num_predict, asked.options.seed) == (2, -1)
    assert asked.options.stop == ("</s>",)
    for options, kind in (
        ({"num_ctx": True}, 'option "num_ctx" must be of type integer'),
        ({"temperature": "0"}, 'option "temperature" must be of type float32'),
        ({"stop": "a"}, 'option "stop" must be of type array'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
    ):
        assert refusal(read_generate, {"model": "plain", "options": options}) == (500, kind)


def test_embedding_inputs() -> None:
    def inputs(value: Json) -> tuple[str, ...]:
        return read_embed(
            json.dumps({"model": "tiny-e", "input": value}).encode(), CATALOGUE
        ).inputs

    assert inputs("a") == ("a",)
    assert inputs(["a", ""]) == ("a", "")
    assert inputs("") == inputs([]) == inputs(None) == ()
    for wrong in (5, {"a": 1}, [1], [["a"]]):
        body = {"model": "tiny-e", "input": wrong}
        assert refusal(read_embed, body) == (400, "invalid input type")


def test_bad_base64_tells_where() -> None:
    assert refusal(read_generate, {"model": "plain", "images": ["aGk="]} | {"images": ["%%"]}) == (
        400,
        "illegal base64 data at input byte 0",
    )
    assert generate(images=["aGk="]).images == 1
