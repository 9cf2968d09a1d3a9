"""Connections that close before an answer began: what is repeated, what has failed, who is away.

Servers close idle connections without a word (uvicorn after 5 s), and so does much that stands
between; the next call is on its way by then.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from broker.backends.connections import GIVEN_UP_S
from broker.backends.ollama import OllamaBackend
from broker.backends.openai_compatible import OpenAiBackend
from broker.core.errors import BackendFailed, BackendUnreachable
from tests.integration.raw_http_server import LAST_CHUNK, STREAM_HEAD, Peer, chunk, document
from tests.integration.served_backend import (
    PATIENCE_S,
    Heard,
    JumpingLoop,
    generate,
    on_a_jumping_loop,
    serving,
)

VERSION = document(200, b'{"version":"0.21.0"}')
DONE = chunk('{"done":true,"done_reason":"stop","prompt_eval_count":1,"eval_count":1}\n')
ANSWER = STREAM_HEAD + DONE + LAST_CHUNK


class Closing:
    """A server that answers `good` calls on each connection and closes it at the next one. The
    connections that it takes from number `lasting` on go on for ever."""

    def __init__(self, good: int, lasting: int = 1_000, *, by_reset: bool = False) -> None:
        self.good = good
        self._lasting = lasting
        self._by_reset = by_reset
        self.posts = 0
        self.came = asyncio.Semaphore(0)  # released with each call
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def handle(self, peer: Peer) -> None:
        for number in range(1_000):
            request = await peer.read_request()
            if request is None:
                return
            self.posts += request.method == "POST"
            self.came.release()
            if number >= self.good and peer.number < self._lasting:
                if self._by_reset:
                    peer.reset_when_closed()
                return
            await self.may_answer.wait()
            await peer.send(ANSWER if request.method == "POST" else VERSION)


@pytest.mark.parametrize("by_reset", [False, True], ids=["closed", "reset"])
async def test_what_an_idle_connection_loses_is_repeated_over_a_new_one(by_reset: bool) -> None:
    """Whichever of the idle ones is left: all of them may have been given up."""
    idle = 3
    closing = Closing(1, lasting=idle, by_reset=by_reset)
    closing.may_answer.clear()
    async with serving(closing.handle) as (one, server):
        async with asyncio.TaskGroup() as tasks:
            for _ in range(idle):
                tasks.create_task(one.version())
            for _ in range(idle):
                await closing.came.acquire()
            closing.may_answer.set()
        assert (await generate(one, Heard())).output_tokens == 1
        assert closing.posts == 2
        assert server.connections == idle + 1


async def test_it_is_repeated_once_and_then_has_failed() -> None:
    """A call that its server cannot bear reaches it twice at most, and speaks for itself alone."""
    closing = Closing(1)
    async with serving(closing.handle) as (one, _):
        await one.version()
        closing.good = 0
        with pytest.raises(BackendFailed, match="closed before it answered") as failed:
            await generate(one, Heard())
        assert type(failed.value) is BackendFailed
        assert closing.posts == 2


async def test_what_a_new_connection_loses_is_not_repeated() -> None:
    closing = Closing(0)
    async with serving(closing.handle) as (one, _):
        with pytest.raises(BackendFailed, match="closed before it answered"):
            await generate(one, Heard())
        assert closing.posts == 1


async def test_what_had_begun_to_be_answered_is_not_repeated() -> None:
    posts = 0

    async def handler(peer: Peer) -> None:
        nonlocal posts
        while request := await peer.read_request():
            if request.method == "POST":
                posts += 1
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Ty")
                return
            await peer.send(VERSION)

    async with serving(handler) as (one, _):
        await one.version()
        with pytest.raises(BackendFailed):
            await generate(one, Heard())
        assert posts == 1


def test_what_was_worked_on_for_a_while_is_not_repeated() -> None:
    async def test(loop: JumpingLoop) -> None:
        posts, close = 0, asyncio.Event()

        async def handler(peer: Peer) -> None:
            nonlocal posts
            while request := await peer.read_request():
                if request.method == "POST":
                    posts += 1
                    came.set()
                    await close.wait()
                    return
                await peer.send(VERSION)

        came = asyncio.Event()
        async with serving(handler, patience_s=None) as (one, _):
            await one.version()
            running = asyncio.create_task(generate(one, Heard()))
            await came.wait()
            await loop.jump(GIVEN_UP_S * 2)
            close.set()
            with pytest.raises(BackendFailed, match="closed before it answered"):
                await running
            assert posts == 1

    on_a_jumping_loop(test)


async def test_a_server_that_is_gone_by_then_is_away() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        server.close()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    one = OllamaBackend(name="one", host=f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(BackendUnreachable, match=r"since then .*: Connection refused"):
                await generate(one, Heard())
    finally:
        await one.close()
        server.close()
        await server.wait_closed()


async def test_an_idle_connection_is_left_before_uvicorn_leaves_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which closes it after 5 s."""
    closing = Closing(1_000)
    async with serving(closing.handle) as (_, server):
        backend = OpenAiBackend(name="one", host=server.host)
        try:
            for _ in range(2):
                await backend.version()
            assert server.connections == 1
            monkeypatch.setattr("aiohttp.connector.monotonic", lambda: time.monotonic() + 4.5)
            await backend.version()
            assert server.connections == 2
        finally:
            await backend.close()
