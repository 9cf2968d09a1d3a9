"""The Ollama backend over real sockets: how connections begin, are used again, and end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

import pytest

from broker.backends.ollama import OllamaBackend
from broker.backends.ollama_transport import TransportLimits
from broker.core.content import (
    Completion,
    EmbedContent,
    FinishReason,
    GenerateContent,
    Message,
    Piece,
    Prompt,
)
from broker.core.errors import (
    BackendBusy,
    BackendFailed,
    BackendRefused,
    BackendUnreachable,
    ModelUnknown,
)
from tests.integration.raw_http_server import (
    LAST_CHUNK,
    STREAM_HEAD,
    Peer,
    RawServer,
    Request,
    chunk,
    document,
    head,
    raw_server,
)

TOKEN = chunk('{"model":"m","response":" one","done":false}\n')
DONE = chunk('{"model":"m","response":"","done":true,"done_reason":"stop","eval_count":1}\n')
LOADED = document(200, b'{"model":"m","response":"","done":true,"done_reason":"load"}')
CONTENT = GenerateContent(input=Prompt(text="go"))
PATIENCE_S = 30.0  # after which a wait is a failure; nothing is expected to come near it


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[Peer], Awaitable[None]],
    limits: TransportLimits | None = None,
    patience_s: float | None = PATIENCE_S,
) -> AsyncIterator[tuple[OllamaBackend, RawServer]]:
    """A backend before a server of sockets."""
    async with asyncio.timeout(patience_s), raw_server(handler) as server:
        backend = OllamaBackend(name="one", host=server.host, limits=limits)
        try:
            yield backend, server
        finally:
            await backend.close()


def answering(answers: Sequence[bytes], asked: list[Request]) -> Callable[[Peer], Awaitable[None]]:
    """A handler that gives the answers in order, over whichever connections the requests come."""
    left = list(answers)

    async def handler(peer: Peer) -> None:
        while request := await peer.read_request():
            asked.append(request)
            await peer.send(left.pop(0))

    return handler


class Heard(list[Piece]):
    """The pieces that came, and an event for the first of them."""

    def __init__(self) -> None:
        super().__init__()
        self.something = asyncio.Event()

    def hear(self, pieces: Sequence[Piece]) -> None:
        self.extend(pieces)
        self.something.set()


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock a test puts forward: every timer in between is due at once."""

    jumped_s = 0.0

    def time(self) -> float:
        return super().time() + self.jumped_s

    async def jump(self, seconds: float) -> None:
        """Moves the clock on, and returns after all that fell due has run."""
        self.jumped_s += seconds
        due = asyncio.Event()
        self.call_at(self.time(), due.set)
        await due.wait()


def on_a_jumping_loop(test: Callable[[JumpingLoop], Coroutine[None, None, None]]) -> None:
    loop = JumpingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(test(loop))


async def generate(
    backend: OllamaBackend, heard: Heard, content: GenerateContent = CONTENT
) -> Completion:
    return await backend.generate("m", content, num_ctx=None, on_pieces=heard.hear)


async def test_a_body_is_sent_whole_with_its_exact_length() -> None:
    asked: list[Request] = []
    # Larger than every buffer on the way and than the megabyte at which aiohttp would warn.
    text = "wörter " * 500_000
    content = GenerateContent(
        input=(Message(role="user", content=text),), options={"seed": 1, "num_predict": 0}
    )
    answer = chunk('{"message":{"role":"assistant","content":"a"},"done":false}\n')
    async with serving(answering([STREAM_HEAD + answer + DONE + LAST_CHUNK], asked)) as (one, _):
        await one.generate("m", content, num_ctx=2048, on_pieces=lambda _: None)
    (request,) = asked
    assert (request.method, request.path) == ("POST", "/api/chat")
    assert request.header("content-length") == str(len(request.body))
    assert request.header("content-type") == "application/json"
    assert request.header("host") == one.url.removeprefix("http://")
    names = {name for name, _ in request.headers}
    assert not names & {"origin", "expect", "cookie", "authorization", "connection"}
    assert request.document == {
        "model": "m",
        "stream": True,
        "messages": [{"role": "user", "content": text}],
        "options": {"seed": 1, "num_ctx": 2048},
    }


