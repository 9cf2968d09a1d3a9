"""How many of a client's requests may be under way: the window, the line, and waiting in it."""

from __future__ import annotations

import asyncio
import threading

import grpc
import pytest

from broker_client.errors import (
    BrokerError,
    CallsFull,
    ConnectionLost,
    DeadlineExpired,
    Degraded,
    ErrorDetails,
    QueueFull,
    RequestUnknown,
)
from broker_client.pacers import AsyncPacer, SyncPacer, policy_of
from broker_client.pacing import LEFT_MAX, STALL_NS, PacePolicy, Turn, Window
from broker_client.retry import NS_PER_S

PATIENCE_S = 30


def full(kind: type[BrokerError] = QueueFull, retry_after_s: float | None = 2.0) -> BrokerError:
    exhausted = kind is CallsFull
    code = grpc.StatusCode.RESOURCE_EXHAUSTED if exhausted else grpc.StatusCode.UNAVAILABLE
    return kind(ErrorDetails(code=code, retry_after_s=retry_after_s, outcome="refused"))


def filled(window: Window, count: int) -> list[Turn]:
    """So many under way."""
    turns = [window.enter(0, 0) for _ in range(count)]
    assert window.admit(0) == turns
    return turns


def size(window: Window) -> int:
    return window.pacing(0).window


def test_no_more_are_under_way_than_the_window_holds() -> None:
    window = Window(PacePolicy(window=2))
    first, second, third = (window.enter(0, 0) for _ in range(3))
    assert window.admit(0) == [first, second]
    told = window.pacing(0)
    assert (told.under_way, told.waiting) == (2, 1)
    window.leave(first)
    assert window.admit(0) == [third]


def test_who_waits_goes_by_priority_and_then_by_arrival() -> None:
    window = Window(PacePolicy(window=1))
    (busy,) = filled(window, 1)
    late, usual, urgent, later = (window.enter(each, 0) for each in (9, 0, 1, 9))
    order = []
    turn = busy
    for _ in range(4):
        window.leave(turn)
        (turn,) = window.admit(0)
        order.append(turn)
    assert order == [urgent, usual, late, later]


def test_a_window_of_completed_requests_adds_one() -> None:
    window = Window(PacePolicy(window=4, window_max=6))
    turns = filled(window, 4)
    for _ in range(4):
        window.complete(turns.pop(0))
        turns += filled(window, size(window) - len(turns))
    assert size(window) == 4  # each step is a little smaller than the one before
    window.complete(turns.pop(0))
    assert size(window) == 5


def test_it_is_not_widened_beyond_its_bound() -> None:
    window = Window(PacePolicy(window=1, window_max=3))
    for _ in range(20):
        for turn in filled(window, size(window)):
            window.complete(turn)
    assert size(window) == 3


def test_room_that_nobody_uses_does_not_grow() -> None:
    window = Window(PacePolicy(window=4))
    for _ in range(100):
        (turn,) = filled(window, 1)
        window.complete(turn)
    assert size(window) == 4


