"""An Ollama backend before a server of sockets, and what tests ask of the two."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

from broker.backends.connections import TransportLimits
from broker.backends.ollama import OllamaBackend
from broker.core.content import Completion, GenerateContent, Piece, Prompt
from tests.integration.raw_http_server import Peer, RawServer, Request, raw_server

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
