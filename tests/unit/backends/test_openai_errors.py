"""Which error of ours an answer in OpenAI's dialect is."""

from __future__ import annotations

import json

import pytest

from broker.backends.openai_errors import (
    CHAT,
    EMBEDDINGS,
    HEALTH,
    MODELS,
    error_of_status,
)
from broker.core.errors import (
    AccessDenied,
    BackendBusy,
    BackendFailed,
    BackendRefused,
    BrokerError,
    ModelUnknown,
)

TOO_LONG = "request (6019 tokens) exceeds the available context size (1024 tokens)"


@pytest.mark.parametrize(
    ("path", "status", "text", "kind"),
    [
        (CHAT, 404, "The model `m` does not exist.", ModelUnknown),
        (CHAT, 400, "model 'm' not found", ModelUnknown),
        (EMBEDDINGS, 404, "Not Found", BackendRefused),
        (CHAT, 400, "max_tokens must be at least 1, got 0.", BackendRefused),
        (CHAT, 400, TOO_LONG, BackendRefused),
        (CHAT, 500, TOO_LONG, BackendRefused),
        (EMBEDDINGS, 500, "input is too large to process. increase the batch size", BackendRefused),
        (EMBEDDINGS, 501, "This server does not support embeddings.", BackendRefused),
        (CHAT, 413, "too large", BackendRefused),
        (CHAT, 422, "no messages", BackendRefused),
        (CHAT, 408, "", BackendFailed),
        (CHAT, 499, "", BackendFailed),
        (CHAT, 500, "the engine is dead", BackendFailed),
        (CHAT, 502, "", BackendFailed),
        (CHAT, 302, "", BackendFailed),
        (CHAT, 429, "slow down", BackendBusy),
        (CHAT, 503, "Loading model", BackendBusy),
        (HEALTH, 503, "Loading model", BackendBusy),
        (MODELS, 400, "whatever", BackendFailed),
        (HEALTH, 404, "File Not Found", BackendFailed),
    ],
)
def test_status_path_and_text_make_the_error(
    path: str, status: int, text: str, kind: type[BrokerError]
) -> None:
    shapes = (
        {"error": {"message": text, "type": "t", "code": status}},
        {"object": "error", "message": text, "code": status},
        {"detail": text},
    )
    for shape in shapes:
        model = "m" if path not in (HEALTH, MODELS) else ""
        error = error_of_status("", path, model, status, json.dumps(shape).encode())
        assert type(error) is kind
        if isinstance(error, BackendFailed | BackendRefused):
            assert error.status == status
            assert (text or f"status {status} without a word") in error.message


def test_an_unknown_model_is_told_by_its_code_too() -> None:
    body = b'{"error": {"message": "No such thing", "code": "model_not_found"}}'
    error = error_of_status("", CHAT, "m", 404, body)
    assert isinstance(error, ModelUnknown)
    assert error.model == "m"


def test_words_of_validation_are_joined() -> None:
    body = b'{"detail": [{"loc": ["body"], "msg": "one"}, {"msg": "two"}]}'
    assert error_of_status("", CHAT, "m", 422, body).message == "one; two"


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_not_taken_is_named_and_not_shown(status: int) -> None:
    body = b'{"error": {"message": "Invalid API Key"}}'
    error = error_of_status("VLLM_KEY", CHAT, "m", status, body)
    assert type(error) is AccessDenied
    assert "Invalid API Key" in error.message
    assert "VLLM_KEY" in error.message
    assert "it wants a key" in error_of_status("", MODELS, "", status, b"").message


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (f"<html><title>502 Bad\n Gateway</title>{'x' * 9_000}</html>", "'502 Bad Gateway'"),
        ("<!DOCTYPE html><title></title><h1>Caf&eacute;  of</h1> nginx", "'Café of nginx'"),
        ("<html><style>a{}</style><script>if (a<b) c()</script><p>Sign in", "'Sign in'"),
        ("<html><body>" + "word " * 1_000, "'" + "word " * 20 + " …'"),
        ("<html>" + "<" * 300_000, "<<<"),
        ("<a href='/x'>Moved</a>", "'Moved'"),
        ("<html></html>", "''"),
    ],
    ids=["title", "empty title", "script", "long", "angles", "link", "nothing"],
)
def test_a_page_is_told_by_its_title(page: str, words: str) -> None:
    error = error_of_status("", CHAT, "m", 502, page.encode())
    assert words in error.message
    assert error.message.endswith("is this the address of the API?")
    assert len(error.message) < 200


def test_a_models_own_marks_make_no_page() -> None:
    error = error_of_status("", CHAT, "m", 500, b'{"error": "<think> was never closed"}')
    assert error.message == "<think> was never closed"


@pytest.mark.parametrize("status", [204, 307])
def test_what_is_neither_success_nor_error_is_no_api(status: int) -> None:
    error = error_of_status("", CHAT, "m", status, b"")
    assert error.message == f"status {status} without a word: is this the address of the API?"
