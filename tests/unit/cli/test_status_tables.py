"""What `brokerctl status` says: little while all is quiet, what holds requests back at once."""

from __future__ import annotations

from rich.console import Console

from broker_client.pb.broker.v1 import admin_pb2 as pb
from broker_client.pb.broker.v1 import common_pb2
from broker_client.status import status_of
from brokerctl.status_tables import status_view

ATTENTION = "\x1b[1;33m"  # bold yellow
BULKHEADS = (
    pb.BulkheadStatus(compartment="opus", running=0, running_max=10),
    pb.BulkheadStatus(compartment="batch", running=0, running_max=15),
)


def shown(message: pb.GetStatusResponse, *, with_colour: bool = False) -> list[str]:
    """The lines on a terminal that is wide enough."""
    message.level = common_pb2.DEGRADATION_LEVEL_NORMAL
    console = Console(
        width=200,
        highlight=False,
        force_terminal=with_colour,
        color_system="standard" if with_colour else None,
    )
    with console.capture() as capture:
        console.print(status_view(status_of(message), "here:1"))
    return capture.get().splitlines()


def quiet() -> pb.GetStatusResponse:
    return pb.GetStatusResponse(
        version="1", queued_max=1000, standing_max=100, agents=1, bulkheads=BULKHEADS
    )


def test_nothing_but_the_headline_and_the_backends_while_all_is_quiet() -> None:
    lines = shown(quiet())
    assert lines[0] == (
        "broker 1 at here:1, up 0 ms, level normal; "
        "0 requests of at most 1000 waiting, 0 running; 1 agent known"
    )
    assert lines[-1] == "ended since start: none yet"
    assert not any(word in " ".join(lines) for word in ("bulkhead", "room", "paused"))
    assert ATTENTION not in "".join(shown(quiet(), with_colour=True))


def test_bulkheads_in_use_are_one_line_and_the_full_one_catches_the_eye() -> None:
    message = quiet()
    del message.bulkheads[:]
    for name, running in (("opus", 10), ("sonnet", 3), ("batch", 0)):
        message.bulkheads.add(compartment=name, running=running, running_max=10)
    assert shown(message)[1] == "running in bulkheads: opus 10 of 10: full, sonnet 3 of 10"
    line = shown(message, with_colour=True)[1]
    assert f"{ATTENTION}opus 10 of 10: full" in line
    assert f"{ATTENTION}sonnet" not in line


def test_a_bulkhead_that_was_lowered_below_what_runs_is_full() -> None:
    message = quiet()
    message.bulkheads[0].running = 12
    assert shown(message)[1] == "running in bulkheads: opus 12 of 10: full"


def test_a_waiting_room_in_use_catches_the_eye() -> None:
    message = quiet()
    message.standing = 4
    line = shown(message, with_colour=True)[0]
    assert f"{ATTENTION}; the queue is full: 4 of at most 100 stand in the waiting room" in line


def test_a_pause_catches_the_eye_and_says_how_it_ends() -> None:
    message = quiet()
    message.paused.extend(("agent opus-1", "everybody"))
    said = "paused: agent opus-1, everybody; `brokerctl resume` ends it"
    assert shown(message)[1] == said
    assert f"{ATTENTION}{said}" in shown(message, with_colour=True)[1]


def test_refusals_say_why_the_most_frequent_first() -> None:
    message = quiet()
    message.outcomes.add(outcome="completed", count=36)
    message.outcomes.add(outcome="refused", count=5)
    message.refusals.add(reason="QUEUE_FULL", count=1)
    message.refusals.add(reason="RATE_LIMITED", count=4)
    assert shown(message)[-1] == (
        "ended since start: 36 completed, 5 refused (4 rate limited, 1 queue full)"
    )
    del message.refusals[0]
    assert shown(message)[-1] == "ended since start: 36 completed, 5 refused (rate limited)"


def test_a_request_shows_its_bulkhead() -> None:
    message = quiet()
    message.requests.add(request_id="r", agent_id="opus-1", compartment="critical", state="queued")
    assert any("critical" in line and "opus-1" in line for line in shown(message))
