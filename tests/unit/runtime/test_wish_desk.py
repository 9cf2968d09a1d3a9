"""Who waits for a model to be loaded or to leave, and wishes that nobody waits for any more."""

from __future__ import annotations

import asyncio

import pytest

from broker.core.effects import WishEnded
from broker.core.errors import NoRoom
from broker.core.stimuli import LoadAsked, Stimulus, UnloadAsked, WishWithdrawn
from broker.runtime.clock import LoopClock
from broker.runtime.wish_desk import WishDesk, Wished


@pytest.fixture
def fed() -> list[Stimulus]:
    return []


@pytest.fixture
def desk(fed: list[Stimulus]) -> WishDesk:
    return WishDesk(fed.append, LoopClock())


async def begun(work: asyncio.Task[Wished]) -> None:
    """It waits now."""
    await asyncio.sleep(0)
    assert not work.done()


async def test_each_gets_its_own_answer(desk: WishDesk, fed: list[Stimulus]) -> None:
    one = asyncio.ensure_future(desk.load("m", "", 1_000))
    other = asyncio.ensure_future(desk.unload("n", "b1", 1_000))
    await begun(one)
    load, unload = fed
    assert isinstance(load, LoadAsked)
    assert isinstance(unload, UnloadAsked)
    desk.ended(WishEnded(unload.wish, None, ("b1",)))
    desk.ended(WishEnded(load.wish, NoRoom("no")))
    assert (await other).backends == ("b1",)
    with pytest.raises(NoRoom):
        await one
    desk.ended(WishEnded(load.wish))  # nobody hears that
    assert fed == [load, unload]


async def test_who_goes_away_takes_it_back(desk: WishDesk, fed: list[Stimulus]) -> None:
    work = asyncio.ensure_future(desk.load("m", "", 1_000))
    await begun(work)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert fed[1:] == [WishWithdrawn(1)]


async def test_what_is_held_away_for_one_who_has_just_gone_may_come_again(
    desk: WishDesk, fed: list[Stimulus]
) -> None:
    """The answer is there, and who asked goes before hearing of it."""
    work = asyncio.ensure_future(desk.unload("m", "b1", 1_000, hold_ns=1_000))
    await begun(work)
    desk.ended(WishEnded(1, None, ("b1",)))
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert fed[1:] == [WishWithdrawn(1)]
