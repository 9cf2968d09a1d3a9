"""Silent streams: what is told of them, and when."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from broker.core.looks import LOOK_NS, QUIET_NS
from broker.core.requests import AttemptId
from broker.core.stimuli import Quiet, Stimulus
from broker.runtime.watch import Watch

LOOKS_UNTIL_QUIET = QUIET_NS // LOOK_NS
GAP_NS = LOOK_NS // 10


class _Clock:
    def __init__(self) -> None:
        self.now_ns = 1

    def monotonic_ns(self) -> int:
        return self.now_ns

    def unix_ns(self) -> int:
        raise AssertionError("silence is not measured by the clock on the wall")

    async def sleep(self, duration_ns: int) -> None:
        raise AssertionError("the watch sleeps by its timer")


@dataclass
class _Call:
    attempt: AttemptId
    first_ns: int = 0
    pieces_count: int = 0

    def say(self, now_ns: int, pieces: int = 1) -> None:
        self.first_ns = self.first_ns or now_ns
        self.pieces_count += pieces


class _Stage:
    """A watch, its calls, and what it told."""

    def __init__(self, count: int = 1) -> None:
        self.clock = _Clock()
        self.calls = [_Call(AttemptId(number)) for number in range(1, count + 1)]
        self.told: list[Stimulus] = []
        self.watch = Watch(lambda: self.calls, self.clock, self.told.append)

    def look(self, times: int = 1) -> list[Stimulus]:
        self.told.clear()
        for _ in range(times):
            self.clock.now_ns += LOOK_NS
            self.watch.look()
        return list(self.told)


def test_a_stream_is_told_of_once_it_was_silent_for_a_second_and_at_each_look_then() -> None:
    stage = _Stage()
    call = stage.calls[0]
    call.say(stage.clock.now_ns)
    call.say(stage.clock.now_ns, pieces=10)
    assert stage.look() == []
    since_ns = stage.clock.now_ns
    assert stage.look(LOOKS_UNTIL_QUIET - 1) == []
    told = Quiet(call.attempt, since_ns, 11, GAP_NS)
    assert stage.look() == [told]
    assert stage.look(3) == [told] * 3


def test_a_piece_begins_the_silence_anew() -> None:
    stage = _Stage()
    call = stage.calls[0]
    call.say(stage.clock.now_ns)
    assert stage.look(LOOKS_UNTIL_QUIET) == []
    call.say(stage.clock.now_ns)
    assert stage.look(LOOKS_UNTIL_QUIET) == []
    assert len(stage.look()) == 1
    call.say(stage.clock.now_ns)
    assert stage.look() == []


def test_a_call_without_a_first_piece_is_not_silent_but_waits() -> None:
    stage = _Stage()
    assert stage.look(100) == []


def test_one_piece_has_no_gap() -> None:
    stage = _Stage()
    stage.calls[0].say(stage.clock.now_ns)
    told = stage.look(LOOKS_UNTIL_QUIET + 1)
    assert [each.gap_ns for each in told if isinstance(each, Quiet)] == [0]


def test_who_fell_silent_last_is_told_of_first() -> None:
    stage = _Stage(3)
    for call in stage.calls:
        call.say(stage.clock.now_ns)
        stage.look()
    told = stage.look(LOOKS_UNTIL_QUIET)[-3:]
    assert [each.attempt for each in told if isinstance(each, Quiet)] == [3, 2, 1]


def test_what_is_over_is_forgotten_though_its_number_is_silent_again() -> None:
    stage = _Stage()
    call = stage.calls[0]
    call.say(stage.clock.now_ns)
    stage.look(LOOKS_UNTIL_QUIET)
    stage.calls = []
    assert stage.look() == []
    stage.calls = [call]
    assert stage.look(LOOKS_UNTIL_QUIET) == []


def test_after_a_time_in_which_nobody_looked_every_silence_begins_anew() -> None:
    """A broker that was stopped has not read yet what came meanwhile."""
    stage = _Stage()
    call = stage.calls[0]
    call.say(stage.clock.now_ns)
    stage.look(LOOKS_UNTIL_QUIET)
    stage.clock.now_ns += 60 * QUIET_NS
    assert stage.look(LOOKS_UNTIL_QUIET) == []
    assert len(stage.look()) == 1


async def test_its_timer_runs_only_while_a_call_is_under_way() -> None:
    stage = _Stage()
    watch = stage.watch
    assert watch._timer is None
    watch.start()
    first = watch._timer
    watch.start()
    assert watch._timer is first is not None
    watch._on_time()
    second = watch._timer
    assert second is not None
    second.cancel()
    first.cancel()
    stage.calls = []
    watch._on_time()
    assert watch._timer is None
    watch.start()
    watch.stop()
    assert watch._timer is None
    await asyncio.sleep(0)