def test_a_silent_first_byte_is_waited_for() -> None:
    """The head comes with the first token, and a token may be long in coming: a day here."""

    async def play(loop: JumpingLoop) -> None:
        asked, speak, end = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def handler(peer: Peer) -> None:
            await peer.read_request()
            asked.set()
            await speak.wait()
            await peer.send(STREAM_HEAD + TOKEN)
            await end.wait()
            await peer.send(DONE + LAST_CHUNK)

        async with serving(handler, patience_s=None) as (one, _):
            heard = Heard()
            running = asyncio.create_task(generate(one, heard))
            await asked.wait()
            await loop.jump(86_400)
            speak.set()
            await heard.something.wait()
            await loop.jump(86_400)
            end.set()
            assert (await running).output_tokens == 1

    on_a_jumping_loop(play)


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
            await check(one.version(), "/api/version", 5)
            await check(one.residents(), "/api/ps", 25)
            await check(one.unload("m"), "/api/generate", 25)
            await check(one.models(), "/api/tags", 30)

    on_a_jumping_loop(play)


async def test_pieces_of_one_read_come_together_and_as_they_come() -> None:
    calls: list[list[Piece]] = []
    came = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(STREAM_HEAD + TOKEN + TOKEN + TOKEN)
        await came.wait()
        await peer.send(TOKEN + DONE + LAST_CHUNK)
        await peer.wait_closed()

    def on_pieces(pieces: Sequence[Piece]) -> None:
        calls.append(list(pieces))
        came.set()

    async with serving(handler) as (one, _):
        completion = await one.generate("m", CONTENT, num_ctx=None, on_pieces=on_pieces)
    assert calls == [[Piece(" one")] * 3, [Piece(" one")]]
    assert completion == Completion(
        finish_reason=FinishReason.STOP, prompt_tokens=0, output_tokens=1
    )


@pytest.mark.parametrize("sent", [b"", STREAM_HEAD, STREAM_HEAD + TOKEN])
async def test_cancelling_closes_in_one_step(sent: bytes) -> None:
    """Before the head, after it and in the middle of a stream."""
    reached, seen = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(sent)
        reached.set()
        rest = await peer.wait_closed()
        seen.set_result((rest, await peer.is_wholly_closed()))

    async with serving(handler) as (one, _):
        heard = Heard()
        running = asyncio.create_task(generate(one, heard))
        await reached.wait()
        if TOKEN in sent:
            await heard.something.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        # The session is still open: it was the cancelled call alone that closed the connection.
        assert await seen == (b"", True)


@pytest.mark.slow  # a body larger than all the buffers of the kernel
async def test_cancelling_drops_a_body_that_is_still_on_its_way() -> None:
    size = 64 << 20
    reached, leave = asyncio.Event(), asyncio.Event()
    received = asyncio.get_running_loop().create_future()

    async def handler(peer: Peer) -> None:
        request = await peer.read_head()
        assert request is not None
        assert int(request.header("content-length") or 0) > size
        reached.set()
        await leave.wait()
        received.set_result(len(await peer.wait_closed()))

    async with serving(handler) as (one, _):
        content = GenerateContent(input=Prompt(text="x" * size))
        running = asyncio.create_task(generate(one, Heard(), content))
        await reached.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        leave.set()
        # The kernel's buffers are delivered still; what the process held is not.
        assert await received < size // 2


