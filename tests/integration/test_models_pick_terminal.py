"""`brokerctl models pick` as a process: its screen is on the terminal, its choice on its output."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from click.testing import CliRunner

from broker_client.pb.broker.v1 import models_pb2 as pb
from brokerctl.main import main
from tests.integration.terminal import Terminal, brokerctl_on_terminal
from tests.unit.cli.picked_models import shelf

pytestmark = pytest.mark.slow

DOWN, END = b"\x1b[B", b"\x1b[F"


class Shelf:
    """Answers Watch with what is on the shelf, downloaded or not, and Get likewise."""

    def __init__(self) -> None:
        self.models = shelf()
        self.asked: list[pb.WatchRequest] = []

    async def watch(
        self, request: pb.WatchRequest, context: Any
    ) -> AsyncIterator[pb.WatchResponse]:
        self.asked.append(request)
        yield pb.WatchResponse(
            list=pb.ListResponse(models=self.models, total=len(self.models), changed_unix_ms=1)
        )
        await asyncio.Event().wait()

    async def get(self, request: pb.GetRequest, context: Any) -> pb.GetResponse:
        for each in self.models:
            if each.name == request.name:
                return pb.GetResponse(model=each)
        await context.abort(grpc.StatusCode.NOT_FOUND, "who?")
        raise AssertionError("abort does not return")


@contextlib.asynccontextmanager
async def serving(stock: Shelf, port: int = 0) -> AsyncIterator[int]:
    """The port that it is served at."""
    server = grpc.aio.server()
    handlers = {
        "Watch": grpc.unary_stream_rpc_method_handler(
            stock.watch, pb.WatchRequest.FromString, pb.WatchResponse.SerializeToString
        ),
        "Get": grpc.unary_unary_rpc_method_handler(
            stock.get, pb.GetRequest.FromString, pb.GetResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("broker.v1.Models", handlers),)
    )
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


async def played(
    play: Callable[[Terminal], None], port: int, *arguments: str, **how: Any
) -> tuple[int, str]:
    """What came of it: its exit status, and its output."""

    def whole() -> tuple[int, str]:
        words = ("models", "pick", *arguments, "--address", f"127.0.0.1:{port}")
        with brokerctl_on_terminal(words, **how) as terminal:
            play(terminal)
            return terminal.end()

    return await asyncio.to_thread(whole)


def marks_two(terminal: Terminal) -> None:
    # At this width only are there backends: it is the terminal's, though the output is none.
    terminal.until("tinyllama:latest", "where", "gpu-1")
    terminal.press(DOWN + b" ")
    terminal.until("Enter takes 1 marked: llama3.1:8b")
    terminal.press(END + b" ")
    terminal.until("Enter takes 2 marked: llama3.1:8b, tinyllama:latest")
    terminal.press(b"\r")


@pytest.mark.parametrize("streams", ["ie", "i", "e"])
async def test_the_screen_is_on_the_terminal_and_the_choice_on_the_output(streams: str) -> None:
    stock = Shelf()
    async with serving(stock) as port:
        status, said = await played(marks_two, port, streams=streams, size=(120, 30))
    assert (status, said) == (0, "llama3.1:8b\ntinyllama:latest\n")
    [asked] = stock.asked
    assert (asked.page_size, asked.filter.availability) == (500, pb.AVAILABILITY_DOWNLOADED)


async def test_options_are_how_it_begins() -> None:
    stock = Shelf()
    words = ("--all", "--fits", "--can", "tools", "--search", " llama ", "--sort", "size")
    more = ("--one", "--selected", "llama3.1:70b", "--context", "4096", "--json")

    def takes_it(terminal: Terminal) -> None:
        terminal.until("> llama3.1:70b", "Enter takes llama3.1:70b")
        terminal.press(b"\r")

    async with serving(stock) as port:
        status, said = await played(takes_it, port, *words, *more, streams="ie")
    assert (status, json.loads(said)) == (0, ["llama3.1:70b"])
    assert stock.asked[0] == pb.WatchRequest(
        page_size=500,
        order=pb.MODEL_ORDER_SIZE,
        filter=pb.ModelFilter(
            search="llama",
            availability=pb.AVAILABILITY_ALL,
            capabilities=["tools"],
            fits=True,
            context_min=4096,
        ),
    )


@pytest.mark.parametrize(
    ("keys", "arguments", "outcome"),
    [(b"q", (), (1, "")), (b"q", ("--json",), (1, "[]\n")), (b"\x03", (), (130, ""))],
)
async def test_nothing_is_chosen(
    keys: bytes, arguments: tuple[str, ...], outcome: tuple[int, str]
) -> None:
    def leaves(terminal: Terminal) -> None:
        terminal.until("gemma3:4b")
        terminal.press(b" " + keys)

    async with serving(Shelf()) as port:
        assert await played(leaves, port, *arguments, streams="ie") == outcome


async def test_a_broker_that_comes_back_is_shown_again() -> None:
    stock = Shelf()
    async with contextlib.AsyncExitStack() as stack:
        async with serving(stock) as port:
            words = ("models", "pick", "--address", f"127.0.0.1:{port}")
            terminal = stack.enter_context(brokerctl_on_terminal(words, streams="ie"))
            await asyncio.to_thread(terminal.until, "gemma3:4b", "llama3.1:8b")
            terminal.press(DOWN)
            await asyncio.to_thread(terminal.until, "Enter takes llama3.1:8b")
        await asyncio.to_thread(terminal.until, "what is shown is old, trying again")
        stock.models[1].places[0].state = pb.MODEL_STATE_DRAINING
        async with serving(stock, port):
            await asyncio.to_thread(terminal.until, "draining")
            terminal.press(b"\r")
            assert await asyncio.to_thread(terminal.end) == (0, "llama3.1:8b\n")


async def test_without_a_terminal_it_says_what_does_without() -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "brokerctl.main", "models", "pick", "--address", "127.0.0.1:1"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "brokerctl: models pick needs a terminal; `brokerctl models list` does without\n"
    )


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--one", "--selected", "a", "--selected", "b"), "with --one there is one --selected"),
        (("--all", "--downloadable"), "--all has --downloadable in it"),
        (("--search", "x" * 129), "--search takes at most 128 characters"),
        (("--can", "fly"), "'fly' is not one of"),
    ],
)
def test_wrong_use_is_told(words: tuple[str, ...], problem: str) -> None:
    result = CliRunner().invoke(main, ["models", "pick", *words])
    assert result.exit_code == 2
    assert problem in result.output
