"""The examples of the client's README work as pasted."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.scripted_broker import WORDS, ScriptedBroker, Turn, serving
from tests.integration.test_client_resilience import TIMED_OUT, begins_anew

CLIENT = Path(__file__).resolve().parents[2] / "clients" / "python"
INTERRUPTIONS = CLIENT / "examples" / "interruptions.py"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with serving() as scripted:
        yield scripted


def blocks() -> list[str]:
    return BLOCK.findall((CLIENT / "README.md").read_text())


def test_the_readme_shows_every_example() -> None:
    for file in sorted((CLIENT / "examples").glob("*.py")):
        _, _, code = file.read_text().partition('"""\n\n')
        assert code in blocks(), file.name


@pytest.mark.parametrize(
    ("turn", "printed"),
    [
        (begins_anew, f"lost\n--- gpu0 died: it begins anew ---\n{''.join(WORDS)}\n"),
        (TIMED_OUT, "\nfirst_token took too long\n\n"),
    ],
    ids=["begins anew", "times out"],
)
async def test_interruptions(broker: ScriptedBroker, turn: Turn, printed: str) -> None:
    broker.script.append(turn)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(INTERRUPTIONS)),
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "BROKER_ADDRESS": broker.address},
    )
    told, _ = await process.communicate()
    assert (process.returncode, told.decode()) == (0, printed)
    assert broker.requests[0].timeouts.first_token_ms == 30_000


EXAMPLES = sorted((CLIENT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.stem)
async def test_without_a_model_an_example_says_so(broker: ScriptedBroker, example: Path) -> None:
    broker.models = []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(example)),
        stderr=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "BROKER_ADDRESS": broker.address},
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode() == "no model that generates text; `brokerctl doctor` says why\n"


async def test_short_blocks_run_as_they_are() -> None:
    short = [each for each in blocks() if "async def" not in each]
    assert len(short) == 2
    for block in short:
        names: dict[str, object] = {}
        exec(block, names)
        clients = [each for name, each in names.items() if name in ("broker", "careful", "unpaced")]
        assert clients
        for client in clients:
            await client.close()  # type: ignore[attr-defined]