async def test_a_cancelled_call_leaves_other_connections_alone() -> None:
    waiting = [asyncio.Event(), asyncio.Event()]
    speak = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        waiting[peer.number].set()
        if peer.number == 0:
            await peer.wait_closed()
            speak.set()
            return
        await speak.wait()
        await peer.send(STREAM_HEAD + TOKEN + DONE + LAST_CHUNK)
        assert await peer.read_request(), "the next call comes over the connection that is left"
        await peer.send(STREAM_HEAD + DONE + LAST_CHUNK)
        await peer.wait_closed()

    async with serving(handler) as (one, server):
        first = asyncio.create_task(generate(one, Heard()))
        await waiting[0].wait()
        second = asyncio.create_task(generate(one, Heard()))
        await waiting[1].wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await second).finish_reason is FinishReason.STOP
        await generate(one, Heard())
        assert server.connections == 2


async def test_an_observer_that_fails_closes_the_connection() -> None:
    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(STREAM_HEAD + TOKEN)
        assert await peer.wait_closed() == b""

    def on_pieces(_: Sequence[Piece]) -> None:
        raise ZeroDivisionError

    async with serving(handler) as (one, _):
        with pytest.raises(ZeroDivisionError):
            await one.generate("m", CONTENT, num_ctx=None, on_pieces=on_pieces)


async def test_one_connection_serves_on_after_every_error() -> None:
    """As Ollama itself keeps it open (recorded: 17_connection_reused)."""
    broken = chunk('{"error":"an error was encountered while running the model: unexpected EOF"}\n')
    asked: list[Request] = []
    answers = [
        document(404, b'{"error":"model \'m\' not found"}'),
        document(400, b'{"error":"unexpected EOF"}'),
        document(503, b'{"error":"server busy, please try again."}'),
        STREAM_HEAD + TOKEN + broken + LAST_CHUNK,
        STREAM_HEAD + TOKEN + LAST_CHUNK,
        document(500, b""),
        STREAM_HEAD + TOKEN + DONE + LAST_CHUNK,
    ]
    async with serving(answering(answers, asked)) as (one, server):
        pieces = Heard()
        with pytest.raises(ModelUnknown):
            await generate(one, pieces)
        with pytest.raises(BackendRefused, match=r"^unexpected EOF$"):
            await generate(one, pieces)
        with pytest.raises(BackendBusy):
            await generate(one, pieces)
        assert pieces == []
        with pytest.raises(BackendFailed, match=r"^an error was .*: unexpected EOF$"):
            await generate(one, pieces)
        with pytest.raises(BackendFailed, match="ended without its terminator"):
            await generate(one, pieces)
        with pytest.raises(BackendFailed, match="status 500 without a word"):
            await generate(one, pieces)
        assert pieces == [Piece(" one")] * 2
        await generate(one, pieces)
        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(STREAM_HEAD + TOKEN, id="closed in the middle"),
        pytest.param(STREAM_HEAD + TOKEN + b"zz\r\n", id="a chunk that is none"),
        pytest.param(STREAM_HEAD + TOKEN + chunk("garbage\n"), id="a line that is none"),
        pytest.param(STREAM_HEAD + TOKEN + chunk("[1]\n"), id="a line that is no object"),
        pytest.param(STREAM_HEAD + TOKEN + chunk('{"response":1}\n'), id="a field of another type"),
        pytest.param(b"220 smtp.example ready\r\n", id="another protocol"),
    ],
)
async def test_an_answer_that_breaks_is_a_failure_and_costs_its_connection(answer: bytes) -> None:
    async def handler(peer: Peer) -> None:
        if peer.number == 0:
            await peer.read_request()
            await peer.send(answer)
            return
        while await peer.read_request():
            await peer.send(STREAM_HEAD + DONE + LAST_CHUNK)

    async with serving(handler) as (one, server):
        with pytest.raises(BackendFailed) as failure:
            await generate(one, Heard())
        assert not isinstance(failure.value, BackendUnreachable)
        assert "Error" not in failure.value.message
        assert "b'" not in failure.value.message
        await generate(one, Heard())
        assert server.connections == 2


