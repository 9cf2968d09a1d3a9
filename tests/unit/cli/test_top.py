"""The live view, led by its keys, before a broker that says what the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from textual.pilot import Pilot
from textual.widgets import Static

from broker_client import BrokerError, CancelledRequest, Explanation, Status
from broker_client.errors import AgentNotFound, ErrorDetails, Unreachable
from broker_client.operations import explanation_of
from broker_client.pb.broker.v1 import admin_pb2
from brokerctl.main import main
from brokerctl.top_screen import Top
from brokerctl.top_table import TopTable
from tests.unit.cli.states import busy

SIZES = ((80, 24), (160, 50))
GONE = Unreachable(ErrorDetails(code=grpc.StatusCode.UNAVAILABLE, message="refused"))


class FakeBroker:
    """A client whose watch tells what is put into `news`; remembers what it was asked."""

    address = "here:1"

    def __init__(self) -> None:
        self.news: asyncio.Queue[Status | BrokerError] = asyncio.Queue()
        self.asked: list[tuple[Any, ...]] = []
        self.is_closed = False

    async def watch_status(
        self, *, requests_max: int = 0, interval_s: float = 1.0
    ) -> AsyncGenerator[Status, None]:
        while True:
            told = await self.news.get()
            if isinstance(told, BrokerError):
                raise told
            yield told

    async def explain(self, request_id: str, *, agent_id: str = "") -> Explanation:
        self.asked.append(("explain", request_id, agent_id))
        message = admin_pb2.ExplainResponse(request_id=request_id, agent_id=agent_id, model="tiny")
        return explanation_of(message)

    async def cancel_request(self, request_id: str, *, agent_id: str = "") -> CancelledRequest:
        self.asked.append(("cancel", request_id, agent_id))
        return CancelledRequest(agent_id=agent_id, state="queued")

    async def boost(
        self, *, agent_id: str = "", weight_factor: float | None = None, for_s: float | None = None
    ) -> int:
        self.asked.append(("boost", agent_id, weight_factor, for_s))
        return 1

    async def block(self, *, agent_id: str = "") -> int:
        self.asked.append(("block", agent_id))
        raise AgentNotFound(ErrorDetails(code=grpc.StatusCode.NOT_FOUND, message="who?"))

    async def close(self) -> None:
        self.is_closed = True


class Stage:
    """The view on a screen, and the broker behind it."""

    def __init__(self, app: Top, pilot: Pilot[None], broker: FakeBroker) -> None:
        self.app = app
        self.pilot = pilot
        self.broker = broker

    async def until(self, text: str) -> None:
        """Waits until this is on the screen; the test's own time limit ends a vain wait."""
        while text not in self.seen():
            await self.pilot.pause()

    async def until_asked(self, count: int) -> None:
        while len(self.broker.asked) < count:
            await self.pilot.pause()

    async def tell(self, status: Status) -> None:
        """A new state, once it is drawn."""
        await self.broker.news.put(status)
        while not self.broker.news.empty():
            await self.pilot.pause()
        await self.pilot.pause()

    def seen(self) -> str:
        """What the screen says, notes and dialogs included."""
        parts = [str(each.render()) for each in self.app.screen.query(Static) if each.display]
        return "\n".join([*parts, *(each.message for each in self.app._notifications)])

    def table(self, name: str = "requests") -> TopTable:
        return self.app.query_one(f"#{name}", TopTable)

    def rows(self, name: str = "requests") -> list[str]:
        """The first words of the rows."""
        table = self.table(name)
        return [str(table.get_row_at(i)[0]) for i in range(table.row_count)]

    def columns(self, name: str = "requests") -> list[str]:
        return [str(each.label) for each in self.table(name).ordered_columns]


@asynccontextmanager
async def stage(size: tuple[int, int] = (160, 50)) -> AsyncIterator[Stage]:
    broker = FakeBroker()
    app = Top(lambda: broker, retry_s=0.001)
    async with app.run_test(size=size) as pilot:
        built = Stage(app, pilot, broker)
        await built.tell(busy())
        await built.until("level 2")
        yield built
    assert broker.is_closed


