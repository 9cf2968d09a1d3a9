"""brokerctl's screens against a scripted broker over a real socket: level, queue, events, watch."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from click.testing import CliRunner

from broker_client.pb.broker.v1 import admin_pb2, common_pb2
from broker_client.pb.broker.v1 import pubsub_pb2 as pb
from brokerctl.main import main
from tests.integration.scripted_broker import Context, ScriptedBroker, Turn, refuse, serving
from tests.integration.test_client_cli import brokerctl


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with serving() as scripted:
        yield scripted


def tells(*messages: pb.SubscribeResponse, at_s: float = 0) -> Turn:
    """A subscription with these, after which the broker leaves."""

    async def turn(request: pb.SubscribeRequest, context: Context) -> AsyncIterator[Any]:
        level = admin_pb2.LevelStatus(level=common_pb2.DEGRADATION_LEVEL_1, automatic=True)
        state = pb.Event(topic="level", is_state=True, level=level)
        state.at.FromNanoseconds(round(at_s * 1e9))
        yield pb.SubscribeResponse(events=[state])
        for message in messages:
            yield message
        await refuse(context, grpc.StatusCode.UNAVAILABLE, "DRAINING", outcome="")

    return turn


def told(seq: int, data: bytes) -> pb.Event:
    return pb.Event(seq=seq, topic="team:a", payload=pb.Payload(data=data))


async def test_the_level_is_shown_with_its_parts(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "level")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("level normal for ")
    assert "2 of 1000 wait" in result.stdout
    document = json.loads((await brokerctl(broker, "level", "--json")).stdout)
    assert document["parts"][0]["limit"] == 1000


async def test_the_level_is_set_for_a_while_and_left_to_the_load(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "level", "2", "--for", "10m")
    assert result.stdout == (
        "level 2 for 10 min 0 s: answers are cut shorter, small models only, "
        "non-critical work is refused\n"
    )
    result = await brokerctl(broker, "level", "auto")
    freed = "the level follows the load again; it is normal: everything is offered\n"
    assert result.stdout == freed
    level = common_pb2.DEGRADATION_LEVEL_2
    assert broker.levers == [
        admin_pb2.SetLevelRequest(level=level, for_ms=600_000),
        admin_pb2.SetLevelRequest(),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("level", "3"),
        ("level", "auto", "--for", "10m"),
        ("level", "--for", "10m"),
        ("level", "1", "--for", "31d"),
        ("queue", "--requests", "101"),
        ("events", "--count", "0"),
        ("doctor", "--model", "m"),
        ("completion", "tcsh"),
        ("top", "--interval", "0"),
        ("drain", "--backend", "gpu0", "--timeout", "2"),
        ("resume", "opus-1", "--backend", "gpu0"),
        ("generate", "x", "--timeout", "tea=5m"),
        ("generate", "x", "--on-interruption", "pray"),
        ("status", "--address", "nowhere"),
    ],
    ids=" ".join,
)
async def test_wrong_use_reaches_no_broker(
    broker: ScriptedBroker, arguments: tuple[str, ...]
) -> None:
    result = await asyncio.to_thread(CliRunner().invoke, main, list(arguments))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert broker.levers == broker.requests == []


async def test_the_queue_says_what_waits_and_where_it_stands(broker: ScriptedBroker) -> None:
    reason = common_pb2.WAIT_REASON_BULKHEAD
    for name, agent_id in (("known", "opus-1"), ("gone", "opus-2")):
        broker.under_way.append(
            admin_pb2.RequestStatus(
                request_id=name, agent_id=agent_id, state="queued", wait_reason=reason
            )
        )
    result = await brokerctl(broker, "queue")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("2 requests of at most 1000 wait, the oldest for 0 ms\n")
    assert "others of its compartment to end" in result.stdout
    [row] = [each for each in result.stdout.splitlines() if "known" in each]
    assert row.split()[:3] == ["2", "known", "opus-1"]
    found = json.loads((await brokerctl(broker, "queue", "--json")).stdout)
    assert found["positions"] == [2, 0]  # the other one has begun meanwhile
    assert [each["name"] for each in found["by_reason"]] == ["bulkhead"]


async def test_events_are_lines_with_what_was_missed_in_its_place(broker: ScriptedBroker) -> None:
    broker.script.append(
        tells(
            pb.SubscribeResponse(events=[told(4, b"one")]),
            pb.SubscribeResponse(missed=7, events=[told(12, b"two")]),
        )
    )
    result = await brokerctl(broker, "events", "team:*", "level")
    assert list(broker.requests[0].topics) == ["team:*", "level"]
    # Without the time of day, which is the first word.
    assert [each.split(maxsplit=1)[1] for each in result.stdout.splitlines()] == [
        "now level: 1",
        "#4 team:a: one",
        "7 events: this side read too slowly)",
        "#12 team:a: two",
    ]
    # The broker has left, which is said with the next step.
    assert result.exit_code == 1
    assert "start the broker again" in result.stderr


async def test_so_many_events_and_no_states_as_json(broker: ScriptedBroker) -> None:
    broker.script.append(tells(pb.SubscribeResponse(events=[told(4, b"one"), told(5, b"two")])))
    result = await brokerctl(broker, "events", "--count", "1", "--no-states", "--json")
    assert result.exit_code == 0, result.output
    [line] = result.stdout.splitlines()
    document = json.loads(line)
    assert (document["seq"], document["what"]["data"]) == (4, "one")
    assert list(broker.requests[0].topics) == ["**"]


async def test_a_watch_shows_each_state_until_the_broker_leaves(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "status", "--watch", "--interval", "0.1")
    assert result.stdout.count("broker 1.2.3 at ") == 3
    assert result.exit_code == 1
    assert "start the broker again" in result.stderr
    for command in ("status", "--watch"), ("top",):
        lines = (await brokerctl(broker, *command, "--json")).stdout.splitlines()
        documents = [json.loads(each) for each in lines]
        assert [each.get("version") for each in documents] == ["1.2.3"] * 3 + [None]
        assert documents[-1]["error"]["reason"] == "DRAINING"


@pytest.mark.parametrize(
    ("skew_s", "said"), [(0.0, "clock and this one agree"), (-3600.0, "behind this one")]
)
async def test_the_doctor_compares_clocks(broker: ScriptedBroker, skew_s: float, said: str) -> None:
    broker.script.append(tells(at_s=time.time() + skew_s))
    result = await brokerctl(broker, "doctor")
    assert result.exit_code == 0, result.output
    assert said in result.stdout


async def test_the_doctor_says_that_a_clock_was_not_told(broker: ScriptedBroker) -> None:
    async def refused(request: pb.SubscribeRequest, context: Context) -> AsyncIterator[Any]:
        await refuse(context, grpc.StatusCode.UNAVAILABLE, "SUBSCRIBERS_FULL", outcome="")
        yield  # Never reached; makes this a generator, which a turn is.

    broker.script.append(refused)
    result = await brokerctl(broker, "doctor")
    assert result.exit_code == 0
    assert "clock could not be asked, and is not judged: SUBSCRIBERS_FULL" in result.stdout


async def test_without_a_broker_the_new_commands_say_how_to_start_one() -> None:
    for command in (
        *(["level"], ["level", "2"], ["queue"], ["events"]),
        *(["status", "--watch"], ["top", "--json"]),
    ):
        arguments = [*command, "--address", "127.0.0.1:1"]
        result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
        assert result.exit_code == 3, command
        assert "no broker answers at 127.0.0.1:1; start one with `brokerd`" in result.output


@pytest.fixture
def _heeds_interrupts() -> Iterator[None]:
    """Who runs the tests in the background of a shell ignores interrupts, and so would each program
    that they start: only what is handled is reset for it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeds_interrupts")
@pytest.mark.parametrize("command", [("events",), ("status", "--watch", "--interval", "3600")])
async def test_ctrl_c_ends_quietly_with_130(
    broker: ScriptedBroker, command: tuple[str, ...]
) -> None:
    async def quiet(request: pb.SubscribeRequest, context: Context) -> AsyncIterator[Any]:
        yield pb.SubscribeResponse(events=[told(1, b"one")])
        await asyncio.Event().wait()

    broker.script.append(quiet)
    broker.hangs_after = 1
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "brokerctl.main", *command, "--address", broker.address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    assert await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (130, "\n")
