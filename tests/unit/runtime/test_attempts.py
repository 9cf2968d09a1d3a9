"""An attempt ends once, and says what came of its answer however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

import pytest

from broker.core.content import Completion, FinishReason, GenerateContent, Piece, Prompt
from broker.core.effects import StartAttempt
from broker.core.errors import BackendFailed, Cancelled, Internal
from broker.core.ports import Backend
from broker.core.requests import AttemptId
from broker.core.stimuli import AttemptEnded
from broker.runtime.attempts import Call, Errand
from broker.runtime.clock import LoopClock
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
COMPLETION = Completion(finish_reason=FinishReason.STOP, prompt_tokens=7, output_tokens=9)


class Talker:
    """A backend that says two pieces and then ends as it was told."""

    def __init__(self, problem: BaseException | None) -> None:
        self._problem = problem

    async def generate(
        self,
        model: str,
        content: GenerateContent,
        *,
        num_ctx: int | None,
        on_pieces: Callable[[Sequence[Piece]], None],
    ) -> Completion:
        on_pieces([Piece("a"), Piece("b")])
        if self._problem is not None:
            raise self._problem
        return COMPLETION


def attempt() -> tuple[Call, list[AttemptEnded]]:
    """A second attempt: three pieces of an earlier one came before."""
    stream = ResponseStream(("a", "r"), 1000)
    stream.feed([Piece("x"), Piece("y"), Piece("z")])
    errand = Errand(stream, GenerateContent(input=Prompt(text="hi")), 0)
    ended: list[AttemptEnded] = []
    return Call(START, errand, LoopClock(), lambda stimulus: None, ended.append), ended


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (BackendFailed("it broke"), BackendFailed),
        (RuntimeError("a bug"), Internal),
        (asyncio.CancelledError(), Cancelled),
    ],
)
async def test_what_has_no_terminator_counts_the_pieces_of_this_attempt(
    problem: BaseException, kind: type[Exception]
) -> None:
    call, ended = attempt()
    work = call.run(cast("Backend", Talker(problem)))
    if isinstance(problem, BackendFailed):
        await work
    else:
        with pytest.raises(type(problem)):
            await work
    call.abandon()  # it is over already
    (end,) = ended
    assert isinstance(end.error, kind)
    assert (end.prompt_tokens, end.output_tokens, end.pieces) == (0, 2, 2)


async def test_a_terminator_says_what_was_used() -> None:
    call, ended = attempt()
    await call.run(cast("Backend", Talker(None)))
    (end,) = ended
    assert (end.attempt, end.error) == (START.attempt, None)
    assert (end.prompt_tokens, end.output_tokens, end.pieces) == (7, 9, 2)


async def test_one_that_never_began_has_used_nothing() -> None:
    call, ended = attempt()
    call.abandon()
    (end,) = ended
    assert isinstance(end.error, Cancelled)
    assert end.output_tokens == 0