@pytest.mark.parametrize("size", SIZES)
async def test_everything_is_shown_and_columns_fit(size: tuple[int, int]) -> None:
    async with stage(size) as top:
        await top.until("gpu memory 83 %")
        assert "QueueSaturation" in top.seen()
        assert top.rows() == ["r1", "r2", "r3", "r4", "r5"]
        assert top.rows("agents") == ["opus-1", "batch-1"]
        assert top.rows("models") == ["tiny:latest"]
        assert {"request", "agent", "age ▼", "state"} <= set(top.columns())
        assert top.table().virtual_size.width <= size[0]


async def test_rows_are_sorted_and_turned_round() -> None:
    async with stage() as top:
        await top.pilot.press("r")
        assert top.rows() == ["r5", "r4", "r3", "r2", "r1"]
        await top.pilot.press("s", "s", "s", "s")  # tokens, per s, state, request
        assert "request ▲" in top.columns()
        assert top.rows()[0] == "r1"
        await top.pilot.press("2", "s")
        assert "running ▼" in top.columns("agents")


async def test_a_filter_narrows_while_it_is_typed_and_ends_with_escape() -> None:
    async with stage() as top:
        await top.pilot.press("slash", *"batch", "enter")
        assert top.rows() == ["r2", "r4"]
        await top.until("only rows with 'batch'")
        await top.tell(busy())
        assert top.rows() == ["r2", "r4"]
        await top.pilot.press("escape")
        assert len(top.rows()) == 5


async def test_the_selection_stays_with_its_row() -> None:
    async with stage() as top:
        await top.pilot.press("down", "down")
        assert top.table().selected is not None
        await top.tell(replace(busy(), requests=busy().requests[1:]))
        selected = top.table().selected
        assert selected is not None
        assert selected.request_id == "r3"
        await top.tell(replace(busy(), requests=()))
        assert top.table().selected is None
        await top.pilot.press("e")
        await top.until("select a request first")


async def test_a_held_view_does_not_move_until_it_goes_on() -> None:
    async with stage() as top:
        await top.pilot.press("p")
        await top.until("held as it was")
        await top.tell(replace(busy(), requests=()))
        assert len(top.rows()) == 5
        await top.pilot.press("p")
        assert top.rows() == []


async def test_the_selected_request_is_explained() -> None:
    async with stage() as top:
        await top.pilot.press("down", "e")
        await top.until("request r2 of agent batch-1")
        assert top.broker.asked == [("explain", "r2", "batch-1")]
        await top.pilot.press("escape")
        assert len(top.app.screen_stack) == 1


async def test_a_cancel_is_asked_about_first() -> None:
    async with stage() as top:
        await top.pilot.press("c")
        await top.until("cancel request r1 of agent opus-1?")
        await top.pilot.press("n")
        await top.pilot.press("c", "y")
        await top.until_asked(1)
        assert top.broker.asked == [("cancel", "r1", "opus-1")]
        await top.until("request r1 was queued; it is cancelled")


async def test_an_agent_is_boosted_at_once_and_blocked_after_a_question() -> None:
    async with stage() as top:
        await top.pilot.press("2", "b")
        await top.until_asked(1)
        assert top.broker.asked == [("boost", "opus-1", 2.0, 600.0)]
        await top.pilot.press("x")
        await top.until("refuse new requests of agent opus-1")
        await top.pilot.press("y")
        # What the broker says to it is told, and the view goes on.
        await top.until("who?; `brokerctl agents` lists those that are known")
        await top.pilot.press("3", "x")
        await top.until("select a request or an agent first")


async def test_a_broker_that_goes_away_is_waited_for() -> None:
    async with stage() as top:
        await top.broker.news.put(GONE)
        await top.until("no broker answers at here:1; start one with `brokerd`; what is shown is")
        assert len(top.rows()) == 5
        await top.tell(replace(busy(), requests=()))
        assert top.rows() == []
        assert "no broker answers" not in top.seen()


@pytest.mark.parametrize(("key", "status"), [("q", 0), ("ctrl+c", 130)])
async def test_it_is_left_with_q_and_interrupted_with_ctrl_c(key: str, status: int) -> None:
    async with stage() as top:
        await top.pilot.press(key)
        assert top.app.return_code == status


def test_without_a_terminal_it_says_what_does_without() -> None:
    result = CliRunner().invoke(main, ["top", "--address", "127.0.0.1:1"])
    assert result.exit_code == 2
    assert result.stderr == (
        "brokerctl: top needs a terminal; `brokerctl status --watch` does without\n"
    )