async def test_a_garbled_stream_is_left_though_it_goes_on() -> None:
    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(STREAM_HEAD + chunk("garbage\n"))
        assert await peer.wait_closed() == b""

    async with serving(handler) as (one, _):
        with pytest.raises(BackendFailed, match="cannot be read"):
            await generate(one, Heard())


async def test_a_line_without_end_is_left_at_its_limit() -> None:
    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(STREAM_HEAD)
        endless = chunk('{"response":"' + "x" * 1_000_000)
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                await peer.send(endless)
            raise AssertionError("nobody stopped it")

    async with serving(handler) as (one, _):
        with pytest.raises(BackendFailed, match="over 8000000 bytes"):
            await generate(one, Heard())


async def test_a_closing_chunk_that_is_held_back_does_not_hold_the_answer_back() -> None:
    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(STREAM_HEAD + TOKEN + DONE)
        assert await peer.wait_closed() == b""

    async with serving(handler, TransportLimits(closing_chunk_s=0.01)) as (one, _):
        assert (await generate(one, Heard())).output_tokens == 1


async def test_a_closing_chunk_that_comes_by_itself_keeps_the_connection() -> None:
    """As Ollama sends it: the last line is flushed before the handler ends."""

    async def handler(peer: Peer) -> None:
        while await peer.read_request():
            await peer.send_parts([STREAM_HEAD, TOKEN, DONE, LAST_CHUNK])

    async with serving(handler) as (one, server):
        for _ in range(3):
            await generate(one, Heard())
        assert server.connections == 1


async def test_nobody_listens() -> None:
    async with raw_server(lambda peer: peer.send(b"")) as server:
        host = server.host
    one = OllamaBackend(name="one", host=host)
    try:
        with pytest.raises(BackendUnreachable, match="takes no connection: Connection refused"):
            await generate(one, Heard())
        with pytest.raises(BackendUnreachable, match="takes no connection: Connection refused"):
            await one.version()
    finally:
        await one.close()


async def test_a_name_that_does_not_resolve() -> None:
    one = OllamaBackend(name="one", host="no-such-host.invalid:1")
    try:
        with pytest.raises(BackendUnreachable, match=r"^http://no-such-host\.invalid:1 takes no "):
            await one.version()
    finally:
        await one.close()


async def test_closed_before_a_byte_came() -> None:
    async def handler(peer: Peer) -> None:
        await peer.read_request()

    async with serving(handler) as (one, _):
        with pytest.raises(BackendUnreachable, match="closed before it answered"):
            await generate(one, Heard())
        with pytest.raises(BackendUnreachable, match="closed before it answered"):
            await one.embed("m", EmbedContent(inputs=("a",)), num_ctx=None)


async def test_a_redirect_is_not_followed() -> None:
    asked: list[Request] = []
    answer = head(307, ("Location", "/elsewhere"), ("Content-Length", "0"))
    async with serving(answering([answer], asked)) as (one, _):
        with pytest.raises(BackendFailed) as failure:
            await generate(one, Heard())
    assert failure.value.status == 307
    assert [request.path for request in asked] == ["/api/generate"]


async def test_closing_the_backend_fails_what_runs_and_refuses_what_comes() -> None:
    reached, left = asyncio.Event(), asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        if peer.number == 0:
            await peer.send(STREAM_HEAD + TOKEN)
        else:
            reached.set()
        assert await peer.wait_closed() == b""
        left.set()

    async with serving(handler) as (one, _):
        heard = Heard()
        running = asyncio.create_task(generate(one, heard))
        waiting = asyncio.create_task(generate(one, Heard()))
        await reached.wait()
        await heard.something.wait()
        await one.close()
        await left.wait()
        with pytest.raises(BackendFailed, match="broke off in the middle"):
            await running
        with pytest.raises(BackendUnreachable):
            await waiting
        with pytest.raises(BackendUnreachable, match="is closed"):
            await generate(one, Heard())


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
