"""The adapter of OpenAI's dialect at the wire: what it asks, in which order, and what it makes of
servers that differ. What all adapters promise is in tests/contract/test_backend_contract.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

import pytest

from broker.backends.openai_compatible import OpenAiBackend
from broker.core.content import FinishReason, GenerateContent, Message, Prompt
from broker.core.errors import BackendBusy, BackendFailed, BackendUnreachable, BrokerError
from tests.integration.ollama_sim_process import Simulator
from tests.integration.openai_sim_process import start_openai_simulator
from tests.integration.raw_http_server import (
    Peer,
    RawServer,
    Request,
    chunk,
    document,
    head,
    raw_server,
)
from tests.integration.served_backend import PATIENCE_S, Heard, answering

MODELS = document(200, b'{"data": [{"id": "Org/Model"}]}')
ABSENT = document(404, b'{"detail": "Not Found"}')
EVENTS = head(200, ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"))
WORD = chunk('data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
FINISHED = chunk('data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n')
CONTENT = GenerateContent(input=Prompt(text="go"))


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[Peer], Awaitable[None]], key: str = ""
) -> AsyncIterator[tuple[OpenAiBackend, RawServer]]:
    async with asyncio.timeout(PATIENCE_S), raw_server(handler) as server:
        backend = OpenAiBackend(
            name="one", host=server.host, api_key=key, api_key_env="THE_KEY" if key else ""
        )
        try:
            yield backend, server
        finally:
            await backend.close()


def asked_of(asked: Sequence[Request]) -> list[str]:
    return [each.path for each in asked]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("http://box:8000/v1", "http://box:8000"),
        ("http://box:8000/v1/", "http://box:8000"),
        ("box:8000", "http://box:8000"),
        ("https://box/proxy/v1", "https://box:443/proxy"),
        ("0.0.0.0:8000", "http://127.0.0.1:8000"),
    ],
)
def test_an_address_may_be_written_with_its_api(host: str, url: str) -> None:
    assert OpenAiBackend(name="x", host=host).url == url


async def test_health_is_asked_each_time_and_the_version_once() -> None:
    asked: list[Request] = []
    ok, version = document(200, b""), document(200, b'{"version": "0.19.0"}')
    async with serving(answering([ok, version, ok, ok], asked)) as (backend, server):
        assert [await backend.version() for _ in range(3)] == ["0.19.0"] * 3
        assert server.connections == 1
    assert asked_of(asked) == ["/health", "/version", "/health", "/health"]


async def test_where_there_is_no_health_the_list_of_models_proves_it() -> None:
    asked: list[Request] = []
    async with serving(answering([ABSENT, MODELS, ABSENT, MODELS], asked)) as (backend, _):
        assert [await backend.version() for _ in range(2)] == ["", ""]
    assert asked_of(asked) == ["/health", "/v1/models", "/version", "/v1/models"]


async def test_a_server_that_loads_its_model_is_not_there_yet() -> None:
    """llama-server lists its models while it loads one; it comes back with another version."""
    asked: list[Request] = []
    loading = document(503, b'{"error": {"message": "Loading model", "code": 503}}')
    named = head(200, ("Server", "llama.cpp"), ("Content-Length", "2")) + b"{}"
    answers = [loading, named, ABSENT, loading, document(200, b""), ABSENT]
    async with serving(answering(answers, asked)) as (backend, _):
        with pytest.raises(BackendBusy, match="Loading model"):
            await backend.version()
        assert await backend.version() == "llama.cpp"
        with pytest.raises(BackendBusy):
            await backend.version()
        assert await backend.version() == "", "asked anew"


async def test_a_name_is_spelled_as_the_server_spells_it() -> None:
    asked: list[Request] = []
    answer = EVENTS + WORD + FINISHED + chunk("data: [DONE]\n\n") + b"0\r\n\r\n"
    async with serving(answering([MODELS, answer, answer], asked)) as (backend, server):
        await backend.models()
        for name in ("org/model:latest", "other"):
            await backend.generate(name, CONTENT, num_ctx=4096, on_pieces=Heard().hear)
        assert server.connections == 1
    assert [each.document["model"] for each in asked[1:]] == ["Org/Model", "other"]
    assert "4096" not in asked[1].body.decode()


async def test_the_key_goes_with_every_call_and_is_shown_nowhere() -> None:
    asked: list[Request] = []
    no = document(401, b'{"error": {"message": "Invalid API Key"}}')
    async with serving(answering([MODELS, no], asked), key="s3cret") as (backend, _):
        await backend.models()
        with pytest.raises(BackendFailed, match="THE_KEY") as failed:
            await backend.generate("m", CONTENT, num_ctx=None, on_pieces=Heard().hear)
        assert "s3cret" not in failed.value.message + repr(vars(failed.value)) + backend.url
    assert [each.header("authorization") for each in asked] == ["Bearer s3cret"] * 2


KEY = "sk-s3cret/7"
ECHOES = {
    "a status": document(401, b'{"error": {"message": "Incorrect API key: sk-s3cret\\/7. Go."}}'),
    "plain text": document(500, f"no {KEY}".encode()),
    "cut off": document(500, b"x" * 1_995 + KEY.encode() + b"x" * 4_000),
    "in the stream": EVENTS + chunk(f'data: {{"error": "no {KEY}"}}\n\n') + b"0\r\n\r\n",
    "garbled": EVENTS + chunk(f"bearer {KEY}\n\n") + b"0\r\n\r\n",
    "elsewhere": head(307, ("Location", f"/?key={KEY}"), ("Content-Length", "0")),
}


@pytest.mark.parametrize("answer", ECHOES.values(), ids=ECHOES)
async def test_a_key_that_a_server_echoes_is_struck_out(answer: bytes) -> None:
    async with serving(answering([answer], []), key=KEY) as (backend, _):
        with pytest.raises(BrokerError) as failed:
            await backend.generate("m", CONTENT, num_ctx=None, on_pieces=Heard().hear)
    for text in (failed.value.message, str(failed.value), repr(failed.value)):
        assert "s3cret" not in text
    async with serving(answering([answer], []), key=KEY) as (backend, _):
        with pytest.raises(BrokerError) as failed:
            await backend.models()
    assert "s3cret" not in failed.value.message


async def test_a_server_that_calls_itself_by_the_key_has_another_name() -> None:
    named = head(200, ("Server", f"proxy {KEY}"), ("Content-Length", "0"))
    async with serving(answering([named, ABSENT], []), key=KEY) as (backend, _):
        assert await backend.version() == "proxy ***"


async def test_what_is_too_short_to_be_secret_spoils_no_word() -> None:
    no = document(500, b"no more memory")
    async with serving(answering([no], []), key="o") as (backend, _):
        with pytest.raises(BackendFailed, match="no more memory"):
            await backend.generate("m", CONTENT, num_ctx=None, on_pieces=Heard().hear)


@pytest.mark.parametrize(
    ("said", "nanoseconds"),
    [
        ("7", 7_000_000_000),
        ("99999", 3_600_000_000_000),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("-1", None),
        ("", None),
    ],
)
async def test_retry_after_is_heeded(said: str, nanoseconds: int | None) -> None:
    busy = head(429, ("Retry-After", said), ("Content-Length", "0"))
    async with serving(answering([busy], [])) as (backend, _):
        with pytest.raises(BackendBusy) as error:
            await backend.generate("m", CONTENT, num_ctx=None, on_pieces=Heard().hear)
    assert error.value.retry_after_ns == nanoseconds


async def test_an_answer_that_has_finished_may_lose_its_farewell() -> None:
    async def handler(peer: Peer) -> None:
        if await peer.read_request():
            await peer.send(EVENTS + WORD + FINISHED)

    async with serving(handler) as (backend, _):
        heard = Heard()
        completion = await backend.generate("m", CONTENT, num_ctx=None, on_pieces=heard.hear)
    assert completion.finish_reason is FinishReason.STOP
    assert [piece.text for piece in heard] == ["a"]


async def test_an_answer_of_plain_json_is_a_failure_with_its_words() -> None:
    """LM Studio answers 200 to a path that it does not have."""
    body = b'{"error": "Unexpected endpoint or method. (POST /v1/chat/completions)"}'
    async with serving(answering([document(200, body)], [])) as (backend, _):
        with pytest.raises(BackendFailed, match="Unexpected endpoint"):
            await backend.generate("m", CONTENT, num_ctx=None, on_pieces=Heard().hear)


async def test_a_page_in_place_of_a_stream_is_a_failure_with_a_hint() -> None:
    page = document(200, b"<!doctype html><title>Sign in</title>")
    async with serving(answering([page], [])) as (backend, _):
        with pytest.raises(BackendFailed, match=r"is this the address of the API\?$"):
            await backend.generate("m", CONTENT, num_ctx=None, on_pieces=Heard().hear)


@pytest.fixture(scope="module", params=["vllm", "llama-server"])
def simulator(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    process = start_openai_simulator("--flavour", request.param, "--speed", "200")
    yield process
    process.stop()


@contextlib.asynccontextmanager
async def before(simulator: Simulator) -> AsyncIterator[OpenAiBackend]:
    await simulator.reset()
    backend = OpenAiBackend(name="one", host=f"127.0.0.1:{simulator.port}")
    try:
        async with asyncio.timeout(PATIENCE_S):
            await backend.models()
            yield backend
    finally:
        await backend.close()


@pytest.mark.parametrize("model", ["Qwen/Qwen2.5-7B-Instruct", "qwen3-8b"])
async def test_an_answer_goes_on_from_its_beginning(simulator: Simulator, model: str) -> None:
    """With a model that thinks too: it has thought already."""
    user = Message(role="user", content="tell me")
    async with before(simulator) as backend:
        whole = Heard()
        first = GenerateContent(input=(user,), options={"seed": 1})
        await backend.generate(model, first, num_ctx=None, on_pieces=whole.hear)
        words = [piece.text for piece in whole if piece.text]
        begun = Message(role="assistant", content="".join(words[:3]))
        rest = Heard()
        more = GenerateContent(input=(user, begun), options={"seed": 1}, continues=True)
        await backend.generate(model, more, num_ctx=None, on_pieces=rest.hear)
    assert [piece.text for piece in rest] == words[3:]


async def test_a_server_that_is_loading_comes_back(simulator: Simulator) -> None:
    async with before(simulator) as backend:
        await simulator.set_fault(kind="loading")
        with pytest.raises(BackendBusy):
            await backend.version()
        with pytest.raises(BackendBusy):
            await backend.generate("qwen3-8b", CONTENT, num_ctx=None, on_pieces=Heard().hear)
        await simulator.reset()
        assert await backend.version()


async def test_a_simulator_that_is_told_to_end_cuts_what_runs() -> None:
    process = start_openai_simulator("--speed", "50")
    backend = OpenAiBackend(name="one", host=f"127.0.0.1:{process.port}")
    heard = Heard()
    long = GenerateContent(input=Prompt(text="go"), options={"num_predict": 20_000})
    running = asyncio.create_task(
        backend.generate("Qwen/Qwen2.5-7B-Instruct", long, num_ctx=None, on_pieces=heard.hear)
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            await heard.something.wait()
            process.process.terminate()
            with pytest.raises(BackendFailed):
                await running
            assert process.wait_for_end() == 0
            with pytest.raises(BackendUnreachable):
                await backend.version()
    finally:
        await backend.close()
