"""Answers whose HTTP breaks in the middle: noticed at once, whichever adapter reads them.

The first piece is heard before the bad bytes are sent, so that they come to a reader that waits.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from broker.backends.ollama import OllamaBackend
from broker.backends.openai_compatible import OpenAiBackend
from broker.core.content import FinishReason
from broker.core.errors import BackendFailed
from broker.core.ports import Backend
from tests.integration.raw_http_server import LAST_CHUNK, Peer, chunk, head, raw_server
from tests.integration.served_backend import CONTENT, PATIENCE_S, Heard

STREAM = head(200, ("Content-Type", "text/plain"), ("Transfer-Encoding", "chunked"))
NO_CHUNK = b"zzzz\r\nblah\r\n"
LINE = chunk('{"model":"m","response":"hi","done":false}\n')
LAST_LINE = chunk('{"model":"m","response":"","done":true,"done_reason":"stop"}\n')
EVENT = chunk('data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n')
LAST_EVENT = chunk('data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n')


def ollama(host: str) -> Backend:
    return OllamaBackend(name="one", host=host)


def openai(host: str) -> Backend:
    return OpenAiBackend(name="one", host=host)


each_adapter = pytest.mark.parametrize(
    ("adapter", "first", "last"),
    [(ollama, LINE, LAST_LINE), (openai, EVENT, LAST_EVENT)],
    ids=["ollama", "openai"],
)


@each_adapter
async def test_a_chunk_that_is_none_ends_an_answer_at_once(
    adapter: Callable[[str], Backend], first: bytes, last: bytes
) -> None:
    heard = Heard()

    async def handler(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(STREAM + first)
        await heard.something.wait()
        await peer.send(NO_CHUNK)
        await peer.wait_closed()  # and does not close by itself

    async with asyncio.timeout(PATIENCE_S), raw_server(handler) as server:
        backend = adapter(server.host)
        try:
            with pytest.raises(BackendFailed, match="not framed as HTTP") as failed:
                await backend.generate("m", CONTENT, num_ctx=None, on_pieces=heard.hear)
        finally:
            await backend.close()
    assert type(failed.value) is BackendFailed
    assert [piece.text for piece in heard] == ["hi"]


@each_adapter
async def test_what_breaks_after_the_end_breaks_nothing(
    adapter: Callable[[str], Backend], first: bytes, last: bytes
) -> None:
    """A connection that is reset while nobody uses it is no news, not even for the log."""
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    done, gone = asyncio.Event(), asyncio.Event()
    all_heard = [Heard(), Heard(), Heard()]
    left = iter(all_heard)

    async def handler(peer: Peer) -> None:
        for _ in range(2):
            if await peer.read_request() is None:
                return
            heard = next(left)
            await peer.send(STREAM + first)
            await heard.something.wait()
            await peer.send(last + LAST_CHUNK)
        await done.wait()
        peer.reset_when_closed()
        peer.close()
        gone.set()

    async with asyncio.timeout(PATIENCE_S), raw_server(handler) as server:
        backend = adapter(server.host)
        try:
            for heard in all_heard[:2]:
                completion = await backend.generate(
                    "m", CONTENT, num_ctx=None, on_pieces=heard.hear
                )
                assert completion.finish_reason is FinishReason.STOP
            assert server.connections == 1
            done.set()
            await gone.wait()
            for _ in range(10):  # turns of the loop, in which the reset is read
                await asyncio.sleep(0)
            # The next call finds it broken and lets go of it.
            await backend.generate("m", CONTENT, num_ctx=None, on_pieces=all_heard[2].hear)
            assert server.connections == 2
            gc.collect()
            assert complaints == []
        finally:
            await backend.close()
