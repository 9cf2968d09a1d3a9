"""The words on standard error while a request waits."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from broker_client import (
    Chunk,
    Event,
    Queued,
    QueueFull,
    Requeued,
    Retrying,
    SlowDown,
    Started,
)
from broker_client.errors import ErrorDetails
from brokerctl.waiting_line import ERASE_LINE, WaitingLine, waiting_text

QUEUED = Queued(position=3, eta_ms=4000, reason="loading", detail="tiny is loaded", request_id="r")
STARTED = Started(
    model="b", backend="gpu0", level="normal", substituted_for="", changes=(), attempt=1
)
CHUNK = Chunk(seq=0, text="x", thinking="", tool_calls=(), tokens=1)
FULL = QueueFull(ErrorDetails(code=grpc.StatusCode.UNAVAILABLE, message="full"))


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (QUEUED, "waiting, position 3, about 4.0 s: tiny is loaded"),
        (
            replace(QUEUED, eta_low_ms=1200, eta_high_ms=9000),
            "waiting, position 3, about 4.0 s (1.2 to 9.0 s): tiny is loaded",
        ),
        (
            replace(QUEUED, eta_ms=0, eta_low_ms=0, eta_high_ms=300),
            "waiting, position 3, about 0 ms (0 to 300 ms): tiny is loaded",
        ),
        (
            Queued(position=1, eta_ms=None, reason="slot", detail="", request_id="r"),
            "waiting, position 1",
        ),
        (STARTED, "b on gpu0"),
        (
            Started(
                model="b",
                backend="g",
                level="2",
                substituted_for="a",
                changes=("x raised",),
                attempt=0,
            ),
            "b instead of a on g; x raised",
        ),
        (
            Requeued(reason="a better one came", discard_before_seq=0),
            "back in the queue: a better one came",
        ),
        (
            Requeued(reason="gpu0 died", discard_before_seq=7),
            "back in the queue: gpu0 died; what came so far is void",
        ),
        (replace(STARTED, attempt=2), "b on gpu0, attempt 2"),
        (Retrying(error=FULL, delay_s=2.5), "full; trying again in 2.5 s"),
        (SlowDown(retry_after_ms=500), "the broker asks for less for 500 ms"),
        (CHUNK, ""),
    ],
)
def test_words(event: Event, text: str) -> None:
    assert waiting_text(event) == text


def test_on_a_terminal_one_line_is_rewritten(capsys: pytest.CaptureFixture[str]) -> None:
    line = WaitingLine(is_terminal=True)
    for event in (QUEUED, QUEUED, STARTED, CHUNK, CHUNK):
        line.show(event)
    words = waiting_text(QUEUED)
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err == f"{ERASE_LINE}{words}{ERASE_LINE}{words}{ERASE_LINE}b on gpu0\n"


def test_without_a_terminal_each_change_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = WaitingLine(is_terminal=False)
    for event in (QUEUED, QUEUED, STARTED, CHUNK):
        line.show(event)
    assert capsys.readouterr().err == f"{waiting_text(QUEUED)}\nb on gpu0\n"


def test_who_named_no_model_hears_why_it_is_this_one() -> None:
    changed = "model is b instead of c: c is being cured"
    chosen = replace(STARTED, chosen_because=f"c: the smallest; {changed}", changes=(changed, "x"))
    assert waiting_text(chosen) == f"b on gpu0; c: the smallest; {changed}; x"
