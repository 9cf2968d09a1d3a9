"""The picker of models on a screen of its own, before a broker that says what a test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from textual.pilot import Pilot

from broker_client.pb.broker.v1 import models_pb2 as pb
from brokerctl.models_pick_filter import PickFilter
from brokerctl.models_pick_list import PickList
from brokerctl.models_pick_screen import Picker
from tests.unit.cli.picked_models import FakeCatalogue, shelf

ALL = PickFilter(availability="all")
NAMES = [each.name for each in shelf()]


class Stage:
    """The picker on a screen, and the broker behind it."""

    def __init__(self, app: Picker, pilot: Pilot[Any], broker: FakeCatalogue) -> None:
        self.app = app
        self.pilot = pilot
        self.broker = broker

    def lines(self) -> list[str]:
        """What the screen says, line by line, as a terminal shows it."""
        strips = self.app.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip).rstrip() for strip in strips]

    def seen(self) -> str:
        return "\n".join([*self.lines(), *(each.message for each in self.app._notifications)])

    async def until(self, *texts: str) -> None:
        """Waits until all this is on the screen; the test's own time limit ends a vain wait."""
        while not all(text in self.seen() for text in texts):
            await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def until_asked(self, asked: PickFilter) -> None:
        """Until the broker was asked for this, and its answer is shown."""
        while self.broker.asked[-1:] != [asked] or not self.app.is_answered:
            await self.pilot.pause()
        await self.pilot.pause()

    async def change(self, messages: Sequence[pb.Model]) -> None:
        """Another shelf, once it is drawn."""
        told = self.broker.told
        await self.broker.change(messages)
        while self.broker.told == told:
            await self.pilot.pause()
        await self.pilot.pause()

    @property
    def table(self) -> PickList:
        return self.app.query_one(PickList)

    def names(self) -> list[str]:
        return [row.name for row in self.table.rows]

    @property
    def selected(self) -> str:
        row = self.table.selected
        return row.name if row is not None else ""


@asynccontextmanager
async def stage(
    size: tuple[int, int] = (120, 40),
    *,
    broker: FakeCatalogue | None = None,
    asked: PickFilter = ALL,
    **more: Any,
) -> AsyncIterator[Stage]:
    broker = broker or FakeCatalogue(shelf())
    app = Picker(lambda: broker, asked=asked, retry_s=0.001, debounce_s=0.001, **more)
    async with app.run_test(size=size) as pilot:
        built = Stage(app, pilot, broker)
        await built.until_asked(asked)
        yield built
    assert broker.is_closed
