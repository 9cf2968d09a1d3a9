"""What servers of OpenAI's dialect say of their models, and their vectors."""

from __future__ import annotations

import json

import pytest

from broker.backends import openai_inventory as inventory
from broker.backends.figures import LISTED_MAX, LISTING_BYTES_MAX
from broker.core.errors import BackendFailed

VLLM = {"id": "Qwen/Qwen2.5-7B", "object": "model", "owned_by": "vllm", "max_model_len": 32768}
LLAMA = {
    "id": "qwen",
    "object": "model",
    "meta": {
        "n_ctx": 8192,
        "n_ctx_train": 131072,
        "n_params": 7_615_616_512,
        "size": 4_700_000_000,
    },
}
OLLAMA = {"id": "tiny:latest", "object": "model", "created": 1, "owned_by": "library"}


def listing(*models: object) -> bytes:
    return json.dumps({"object": "list", "data": list(models)}).encode()


def test_what_each_server_adds_is_read() -> None:
    vllm, llama, ollama = inventory.listed_models(listing(VLLM, LLAMA, OLLAMA))
    facts = inventory.facts(vllm)
    assert (facts.name, facts.runner, facts.digest) == ("Qwen/Qwen2.5-7B",) * 3
    assert facts.capabilities == frozenset(), "not told: believed to have them all"
    assert (facts.context_length_train, facts.num_ctx_default) == (32768, 32768)
    facts = inventory.facts(llama)
    assert (facts.context_length_train, facts.num_ctx_default) == (8192, 8192)
    assert (facts.parameter_size, facts.size_bytes) == ("7.6B", 4_700_000_000)
    facts = inventory.facts(ollama)
    assert (facts.context_length_train, facts.num_ctx_default, facts.size_bytes) == (0, 0, 0)
    assert [inventory.resident(each).num_ctx for each in (vllm, llama, ollama)] == [32768, 8192, 0]
    assert inventory.resident(llama).memory_bytes == 4_700_000_000


def test_a_context_that_is_not_told_is_at_most_the_trained_one() -> None:
    older = {"id": "m", "meta": {"n_ctx_train": 4096, "n_params": 137_000_000}}
    (model,) = inventory.listed_models(listing(older))
    facts = inventory.facts(model)
    assert (facts.context_length_train, facts.num_ctx_default) == (4096, 0)
    assert facts.parameter_size == "137M"


def test_lists_that_are_empty_or_repeat_themselves() -> None:
    assert inventory.listed_models(b'{"object": "list", "data": null}') == ()
    assert inventory.listed_models(listing()) == ()
    assert len(inventory.listed_models(listing(VLLM, VLLM, {"id": ""}))) == 1
    (loading,) = inventory.listed_models(listing({"id": "m", "meta": None}))
    assert inventory.facts(loading).context_length_train == 0


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data": [{}]}', b"\xff", b'{"data": 1}'])
def test_a_list_that_cannot_be_read_is_a_failure(body: bytes) -> None:
    with pytest.raises(BackendFailed, match="/v1/models answered what cannot be read"):
        inventory.listed_models(body)


def test_more_models_than_any_server_has_are_a_failure() -> None:
    many = [{"id": f"m{each}"} for each in range(LISTED_MAX + 1)]
    assert len(inventory.listed_models(listing(*many[1:]))) == LISTED_MAX
    with pytest.raises(BackendFailed, match=f"/v1/models lists {LISTED_MAX + 1} models"):
        inventory.listed_models(listing(*many))
    with pytest.raises(BackendFailed, match=f"of over {LISTING_BYTES_MAX} bytes"):
        inventory.listed_models(b" " * (LISTING_BYTES_MAX + 1))


def test_versions() -> None:
    assert inventory.version(b'{"version": "0.19.0"}') == "0.19.0"
    for body in (b"{}", b"", b'{"version": 1}', b"<html>"):
        assert inventory.version(body) == ""


def vectors(*rows: object) -> bytes:
    return json.dumps({"data": list(rows), "usage": {"prompt_tokens": 7}}).encode()


def test_vectors_by_their_index() -> None:
    body = vectors({"index": 1, "embedding": [3, 4]}, {"index": 0, "embedding": [1, 2.5]})
    answer = inventory.embeddings(body, 2)
    assert answer.vectors == ((1.0, 2.5), (3.0, 4.0))
    assert answer.prompt_tokens == 7


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"index": 0, "embedding": [1]}],
        [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [2]}],
        [{"index": 1, "embedding": [1]}, {"index": 2, "embedding": [2]}],
        [{"index": 0, "embedding": "AACAPw=="}, {"index": 1, "embedding": [2]}],
    ],
)
def test_anything_but_one_vector_each_is_a_failure(rows: list[object]) -> None:
    with pytest.raises(BackendFailed):
        inventory.embeddings(vectors(*rows), 2)
