"""Alarms: their order, their cancelling, and their limit."""

from __future__ import annotations

import pytest

from broker.core.errors import InvariantBroken
from broker.core.timers import Timers


class Bell:
    """Notes who rang, and when."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, int]] = []

    def ring(self, name: str, now_ns: int) -> None:
        self.rung.append((name, now_ns))


def test_alarms_go_off_by_time_and_those_of_one_moment_in_the_order_of_their_setting() -> None:
    timers, bell = Timers(8), Bell()
    for name, at_ns in [("late", 30), ("early", 10), ("also early", 10), ("middle", 20)]:
        timers.set(at_ns, bell.ring, name)
    assert timers.next_ns() == 10
    timers.fire(20)
    assert bell.rung == [("early", 20), ("also early", 20), ("middle", 20)]
    assert timers.next_ns() == 30
    timers.fire(30)
    assert (timers.next_ns(), len(timers)) == (None, 0)


def test_an_alarm_before_its_time_stays() -> None:
    timers, bell = Timers(8), Bell()
    timers.set(10, bell.ring, "x")
    timers.fire(9)
    assert (bell.rung, len(timers)) == ([], 1)


def test_a_cancelled_alarm_is_silent_and_a_second_cancel_is_no_error() -> None:
    timers, bell = Timers(8), Bell()
    handle = timers.set(10, bell.ring, "x")
    timers.cancel(handle)
    timers.cancel(handle)
    timers.fire(10)
    assert (bell.rung, len(timers), timers.next_ns()) == ([], 0, None)


def test_cancelling_what_has_gone_off_does_not_touch_what_took_its_room() -> None:
    timers, bell = Timers(1), Bell()
    gone = timers.set(10, bell.ring, "first")
    timers.fire(10)
    timers.set(20, bell.ring, "second")
    timers.cancel(gone)
    timers.fire(20)
    assert bell.rung == [("first", 10), ("second", 20)]


def test_zero_is_the_handle_of_no_alarm() -> None:
    timers, bell = Timers(1), Bell()
    assert timers.set(1, bell.ring, "x") != 0
    timers.cancel(0)
    assert len(timers) == 1


def test_an_alarm_may_set_and_cancel_others_while_it_goes_off() -> None:
    timers, bell = Timers(8), Bell()
    handles: list[int] = []

    def chain(_: None, now_ns: int) -> None:
        timers.cancel(handles[1])
        timers.set(now_ns, bell.ring, "now")
        timers.set(now_ns + 1, bell.ring, "later")

    handles.append(timers.set(10, chain))
    handles.append(timers.set(10, bell.ring, "cancelled"))
    timers.fire(10)
    assert bell.rung == [("now", 10)]
    assert timers.next_ns() == 11


def test_more_alarms_than_the_limits_allow_are_a_bug() -> None:
    timers, bell = Timers(1), Bell()
    timers.set(1, bell.ring, "x")
    with pytest.raises(InvariantBroken, match="more than 1 timers"):
        timers.set(2, bell.ring, "y")
    timers.fire(1)
    assert bell.rung == [("x", 1)]
