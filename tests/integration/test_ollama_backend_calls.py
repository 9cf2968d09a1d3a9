"""The Ollama backend over real sockets: what it asks besides generations, and how often."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine

import pytest

from broker.backends.connections import TransportLimits
from broker.backends.ollama import OllamaBackend
from broker.core.content import (
    EmbedContent,
)
from broker.core.errors import (
    BackendFailed,
    ModelUnknown,
)
from tests.integration.raw_http_server import (
    Peer,
    Request,
    document,
    head,
    raw_server,
)
from tests.integration.served_backend import (
    PATIENCE_S,
    Heard,
    JumpingLoop,
    answering,
    generate,
    on_a_jumping_loop,
    serving,
)

LOADED = document(200, b'{"model":"m","response":"","done":true,"done_reason":"load"}')


def test_control_calls_wait_no_longer_than_they_say() -> None:
    async def play(loop: JumpingLoop) -> None:
        asked: asyncio.Queue[str] = asyncio.Queue()

        async def handler(peer: Peer) -> None:
            request = await peer.read_request()
            assert request is not None
            asked.put_nowait(request.path)
            assert await peer.wait_closed() == b""

        async def check(call: Coroutine[None, None, object], path: str, seconds: int) -> None:
            running = asyncio.create_task(call)
            assert await asked.get() == path
            await loop.jump(seconds - 1)
            assert not running.done()
            await loop.jump(2)
            with pytest.raises(BackendFailed, match=rf"{path} gave no answer within {seconds} s"):
                await running

        async with serving(handler, patience_s=None) as (one, _):
            await check(one.version(), "/api/version", 10)
            await check(one.residents(), "/api/ps", 25)
            await check(one.unload("m"), "/api/generate", 25)
            await check(one.models(), "/api/tags", 30)

    on_a_jumping_loop(play)


async def test_loading_says_how_long_to_stay_in_seconds() -> None:
    asked: list[Request] = []
    async with serving(answering([LOADED, LOADED], asked)) as (one, _):
        await one.load("m", num_ctx=4096, keep_alive_s=600)
        await one.load("m", num_ctx=None, keep_alive_s=10**12)
        with pytest.raises(ValueError, match="unloads"):
            await one.load("m", num_ctx=None, keep_alive_s=0)
    assert [request.path for request in asked] == ["/api/generate"] * 2
    assert [request.document for request in asked] == [
        {"model": "m", "stream": False, "keep_alive": 600, "options": {"num_ctx": 4096}},
        {"model": "m", "stream": False, "keep_alive": 9_000_000_000},
    ]


async def test_an_embedding_model_is_loaded_by_an_embedding_call() -> None:
    refused = document(400, b'{"error":"\\"m\\" does not support generate"}')
    embedded = document(200, b'{"model":"m","embeddings":[]}')
    tags = (
        b'{"models":[{"name":"m:latest","digest":"%s","size":1,"capabilities":["embedding"]}]}'
        % (b"a" * 64)
    )
    asked: list[Request] = []
    answers = [refused, embedded, document(200, tags), document(500, b""), embedded]
    async with serving(answering(answers, asked)) as (one, _):
        # Nothing is known of the model yet: the refusal of the first try says what it is.
        await one.load("M", num_ctx=512, keep_alive_s=-1)
        (facts,) = await one.models()
        assert facts.capabilities == {"embedding"}
        await one.load("M", num_ctx=512, keep_alive_s=-1)
    assert [request.path for request in asked] == [
        "/api/generate",
        "/api/embed",
        "/api/tags",
        "/api/show",
        "/api/embed",
    ]
    assert asked[-1].document == {
        "model": "M",
        "input": [],
        "keep_alive": -1,
        "options": {"num_ctx": 512},
    }


async def test_a_load_that_fails_says_why() -> None:
    text = b'{"error":"llama-server process has terminated: exit status 1: no memory"}'
    not_found = document(404, b'{"error":"model \'m\' not found"}')
    asked: list[Request] = []
    async with serving(answering([document(500, text), not_found], asked)) as (one, _):
        with pytest.raises(BackendFailed, match=r"terminated: exit status 1: no memory") as failure:
            await one.load("m", num_ctx=None, keep_alive_s=600)
        assert failure.value.status == 500
        with pytest.raises(ModelUnknown):
            await one.load("m", num_ctx=None, keep_alive_s=600)


async def test_unloading_by_whichever_call_the_server_takes() -> None:
    unloaded = document(200, b'{"model":"m","response":"","done":true,"done_reason":"unload"}')
    refused = document(400, b'{"error":"\\"m\\" does not support generate"}')
    embedded = document(200, b'{"model":"m","embeddings":[]}')
    gone = document(404, b'{"error":"model \'m\' not found"}')
    asked: list[Request] = []
    async with serving(answering([unloaded, refused, embedded, gone], asked)) as (one, _):
        await one.unload("m")
        await one.unload("m")
        with pytest.raises(ModelUnknown):
            await one.unload("m")
    assert [request.path.rpartition("/")[2] for request in asked] == [
        "generate",
        "generate",
        "embed",
        "generate",
    ]
    assert asked[0].document == {"model": "m", "stream": False, "keep_alive": 0}
    assert asked[2].document == {"model": "m", "input": [], "keep_alive": 0}


async def test_each_digest_is_shown_once_a_few_at_a_time_and_failures_again() -> None:
    """Four names over three digests, one of which does not show at first."""
    digests = {"a": "1" * 64, "a2": "1" * 64, "b": "2" * 64, "broken": "3" * 64}
    entries = ",".join(
        f'{{"name":"{name}:latest","digest":"{digest}","size":5}}'
        for name, digest in digests.items()
    )
    remote = f'{{"name":"far:cloud","digest":"{"4" * 64}","remote_model":"far"}}'
    shows: list[str] = []
    works = False

    async def handler(peer: Peer) -> None:
        while request := await peer.read_request():
            if request.path == "/api/tags":
                await peer.send(document(200, f'{{"models":[{entries},{remote}]}}'.encode()))
                continue
            name = str(request.document["model"])
            shows.append(name)
            if name == "broken:latest" and not works:
                await peer.send(document(500, b'{"error":"open: no such file"}'))
                continue
            blob = "e" * 64
            shown = (
                f'{{"modelfile":"# FROM x\\nFROM /m/blobs/sha256-{blob}\\nFROM y","capabilities":'
            )
            shown += (
                '["completion"],"model_info":{"general.architecture":"l","l.context_length":99}}'
            )
            await peer.send(document(200, shown.encode()))

    async with serving(handler) as (one, _):
        first = {model.name: model for model in await one.models()}
        assert list(first) == ["a:latest", "a2:latest", "b:latest", "broken:latest"]
        assert first["broken:latest"].runner == "3" * 64
        assert first["broken:latest"].context_length_train == 0
        assert first["a2:latest"].runner == "e" * 64
        assert first["b:latest"].context_length_train == 99
        assert len(shows) == 3
        assert len(set(shows)) == 3
        works = True
        second = {model.name: model for model in await one.models()}
        assert second["broken:latest"].runner == "e" * 64
        assert shows[3:] == ["broken:latest"]
        await one.models()
        assert len(shows) == 4


async def test_shows_run_four_at_once_and_no_more() -> None:
    entries = ",".join(f'{{"name":"m{i}:latest","digest":"{i:064}"}}' for i in range(12))
    open_now = 0
    most = 0
    four = asyncio.Event()

    async def handler(peer: Peer) -> None:
        nonlocal open_now, most
        while request := await peer.read_request():
            if request.path == "/api/tags":
                await peer.send(document(200, f'{{"models":[{entries}]}}'.encode()))
                continue
            open_now += 1
            most = max(most, open_now)
            if open_now == 4:
                four.set()
            # Nobody is answered until four have come: fewer at once would never end.
            await four.wait()
            await asyncio.sleep(0)
            open_now -= 1
            await peer.send(document(200, b"{}"))

    async with serving(handler) as (one, _):
        assert len(await one.models()) == 12
    assert most == 4


async def test_an_embedding_answer_must_fit_its_inputs() -> None:
    asked: list[Request] = []
    short = document(200, b'{"model":"m","embeddings":[[0.5,1]],"prompt_eval_count":3}')
    async with serving(answering([short, short, document(200, b"[]")], asked)) as (one, _):
        content = EmbedContent(inputs=("a",), dimensions=2, refuse_too_long=True)
        answer = await one.embed("m", content, num_ctx=128)
        assert answer.vectors == ((0.5, 1.0),)
        assert answer.prompt_tokens == 3
        with pytest.raises(BackendFailed, match="1 vectors to 2 inputs"):
            await one.embed("m", EmbedContent(inputs=("a", "b")), num_ctx=None)
        with pytest.raises(BackendFailed, match="cannot be read"):
            await one.embed("m", EmbedContent(inputs=("a",)), num_ctx=None)
    assert asked[0].document == {
        "model": "m",
        "input": ["a"],
        "truncate": False,
        "dimensions": 2,
        "options": {"num_ctx": 128},
    }


async def test_an_answer_beyond_the_limit_is_not_held() -> None:
    limits = TransportLimits(answer_bytes_max=1 << 20)

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        with contextlib.suppress(ConnectionError):
            await peer.send(document(200, b" " * (4 << 20)))

    async with serving(handler, limits) as (one, _):
        with pytest.raises(BackendFailed, match="over 1048576 bytes"):
            await one.residents()


async def test_a_path_before_the_api_is_kept() -> None:
    asked: list[Request] = []
    async with (
        asyncio.timeout(PATIENCE_S),
        raw_server(answering([document(200, b'{"version":"0.0.0"}')], asked)) as server,
    ):
        one = OllamaBackend(name="one", host=f"http://{server.host}/ollama/")
        try:
            assert await one.version() == "0.0.0"
        finally:
            await one.close()
    assert [(request.method, request.path) for request in asked] == [("GET", "/ollama/api/version")]
    assert asked[0].body == b""


async def test_a_redirect_is_not_followed() -> None:
    asked: list[Request] = []
    answer = head(307, ("Location", "/elsewhere"), ("Content-Length", "0"))
    async with serving(answering([answer], asked)) as (one, _):
        with pytest.raises(BackendFailed) as failure:
            await generate(one, Heard())
    assert failure.value.status == 307
    assert "is this the address of the API? (it sends to /elsewhere)" in failure.value.message
    assert [request.path for request in asked] == ["/api/generate"]
