"""What an answer that is no success means: the five shapes, and the statuses that mislead."""

from __future__ import annotations

import json

import pytest

from broker.backends.error_text import TEXT_CHARACTERS_MAX, error_text
from broker.backends.ollama_errors import (
    CHAT,
    EMBED,
    GENERATE,
    PS,
    SHOW,
    TAGS,
    error_of_line,
    error_of_status,
)
from broker.core.errors import (
    BackendBusy,
    BackendFailed,
    BackendRefused,
    BrokerError,
    ModelUnknown,
)

RUNNERS_OWN = {"error": {"code": 400, "message": "request is too long", "type": "x"}}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"error":"no"}', "no"),
        (json.dumps({"error": json.dumps(RUNNERS_OWN)}), "request is too long"),
        (json.dumps(RUNNERS_OWN), "request is too long"),
        ('{"type":"error","error":{"type":"x","message":"no"},"request_id":"r"}', "no"),
        ('{"StatusCode":429,"Status":"429","error":"slow down"}', "slow down"),
        ('{"message":"no"}', "no"),
        ("404 page not found", "404 page not found"),
        ("{not json", "{not json"),
        ('{"other":1}', '{"other":1}'),
        ('{"error":null}', '{"error":null}'),
        ("  \n", ""),
        ("", ""),
    ],
)
def test_the_words_are_found_in_every_shape(body: str, text: str) -> None:
    assert error_text(body) == text


def test_json_of_any_depth_is_shown_as_text() -> None:
    text = '{"error":' * 100_000
    assert error_text(text).startswith('{"error":{"error":')
    assert type(error_of_status(TAGS, "", 500, text.encode())) is BackendFailed


def test_unpacking_and_length_are_bounded() -> None:
    deep = "the words"
    for _ in range(20):
        deep = json.dumps({"error": deep})
    assert error_text(deep).startswith("{")
    text = error_text(json.dumps({"error": "begin " + "x" * 100_000 + " end"}))
    assert len(text) < TEXT_CHARACTERS_MAX + 10
    assert text.startswith("begin ")
    assert text.endswith(" end")


CRASH = 'Post "http://127.0.0.1:41275/tokenize": EOF'
BUSY = "server busy, please try again.  maximum pending requests exceeded"


@pytest.mark.parametrize(
    ("path", "status", "text", "kind"),
    [
        (GENERATE, 400, "invalid model name", BackendRefused),
        (GENERATE, 404, "model 'm' not found", ModelUnknown),
        (EMBED, 404, 'model "m" not found, try pulling it first', ModelUnknown),
        (SHOW, 404, "model 'm:latest' not found", ModelUnknown),
        (CHAT, 404, "404 page not found", BackendRefused),
        (CHAT, 403, "ollama cloud is disabled: remote model is unavailable", BackendRefused),
        (GENERATE, 408, "", BackendFailed),
        (GENERATE, 499, "request canceled", BackendFailed),
        (GENERATE, 503, BUSY, BackendBusy),
        (EMBED, 503, BUSY, BackendBusy),
        (CHAT, 429, "slow down", BackendBusy),
        (GENERATE, 500, 'option "num_predict" must be of type integer', BackendRefused),
        (GENERATE, 500, 'invalid format: "yaml"; expected "json" or ...', BackendRefused),
        (EMBED, 501, "This server does not support embeddings. Start ...", BackendRefused),
        (GENERATE, 500, "invalid file magic", BackendFailed),
        (GENERATE, 502, "", BackendFailed),
        (EMBED, 400, CRASH, BackendFailed),
        (EMBED, 400, "llama-server process no longer running: unknown", BackendFailed),
        (EMBED, 400, "the input length exceeds the context length", BackendRefused),
        (GENERATE, 400, CRASH, BackendRefused),
        (GENERATE, 302, "", BackendFailed),
        (PS, 400, "whatever", BackendFailed),
        (SHOW, 400, "model is required", BackendFailed),
    ],
)
def test_status_path_and_text_make_the_error(
    path: str, status: int, text: str, kind: type[BrokerError]
) -> None:
    error = error_of_status(path, "m", status, json.dumps({"error": text}).encode())
    assert type(error) is kind
    if isinstance(error, BackendFailed | BackendRefused):
        assert error.status == status
        assert (text or f"status {status} without a word") in error.message


def test_bytes_that_are_no_text_are_shown_as_far_as_they_are() -> None:
    assert error_of_status(GENERATE, "m", 500, b"caf\xe9").args == ("caf�",)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("unexpected EOF", "unexpected EOF"),
        (json.dumps(RUNNERS_OWN), "request is too long"),
        (RUNNERS_OWN["error"], "request is too long"),
        ("", "an error without a word, in the stream"),
        (7, "an error without a word, in the stream"),
    ],
)
def test_an_error_in_a_stream_is_a_failure(error: object, text: str) -> None:
    failure = error_of_line(error)
    assert failure.message == text
    assert failure.status is None
