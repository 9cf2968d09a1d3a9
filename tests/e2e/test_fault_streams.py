"""Faults of one answer: it breaks in the middle, or what comes cannot be read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from broker_client import BackendFailed, Requeued
from tests.e2e.fault_scene import SHORT, Heard, Scene, scene

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The kind and what the agent and the operator are told.
BROKEN = [
    ({"kind": "die_mid_stream"}, "unexpected EOF"),
    ({"kind": "cut"}, "broke off in the middle of an answer"),
    ({"kind": "reset"}, "broke off in the middle of an answer"),
    ({"kind": "garbage"}, "a line of the answer cannot be read"),
    ({"kind": "oversize"}, "a line of the answer is over"),
    ({"kind": "bad_utf8"}, "a line of the answer cannot be read"),
    ({"kind": "bad_chunk"}, "not framed as HTTP"),
    ({"kind": "error_line", "text": "it broke"}, "it broke"),
    ({"kind": "end_without_done"}, "ended without its terminator"),
]
AFTER = 100  # tokens: an answer that is well under way


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One broker for all of them: what one fault left would be seen after the next."""
    async with scene(tmp_path_factory.mktemp("broker")) as at:
        yield at


@pytest_asyncio.fixture(loop_scope="module")
async def at(shared: Scene) -> AsyncIterator[Scene]:
    yield shared
    await shared.leaves_nothing()


def name_of(value: object) -> str:
    return str(value["kind"]) if isinstance(value, dict) else ""


@pytest.mark.parametrize(("fault", "words"), BROKEN, ids=name_of)
async def test_an_answer_that_breaks_is_one_failure_and_all_others_are_served(
    at: Scene, fault: dict[str, Any], words: str
) -> None:
    failed = (await at.broker.outcomes()).get("failed", 0)
    await at.simulator.set_fault(**fault, after=AFTER)
    broken, waiting = await at.in_flight_and_waiting()
    assert isinstance(broken.error, BackendFailed), broken.error
    assert words in broken.error.message
    assert broken.error.outcome == "failed"
    assert broken.error.sent_pieces >= broken.pieces > 0  # a message may hold several pieces
    assert waiting.is_done
    await at.serves()
    assert words in await at.explained(broken)
    assert (await at.broker.outcomes()).get("failed", 0) == failed + 1


@pytest.mark.parametrize(("fault", "words"), BROKEN, ids=name_of)
async def test_an_answer_that_may_begin_anew_does(
    at: Scene, fault: dict[str, Any], words: str
) -> None:
    failed = (await at.broker.outcomes()).get("failed", 0)
    whole = await at.ask(SHORT)
    await at.simulator.set_fault(**fault, after=3)
    heard: Heard = await at.ask(SHORT, on_interruption="restart")
    assert heard.is_done, heard.error
    assert heard.one_of(Requeued)
    assert heard.text == whole.text
    assert words in await at.explained(heard)
    assert (await at.broker.outcomes()).get("failed", 0) == failed