def test_slow_down_halves_what_is_under_way_and_holds_the_rest() -> None:
    window = Window(PacePolicy(window=64))
    turns = filled(window, 10)
    window.slow_down(1_000, 0)
    assert size(window) == 5
    for turn in turns[:6]:
        window.leave(turn)
    waits = window.enter(1, 0)
    assert window.admit(0) == []
    assert window.held_ns(0) == NS_PER_S
    assert window.pacing(NS_PER_S // 2).held_s == 0.5
    assert window.admit(NS_PER_S) == [waits]


def test_it_is_halved_once_in_the_time_that_was_asked_for() -> None:
    window = Window(PacePolicy(window=64))
    filled(window, 64)
    window.slow_down(1_000, 0)
    window.slow_down(1_000, NS_PER_S - 1)  # the hold is longer now, the window is as it was
    window.refused(full(), NS_PER_S - 1)
    assert size(window) == 32
    assert window.held_ns(NS_PER_S) == NS_PER_S - 1
    window.slow_down(1_000, NS_PER_S)
    assert size(window) == 16


def test_it_never_falls_below_one() -> None:
    window = Window(PacePolicy(window=2))
    for second in range(9):
        window.slow_down(1_000, second * NS_PER_S)
    assert size(window) == 1
    assert window.enter(0, 9 * NS_PER_S) in window.admit(9 * NS_PER_S)


@pytest.mark.parametrize("error", [full(), full(CallsFull)], ids=["queue", "calls"])
def test_a_refusal_for_too_much_halves_and_does_not_hold(error: BrokerError) -> None:
    window = Window(PacePolicy(window=8))
    filled(window, 8)
    window.refused(error, 0)
    assert size(window) == 4
    assert window.held_ns(0) == 0


@pytest.mark.parametrize(
    "error", [full(Degraded), full(retry_after_s=None)], ids=["level", "no time"]
)
def test_other_refusals_are_no_matter_of_pace(error: BrokerError) -> None:
    window = Window(PacePolicy(window=8))
    filled(window, 8)
    window.refused(error, 0)
    assert size(window) == 8


def test_what_is_given_up_does_not_pile_up() -> None:
    window = Window(PacePolicy(window=1))
    filled(window, 1)
    first = window.enter(1, 0)
    for _ in range(10 * LEFT_MAX):
        window.leave(window.enter(5, 0))
    assert window.pacing(0).waiting == 1
    assert len(window._line) <= 2 + LEFT_MAX + 1
    window.leave(first)
    window.leave(first)  # once more does no harm
    assert window.pacing(0).waiting == 0


def test_one_goes_where_the_line_stands_still_for_it_may_wait_for_itself() -> None:
    window = Window(PacePolicy(window=1))
    filled(window, 1)
    first, second = window.enter(0, NS_PER_S), window.enter(0, 2 * NS_PER_S)
    assert window.changes_in_ns(3 * NS_PER_S) == STALL_NS - 2 * NS_PER_S
    assert window.admit(NS_PER_S + STALL_NS - 1) == []
    assert window.admit(NS_PER_S + STALL_NS) == [first]
    assert window.admit(2 * STALL_NS) == []
    assert window.admit(NS_PER_S + 2 * STALL_NS) == [second]


def test_what_is_held_stays_so_however_long_the_line_stands() -> None:
    window = Window(PacePolicy(window=1))
    filled(window, 1)
    window.slow_down(2 * STALL_NS // 1_000_000, 0)
    waits = window.enter(0, 0)
    assert window.admit(2 * STALL_NS - 1) == []
    assert window.changes_in_ns(0) == 2 * STALL_NS
    assert window.admit(0) == []
    assert window.admit(2 * STALL_NS) == [waits]


def test_a_window_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="window"):
        PacePolicy(window=0)
    with pytest.raises(ValueError, match="window"):
        PacePolicy(window=9, window_max=8)


def test_what_pace_means() -> None:
    own = PacePolicy(window=3)
    assert policy_of(own) is own
    assert policy_of(True) == PacePolicy()
    assert policy_of(False) is policy_of(None) is None


async def until_waiting(pacer: AsyncPacer | SyncPacer, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (told := pacer.pacing) and told.waiting != count:  # noqa: ASYNC110 - also threads
            await asyncio.sleep(0)


async def test_a_place_is_waited_for_and_handed_on() -> None:
    pacer = AsyncPacer(PacePolicy(window=1))
    with pacer.place(5) as first:
        await first.take(None)
        await first.take(None)  # one that is held is not taken twice
        second = pacer.place(5)
        waits = asyncio.create_task(second.take(None))
        await until_waiting(pacer, 1)
        assert not waits.done()
        first.heed(ConnectionLost(ErrorDetails(code=grpc.StatusCode.UNAVAILABLE)))
        first.heed(RequestUnknown(ErrorDetails(code=grpc.StatusCode.NOT_FOUND)))
        assert pacer.pacing is not None
        assert pacer.pacing.waiting == 1  # the broker may still be at work on the first
    await waits
    second.leave()
    assert (pacer.pacing.under_way, pacer.pacing.waiting) == (0, 0)


async def test_a_refused_request_lets_others_go_while_it_waits() -> None:
    pacer = AsyncPacer(PacePolicy(window=1))
    first, second = pacer.place(5), pacer.place(5)
    await first.take(None)
    waits = asyncio.create_task(second.take(None))
    await until_waiting(pacer, 1)
    first.heed(full())
    await waits
    again = asyncio.create_task(first.take(None))
    await until_waiting(pacer, 1)
    second.complete()
    await again


async def test_a_cancelled_wait_gives_its_place_back() -> None:
    pacer = AsyncPacer(PacePolicy(window=1))
    first = pacer.place(5)
    await first.take(None)
    cancelled = asyncio.create_task(pacer.place(5).take(None))
    third = pacer.place(5)
    last = asyncio.create_task(third.take(None))
    await until_waiting(pacer, 2)
    first.leave()  # gives the place to the second, which is cancelled before it runs again
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await last
    third.leave()
    assert pacer.pacing is not None
    assert (pacer.pacing.under_way, pacer.pacing.waiting) == (0, 0)


async def test_a_deadline_that_passes_while_waiting() -> None:
    now_ns = 0
    pacer = AsyncPacer(PacePolicy(window=1), clock=lambda: now_ns)
    first = pacer.place(5)
    await first.take(None)
    late = asyncio.create_task(pacer.place(5).take(1_000_000))
    await until_waiting(pacer, 1)
    now_ns = 1_000_000
    with pytest.raises(DeadlineExpired, match="own pacing"):
        await late
    assert pacer.pacing is not None
    assert (pacer.pacing.under_way, pacer.pacing.waiting) == (1, 0)


async def test_what_is_held_goes_when_the_hold_ends() -> None:
    pacer = AsyncPacer(PacePolicy())
    first = pacer.place(5)
    await first.take(None)
    first.slow_down(20)
    assert pacer.pacing is not None
    assert pacer.pacing.held_s > 0
    first.complete()
    async with asyncio.timeout(PATIENCE_S):
        await pacer.place(5).take(None)
    assert pacer.pacing.held_s == 0


async def test_who_asks_from_within_an_answer_does_not_wait_for_itself() -> None:
    now_ns = 0
    pacer = AsyncPacer(PacePolicy(window=1), clock=lambda: now_ns)
    outer, inner = pacer.place(5), pacer.place(5)
    await outer.take(None)
    waits = asyncio.create_task(inner.take(None))
    await until_waiting(pacer, 1)
    now_ns = STALL_NS
    pacer.wake()
    await waits
    assert pacer.pacing is not None
    assert pacer.pacing.under_way == 2


async def test_switched_off_there_is_always_room() -> None:
    pacer = AsyncPacer(None)
    assert pacer.pacing is None
    for _ in range(100):
        place = pacer.place(5)
        await place.take(0)
        place.slow_down(1_000)
        place.heed(full())


async def test_threads_wait_alike() -> None:
    pacer = SyncPacer(PacePolicy(window=1))
    first, second = pacer.place(5), pacer.place(5)
    first.take(None)
    waits = threading.Thread(target=second.take, args=(None,))
    waits.start()
    await until_waiting(pacer, 1)
    with pytest.raises(DeadlineExpired):
        pacer.place(1).take(0)
    first.slow_down(1)
    first.heed(ConnectionLost(ErrorDetails(code=grpc.StatusCode.UNAVAILABLE)))
    first.complete()
    await asyncio.to_thread(waits.join, PATIENCE_S)
    assert not waits.is_alive()
    with second:
        second.heed(full())
    assert pacer.pacing is not None
    assert (pacer.pacing.under_way, pacer.pacing.waiting) == (0, 0)


def test_threads_without_pacing() -> None:
    pacer = SyncPacer(None)
    place = pacer.place(5)
    place.take(0)
    place.slow_down(1_000)
    place.heed(full())
    place.complete()
    assert pacer.pacing is None
