"""The simulated server of OpenAI's dialect in its parts: slots, words, requests, faults."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest

from broker.sim.ollama_gojson import Json
from broker.sim.openai_answers import models_document
from broker.sim.openai_faults import (
    Fault,
    FaultError,
    FaultKind,
    FaultPlan,
    fault_of_document,
    fault_of_flag,
)
from broker.sim.openai_flavour import DEFAULT_MODELS, Flavour
from broker.sim.openai_requests import Asked, Endpoint, Refused, read_request
from broker.sim.openai_sim import models_of
from broker.sim.openai_slots import Slots
from broker.sim.openai_words import TOKENS_MAX, Finish, speech_of, vectors_of

SPEAKER, THINKER, EMBEDDER = (model.id for model in DEFAULT_MODELS)


def asked(
    endpoint: Endpoint = Endpoint.CHAT, flavour: Flavour = Flavour.VLLM, **given: object
) -> Asked:
    body: dict[str, object] = {"model": SPEAKER}
    if endpoint is Endpoint.CHAT:
        body["messages"] = [{"role": "user", "content": "go"}]
    return read_request(json.dumps(body | given).encode(), endpoint, flavour, DEFAULT_MODELS)


def refusal(
    endpoint: Endpoint = Endpoint.CHAT, flavour: Flavour = Flavour.VLLM, **given: object
) -> Refused:
    with pytest.raises(Refused) as refused:
        asked(endpoint, flavour, **given)
    return refused.value


def text_of(request: Asked, seed: int = 0) -> str:
    return "".join(token.text for token in speech_of(request, seed).tokens)


# Slots


def test_slots_are_given_in_turn() -> None:
    slots = Slots(2, 2)
    assert [slots.arrive(number) for number in range(5)] == [True, True, False, False, None]
    assert (slots.running, slots.waiting) == (2, 2)
    assert slots.leave(2) is None, "it only waited"
    assert slots.leave(0) == 3
    assert slots.leave(3) is None
    assert slots.leave(1) is None
    assert (slots.running, slots.waiting) == (0, 0)


# Words


def test_the_same_request_is_answered_alike() -> None:
    assert text_of(asked()) == text_of(asked())
    assert text_of(asked(), seed=1) != text_of(asked())
    assert text_of(asked(seed=2)) != text_of(asked())
    assert text_of(asked(max_tokens=5)) == text_of(asked())[: len(text_of(asked(max_tokens=5)))]
    assert any(not word.isascii() for word in text_of(asked(max_tokens=40)).split())


def test_an_answer_ends_by_itself_or_by_its_length() -> None:
    by_itself = speech_of(asked(), 0)
    assert by_itself.finish is Finish.STOP
    assert len(by_itself.tokens) <= TOKENS_MAX
    long = speech_of(asked(max_tokens=3_000), 0)
    assert (len(long.tokens), long.finish) == (3_000, Finish.LENGTH)


@pytest.mark.parametrize("words", [0, 1, 4])
def test_an_answer_goes_on_where_it_was_broken_off(words: int) -> None:
    tokens = [token.text for token in speech_of(asked(), 0).tokens]
    begun = "".join(tokens[:words])
    talk = [{"role": "user", "content": "go"}, {"role": "assistant", "content": begun}]
    told: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}
    assert text_of(asked(messages=talk, **told)) == "".join(tokens[words:])
    other = [talk[0], {"role": "assistant", "content": "something else"}]
    assert text_of(asked(messages=other, **told)) == "".join(tokens)


def test_vectors_have_length_one() -> None:
    request = asked(Endpoint.EMBEDDINGS, model=EMBEDDER, input=["a", "b"], dimensions=5)
    vectors = vectors_of(request, 0)
    assert [len(each) for each in vectors] == [5, 5]
    assert all(sum(part * part for part in each) == pytest.approx(1) for each in vectors)


# Requests


def test_an_unknown_model_is_refused_in_each_servers_words() -> None:
    vllm = refusal(model="nope")
    assert (vllm.status, vllm.message) == (404, "The model `nope` does not exist.")
    llama = refusal(flavour=Flavour.LLAMA_SERVER, model="nope")
    assert (llama.status, llama.message) == (400, "model 'nope' not found")


def test_a_context_that_is_too_small_is_told_in_each_servers_words() -> None:
    long = [{"role": "user", "content": "x" * 4 * 40_000}]
    assert "maximum context length is 32768" in refusal(messages=long).message
    llama = refusal(flavour=Flavour.LLAMA_SERVER, messages=long)
    assert llama.kind == "exceed_context_size_error"
    assert refusal(max_tokens=32_768).status == 400, "vLLM counts the answer as well"
    assert asked(flavour=Flavour.LLAMA_SERVER, max_tokens=32_768).max_tokens == 32_768


@pytest.mark.parametrize(
    "given",
    [
        {"messages": []},
        {"messages": None},
        {"messages": [{"content": "no role"}]},
        {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
        {"max_tokens": 0},
        {"model": EMBEDDER},
        {"continue_final_message": True},
    ],
)
def test_what_is_wrong_is_refused(given: dict[str, Any]) -> None:
    assert refusal(**given).status == 400


def test_a_thinking_template_takes_no_beginning_on_llama_server() -> None:
    talk = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "so"}]
    told: dict[str, Any] = {"model": THINKER, "messages": talk}
    assert "prefill" in refusal(flavour=Flavour.LLAMA_SERVER, **told).message
    off: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
    assert asked(flavour=Flavour.LLAMA_SERVER, **told, **off).begun == "so"


@pytest.mark.parametrize("body", [b"", b"[]", b"{oops", b"\xff"])
def test_a_body_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        read_request(body, Endpoint.CHAT, Flavour.VLLM, DEFAULT_MODELS)


def test_each_server_tells_of_its_models_in_its_way() -> None:
    told = [json.dumps(models_document(each, DEFAULT_MODELS)) for each in Flavour]
    assert "max_model_len" in told[0]
    assert "meta" not in told[0]
    assert "n_ctx_train" in told[1]
    assert "max_model_len" not in told[1]


def test_models_are_named_on_the_command_line() -> None:
    (one, other) = models_of(("Org/Name@4096", "other"))
    assert (one.id, one.num_ctx) == ("Org/Name", 4096)
    assert other.id == "other"
    assert models_of(()) == DEFAULT_MODELS
    with pytest.raises(click.BadParameter):
        models_of(("name@many",))


# Faults


def test_a_fault_is_the_same_by_flag_and_by_document() -> None:
    given: dict[str, Json] = {"kind": "cut", "after": 5, "count": 2, "model": "m"}
    assert fault_of_flag("cut:after=5,count=2,model=m") == fault_of_document(given)
    slow = fault_of_flag("slow:factor=2.5")
    assert fault_of_document({k: v for k, v in slow.document().items() if v is not None}) == slow
    assert fault_of_document({"kind": "slow", "factor": 2}).factor == 2


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"kind": "sulk"},
        {"kind": "cut", "when": 1},
        {"kind": "cut", "after": "1"},
        {"kind": "cut", "after": True},
        {"kind": "cut", "after": -1},
        {"kind": "cut", "count": -1},
        {"kind": "slow", "factor": 0},
        {"kind": "refuse", "status": 200},
    ],
)
def test_a_fault_that_is_none_says_so(document: object) -> None:
    with pytest.raises(FaultError):
        fault_of_document(document)  # type: ignore[arg-type]  # what a caller may send
    for flag in ("cut:after", "cut:after=x"):
        with pytest.raises(FaultError):
            fault_of_flag(flag)


def test_a_fault_meets_its_requests_and_is_used_up() -> None:
    plan = FaultPlan()
    plan.add(Fault(kind=FaultKind.SLOW, factor=3.0))
    plan.add(Fault(kind=FaultKind.CUT, model="m", count=2))
    plan.add(Fault(kind=FaultKind.GARBAGE, count=0))
    kinds = [fault.kind for name in "mnmm" if (fault := plan.take(name))]
    assert [each.value for each in kinds] == ["cut", "garbage", "cut", "garbage"]
    assert plan.factor == 3.0
    assert not plan.is_loading
    plan.clear()
    assert plan.take("m") is None
    assert plan.factor == 1.0
