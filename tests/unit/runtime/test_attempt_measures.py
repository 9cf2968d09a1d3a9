"""What an attempt tells of its pace, and what its client is told of several attempts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import pytest

from broker.core.content import (
    Completion,
    FinishReason,
    GenerateContent,
    Message,
    Piece,
    Prompt,
    ToolCall,
)
from broker.core.effects import StartAttempt, TellRequeued
from broker.core.errors import BackendFailed, BrokerError, ClientTooSlow
from broker.core.ports import Backend
from broker.core.requests import AttemptId
from broker.core.stimuli import AttemptEnded
from broker.runtime.attempts import Call, Errand
from broker.runtime.clock import Clock
from broker.runtime.streams import ResponseStream

START = StartAttempt(
    attempt=AttemptId(1),
    key=("a", "r"),
    backend="b",
    model="m:latest",
    num_ctx=None,
    substituted_for="",
    changes=(),
    queue_wait_ns=0,
    load_wait_ns=0,
)
AGAIN = replace(START, attempt=AttemptId(2), number=2)
COMPLETION = Completion(
    finish_reason=FinishReason.STOP,
    prompt_tokens=7,
    output_tokens=9,
    prompt_duration_ns=300,
    output_duration_ns=400,
    load_duration_ns=100,
    total_duration_ns=1_000,
)
LOST = BackendFailed("it broke")
CALL = Piece("", "", (ToolCall("1", "f", "{}"),))


class Hand:
    """A clock that stands still unless it is moved."""

    now_ns = 100

    def monotonic_ns(self) -> int:
        return self.now_ns


class Talker:
    """A backend that says each piece so many nanoseconds after the one before it, and ends."""

    def __init__(
        self, hand: Hand, *pieces: Piece, each_ns: int = 10, result: BrokerError | Completion
    ) -> None:
        self._hand, self._pieces, self._each_ns, self._result = hand, pieces, each_ns, result
        self.asked: GenerateContent | None = None

    async def generate(
        self,
        model: str,
        content: GenerateContent,
        *,
        num_ctx: int | None,
        on_pieces: Callable[[Sequence[Piece]], None],
    ) -> Completion:
        self.asked = content
        for each in self._pieces:
            self._hand.now_ns += self._each_ns
            on_pieces([each])
        if isinstance(self._result, BrokerError):
            raise self._result
        return self._result


class Stage:
    """One request, and the attempts that are made of it."""

    def __init__(self, bytes_max: int = 1000) -> None:
        self.hand = Hand()
        self.errand = Errand(
            ResponseStream(("a", "r"), bytes_max), GenerateContent(input=Prompt(text="hi")), 0
        )
        self.calls: list[Call] = []

    async def attempt(
        self, *pieces: Piece, start: StartAttempt = START, result: BrokerError | Completion
    ) -> tuple[AttemptEnded, Talker]:
        ended: list[AttemptEnded] = []
        talker = Talker(self.hand, *pieces, result=result)
        clock = cast("Clock", self.hand)
        call = Call(start, self.errand, clock, lambda stimulus: None, ended.append)
        self.calls.append(call)
        await call.run(cast("Backend", talker))
        return ended[0], talker


async def test_the_gap_is_the_mean_between_the_first_piece_and_the_last() -> None:
    ended, _ = await Stage().attempt(Piece("a"), Piece("b"), Piece("c"), result=COMPLETION)
    assert (ended.pieces, ended.gap_ns) == (3, 10)


@pytest.mark.parametrize("count", [0, 1])
async def test_fewer_than_two_pieces_have_no_gap(count: int) -> None:
    ended, _ = await Stage().attempt(*[Piece("a")] * count, result=COMPLETION)
    assert (ended.pieces, ended.gap_ns) == (count, 0)


@pytest.mark.parametrize(("total_ns", "slot_wait_ns"), [(1_000, 200), (700, 0), (0, 0)])
async def test_a_wait_for_the_backends_slot_is_what_it_does_not_name(
    total_ns: int, slot_wait_ns: int
) -> None:
    result = replace(COMPLETION, total_duration_ns=total_ns)
    ended, _ = await Stage().attempt(Piece("a"), result=result)
    assert ended.slot_wait_ns == slot_wait_ns


async def test_who_watches_sees_how_far_a_call_is() -> None:
    stage = Stage()
    await stage.attempt(Piece("x"), result=LOST)
    await stage.attempt(Piece("a"), Piece("b"), start=AGAIN, result=LOST)
    call = stage.calls[-1]
    assert (call.attempt, call.pieces_count, call.first_ns) == (2, 2, 120)


@pytest.mark.parametrize(
    ("pieces", "can"),
    [
        ((), True),
        ((Piece("a", "hm"),), True),
        ((Piece("", "hm"),), False),
        ((Piece("a"), CALL), False),
    ],
)
async def test_what_was_cut_off_says_if_it_can_be_gone_on_from(
    pieces: tuple[Piece, ...], can: bool
) -> None:
    stage = Stage()
    ended, _ = await stage.attempt(*pieces, result=LOST)
    assert ended.is_continuable is can


async def test_text_of_which_a_part_was_dropped_cannot_be_gone_on_from() -> None:
    stage = Stage(bytes_max=4)
    reader = stage.errand.stream.attach()
    stage.errand.stream.feed([Piece("1234")])
    while reader.poll() is not None:
        pass
    ended, _ = await stage.attempt(Piece("5"), result=LOST)
    assert not ended.is_continuable


async def test_a_further_attempt_goes_on_and_the_client_is_told_of_all_of_it() -> None:
    stage = Stage()
    await stage.attempt(Piece("a", "hm"), Piece("b"), result=LOST)
    stage.hand.now_ns += 1_000
    start = replace(AGAIN, continues=True, output_tokens_max=5)
    ended, talker = await stage.attempt(Piece("c"), Piece("d"), start=start, result=COMPLETION)
    assert talker.asked is not None
    assert talker.asked.input == (
        Message(role="user", content="hi"),
        Message(role="assistant", content="ab", thinking="hm"),
    )
    assert talker.asked.options == {"num_predict": 5}
    assert (ended.pieces, ended.output_tokens) == (2, 9)
    done = stage.errand.done
    assert done is not None
    assert isinstance(done.result, Completion)
    assert done.result.output_tokens == 11
    assert done.timings.first_token_ns == 110
    assert done.timings.per_token_ns == 10


async def test_of_an_answer_that_began_anew_the_times_are_its_own() -> None:
    stage = Stage()
    await stage.attempt(Piece("a"), Piece("b"), result=LOST)
    stage.errand.stream.tell(TellRequeued(("a", "r"), "lost", voids_pieces=True))
    ended, _ = await stage.attempt(Piece("c"), Piece("d"), start=AGAIN, result=COMPLETION)
    assert ended.pieces == 2
    done = stage.errand.done
    assert done is not None
    assert isinstance(done.result, Completion)
    assert (done.result.output_tokens, done.timings.first_token_ns) == (9, 130)


async def test_a_call_that_is_condemned_ends_with_that() -> None:
    stage = Stage()
    ended: list[AttemptEnded] = []
    call = Call(START, stage.errand, cast("Clock", stage.hand), lambda _: None, ended.append)
    call.condemn(ClientTooSlow("stalls"))
    call.abandon()
    assert isinstance(ended[0].error, ClientTooSlow)
