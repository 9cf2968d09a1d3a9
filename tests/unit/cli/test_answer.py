"""The answer as `brokerctl generate` prints it, where a part of it turns void; its limits."""

from __future__ import annotations

import click
import pytest

from broker_client import Chunk, Done, Requeued, Timeouts, Timings, ToolCall, Usage
from brokerctl.generate import BEGINS_ANEW, Answer
from brokerctl.phase_limits import PhaseLimit, timeouts_of

VOID = Requeued(reason="gpu0 died", discard_before_seq=2)
DONE = Done(
    model="m",
    usage=Usage(prompt_tokens=1, output_tokens=2),
    timings=Timings(
        queue_wait_ms=0,
        load_ms=0,
        first_token_ms=0,
        per_token_ms=0,
        total_ms=0,
        backend_prompt_ms=0,
        backend_output_ms=0,
    ),
    cached=False,
    finish_reason="stop",
)


def chunk(seq: int, text: str, *calls: ToolCall) -> Chunk:
    return Chunk(seq=seq, text=text, thinking="", tool_calls=calls, tokens=1)


def test_on_a_terminal_it_is_said_where_the_answer_begins_anew(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = Answer(may_turn_void=True, is_terminal=True)
    for event in (chunk(0, "no"), chunk(1, "pe"), VOID, chunk(2, "yes"), DONE):
        answer.show(event)
    told = capsys.readouterr()
    assert told.out == f"nope\n{BEGINS_ANEW}\nyes\n"
    assert "back in the queue: gpu0 died; what came so far is void" in told.err


def test_nothing_begins_anew_where_nothing_was_shown(capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer(may_turn_void=True, is_terminal=True)
    for event in (VOID, chunk(2, "yes"), DONE):
        answer.show(event)
    assert capsys.readouterr().out == "yes\n"


def test_into_a_pipe_goes_only_what_stands(capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer(may_turn_void=True, is_terminal=False)
    call = ToolCall(id="1", name="w", arguments_json="{}")
    for event in (chunk(0, "no", call), VOID, chunk(2, "yes")):
        answer.show(event)
    assert capsys.readouterr().out == ""
    answer.show(DONE)
    assert capsys.readouterr().out == "yes\n"


def test_what_cannot_turn_void_is_not_held_back(capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer(is_terminal=False)
    answer.show(chunk(0, "yes"))
    assert capsys.readouterr().out == "yes"


def test_limits_of_phases() -> None:
    convert = PhaseLimit().convert
    limits = [convert("first-token=0.5s", None, None), convert("queue=2m", None, None)]
    assert timeouts_of(limits) == Timeouts(first_token_s=0.5, queue_s=120.0)
    assert convert(("load", 1.0), None, None) == ("load", 1.0)
    assert timeouts_of([]) is None
    with pytest.raises(click.UsageError, match="each phase once"):
        timeouts_of([("load", 1.0), ("load", 2.0)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("load", "say PHASE=DURATION"),
        ("first_token=5s", "first-token"),
        ("tea=5m", "a PHASE of"),
        ("load=5", "no duration"),
        ("load=0s", "more than nothing"),
    ],
)
def test_what_is_no_limit(text: str, said: str) -> None:
    with pytest.raises(click.BadParameter, match=said):
        PhaseLimit().convert(text, None, None)
