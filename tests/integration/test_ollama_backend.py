"""The Ollama backend over real sockets: how connections begin, are used again, and end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from broker.backends.connections import TransportLimits
from broker.backends.ollama import OllamaBackend
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
    Request,
    chunk,
    document,
    raw_server,
)
from tests.integration.served_backend import (
    CONTENT,
    Heard,
    JumpingLoop,
    answering,
    generate,
    on_a_jumping_loop,
    serving,
)

TOKEN = chunk('{"model":"m","response":" one","done":false}\n')
DONE = chunk('{"model":"m","response":"","done":true,"done_reason":"stop","eval_count":1}\n')


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
        with pytest.raises(BackendFailed, match="closed before it answered") as closed:
            await generate(one, Heard())
        assert type(closed.value) is BackendFailed, "somebody listens there"
        with pytest.raises(BackendFailed, match="closed before it answered"):
            await one.embed("m", EmbedContent(inputs=("a",)), num_ctx=None)


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
