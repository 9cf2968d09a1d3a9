"""The list of models on a terminal, as `brokerctl models watch` draws it."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from rich.console import Console

from broker_client.catalogue import watched_of
from broker_client.pb.broker.v1 import models_pb2 as pb
from brokerctl.fitting_screen import FittingScreen
from brokerctl.models_watch import ModelsScreen
from tests.integration.scripted_answers import Context
from tests.integration.scripted_broker import ScriptedBroker, serving
from tests.integration.terminal import brokerctl_on_terminal
from tests.integration.test_client_model_lists import DOWN, LLAMA, MESSAGES, QWEN, watched


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with serving() as scripted:
        yield scripted


async def test_on_a_terminal_the_list_follows_until_ctrl_c(broker: ScriptedBroker) -> None:
    goes_on, stays = asyncio.Event(), asyncio.Event()

    async def turn(request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        yield MESSAGES[0]
        await goes_on.wait()
        yield watched(LLAMA, QWEN, sources=[DOWN], loading=True)
        await stays.wait()

    broker.script.append(turn)
    words = ("models", "watch", "--all", "--address", broker.address)
    with brokerctl_on_terminal(words, size=(80, 24)) as terminal:
        await asyncio.to_thread(terminal.until, "1 of 1 models at", "llama3:8b", "gpu0 (resident)")
        goes_on.set()
        await asyncio.to_thread(
            terminal.until,
            "2 of 2 models at",
            "the list is being refreshed",
            "ollama does not answer (refused once)",
            "qwen3:4b",
            "to download",
        )
        terminal.process.send_signal(signal.SIGINT)
        status, _ = await asyncio.to_thread(terminal.end)
    assert status == 130


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_screen_keeps_to_its_width_and_height(width: int) -> None:
    models = [
        pb.Model(
            name=f"hf.co/somebody/A-Long-Name-{number}:Q4_K_M",
            size_text="4.7 GB",
            downloaded=True,
            capabilities=["completion", "tools", "thinking"],
            places=[pb.ModelPlace(backend=f"gpu{place}") for place in range(9)],
        )
        for number in range(50)
    ]
    found = watched_of(watched(*models, sources=[DOWN]))
    console = Console(width=width, height=24, no_color=True, force_terminal=True)
    with console.capture() as capture:
        console.print(FittingScreen(ModelsScreen(found, "127.0.0.1:1")), height=24)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capture.get()).splitlines()
    assert len(lines) <= 24
    assert all(len(line.rstrip()) <= width for line in lines)
    assert "50 of 50 models" in lines[0]
    assert "the list is 3 h 0 min old" in lines[1]
    assert "more lines" in lines[-1]
