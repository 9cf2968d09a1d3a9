"""brokerctl against a scripted broker over a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest_asyncio
from click.testing import CliRunner, Result

from broker_client.pb.broker.v1 import admin_pb2, common_pb2, inference_pb2
from brokerctl.main import main
from tests.integration.scripted_broker import (
    WORDS,
    Context,
    ScriptedBroker,
    answer,
    chunk,
    done,
    refuse,
    serving,
)


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with serving() as scripted:
        yield scripted


async def brokerctl(broker: ScriptedBroker, *arguments: str, text: str | None = None) -> Result:
    """Runs the command in a thread, so that the broker's loop goes on."""
    return await asyncio.to_thread(
        CliRunner().invoke, main, [*arguments, "--address", broker.address], input=text
    )


async def test_an_answer_goes_to_standard_output_and_all_else_to_standard_error(
    broker: ScriptedBroker,
) -> None:
    broker.script.append(answer)
    arguments = ("--model", "tiny", "--priority", "2", "--agent", "opus-9", "--seed", "7")
    result = await brokerctl(broker, "generate", "why?", "--system", "be brief", *arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == "".join(WORDS) + "\n"
    assert "waiting, position 1" in result.stderr
    assert "0 tokens from tiny:latest" in result.stderr
    asked = broker.requests[0]
    assert (asked.prompt.text, asked.prompt.system) == ("why?", "be brief")
    assert (asked.agent_id, asked.priority, asked.options.seed) == ("opus-9", 2, 7)


async def test_a_prompt_from_standard_input_to_the_default_model(broker: ScriptedBroker) -> None:
    broker.script.append(answer)
    result = await brokerctl(broker, "generate", text="why is it so?")
    assert result.exit_code == 0, result.output
    assert broker.requests[0].prompt.text == "why is it so?"
    assert broker.requests[0].model == "a:latest"


async def test_thinking_and_tool_calls_are_shown_apart(broker: ScriptedBroker) -> None:
    async def turn(request: Any, context: Context) -> AsyncIterator[Any]:
        call = inference_pb2.ToolCall(name="w", arguments_json='{"a": 1}')
        parts = (
            inference_pb2.Chunk(thinking="hm", tokens=1),
            inference_pb2.Chunk(seq=1, text="so", tokens=1),
            inference_pb2.Chunk(seq=2, tool_calls=[call], tokens=1),
        )
        for part in parts:
            yield inference_pb2.GenerateEvent(chunk=part)
        yield done()

    broker.script.append(turn)
    result = await brokerctl(broker, "generate", "x", "--model", "m", "--think")
    assert result.stdout == 'so\nw({"a": 1})\n'
    assert result.stderr.startswith("hm\n")
    assert broker.requests[0].think.enabled


async def test_limits_and_what_may_be_done_when_it_is_interrupted(broker: ScriptedBroker) -> None:
    broker.script.append(answer)
    result = await brokerctl(
        *(broker, "generate", "why?", "--model", "m", "--on-interruption", "restart"),
        *("--timeout", "first-token=5s", "--timeout", "queue=1m", "--prompt-type", "summary"),
    )
    assert result.stdout == "".join(WORDS) + "\n"
    asked = broker.requests[0]
    assert asked.on_interruption == inference_pb2.ON_INTERRUPTION_RESTART
    assert asked.timeouts == inference_pb2.Timeouts(first_token_ms=5_000, queue_ms=60_000)
    assert asked.prompt_type == "summary"


async def test_events_as_lines_of_json(broker: ScriptedBroker) -> None:
    async def full(request: Any, context: Context) -> AsyncIterator[Any]:
        await refuse(context, grpc.StatusCode.UNAVAILABLE, "QUEUE_FULL", retry_after_ms=1)
        yield  # Never reached; makes this a generator, which a turn is.

    broker.script.extend([full, answer])
    result = await brokerctl(broker, "generate", "why?", "--model", "m", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["event"] for each in events[:3]] == ["retrying", "queued", "started"]
    assert events[0]["error"]["reason"] == "QUEUE_FULL"
    assert [each["text"] for each in events[3:-1]] == list(WORDS)
    assert events[-1]["finish_reason"] == "stop"


async def test_an_error_is_words_and_a_status_without_a_traceback(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "models", "zzz")
    assert result.exit_code == 1
    assert result.stdout == ""
    said = "brokerctl: MODEL_UNKNOWN; `brokerctl models` lists the models there are\n"
    assert result.stderr == said
    as_json = await brokerctl(broker, "models", "zzz", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["error"]["reason"] == "MODEL_UNKNOWN"


async def test_an_error_stands_on_its_own_line_names_the_backend_and_the_next_step(
    broker: ScriptedBroker,
) -> None:
    async def dies(request: Any, context: Context) -> AsyncIterator[Any]:
        yield inference_pb2.GenerateEvent(started=inference_pb2.Started(model="m", backend="gpu7"))
        yield chunk(0, "The sky")
        await refuse(context, grpc.StatusCode.INTERNAL, "BACKEND_FAILED", outcome="failed")

    broker.script.extend([dies, dies])
    result = await brokerctl(broker, "generate", "why?", "--model", "m")
    assert (result.exit_code, result.stdout) == (1, "The sky\n")
    *_, words, step = result.stderr.splitlines()
    assert words.startswith("brokerctl: on gpu7: BACKEND_FAILED; ")
    assert step.startswith(f"`brokerctl explain {broker.requests[0].request_id}` ")
    as_json = await brokerctl(broker, "generate", "why?", "--model", "m", "--json")
    error = json.loads(as_json.stdout.splitlines()[-1])["error"]
    assert error["request_id"] == broker.requests[1].request_id


async def test_a_request_that_the_broker_never_judged_is_not_to_be_explained(
    broker: ScriptedBroker,
) -> None:
    async def wrong(request: Any, context: Context) -> AsyncIterator[Any]:
        await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        yield  # Never reached; makes this a generator, which a turn is.

    broker.script.append(wrong)
    result = await brokerctl(broker, "generate", "why?", "--model", "m")
    assert result.exit_code == 1
    assert "explain" not in result.stderr


async def test_fallbacks_and_the_default_answer(broker: ScriptedBroker) -> None:
    broker.script.append(answer)
    options = ("--fallback", "small", "--fallback", "tiny", "--accept-default", "--prefer-loaded")
    result = await brokerctl(broker, "generate", "why?", "--model", "m", *options)
    assert result.exit_code == 0, result.output
    assert list(broker.requests[0].fallback_models) == ["small", "tiny"]
    assert broker.requests[0].accept_default
    assert broker.requests[0].prefer_loaded


async def test_what_it_is_a_part_of(broker: ScriptedBroker) -> None:
    broker.script.append(answer)
    options = ("--session", "task", "--expected-calls", "4")
    result = await brokerctl(broker, "generate", "why?", "--model", "m", *options)
    assert result.exit_code == 0, result.output
    assert (broker.requests[0].session_id, broker.requests[0].expected_calls) == ("task", 4)


async def test_whether_urgent_work_may_have_its_slot(broker: ScriptedBroker) -> None:
    said = []
    for options in (
        (),
        ("--preemptible",),
        ("--on-interruption", "restart"),
        ("--on-interruption", "restart", "--no-preemptible"),
    ):
        broker.script.append(answer)
        result = await brokerctl(broker, "generate", "why?", "--model", "m", *options)
        assert result.exit_code == 0, result.output
        asked = broker.requests[-1]
        said.append(asked.preemptible if asked.HasField("preemptible") else None)
    assert said == [False, True, None, False]


async def test_by_when_the_answer_would_be_liked(broker: ScriptedBroker) -> None:
    broker.script.append(answer)
    result = await brokerctl(broker, "generate", "why?", "--model", "m", "--soft-deadline", "30s")
    assert result.exit_code == 0, result.output
    assert broker.requests[0].soft_deadline_ms == 30_000


async def test_who_listens_and_says_nothing_is_not_taken_for_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        result = await asyncio.to_thread(CliRunner().invoke, main, ["status", "--address", address])
    assert result.exit_code == 3
    assert f"what listens at {address} says nothing" in result.stderr
    assert "start one" not in result.stderr


async def test_models_and_one_of_them(broker: ScriptedBroker) -> None:
    table = await brokerctl(broker, "models")
    assert table.exit_code == 0
    assert "a:latest" in table.stdout
    assert "b:latest" in table.stdout
    one = await brokerctl(broker, "models", "a")
    assert "on gpu0" in one.stdout
    assert "resident" in one.stdout
    assert "slots in use" not in one.stdout  # nobody told how many there are
    document = json.loads((await brokerctl(broker, "models", "--json")).stdout)
    assert [each["name"] for each in document] == ["a:latest", "b:latest"]


async def test_without_a_model_the_backend_that_does_not_answer_is_named(
    broker: ScriptedBroker,
) -> None:
    broker.models = []
    broker.backends = [admin_pb2.BackendStatus(name="gpu0", url="http://x", problem="no route")]
    for command in ("models", "generate"):
        result = await brokerctl(broker, command, *(["why?"] if command == "generate" else []))
        assert (result.exit_code, result.stdout) == (1, "")
        assert "backend gpu0 at http://x does not answer: no route; start " in result.stderr
    as_json = await brokerctl(broker, "models", "--json")
    assert (as_json.exit_code, as_json.stdout) == (1, "[]\n")


async def test_status_as_tables_and_as_json(broker: ScriptedBroker) -> None:
    table = await brokerctl(broker, "status", "--requests", "1")
    assert table.exit_code == 0
    assert f"broker 1.2.3 at {broker.address}" in table.stdout
    assert "gpu0" in table.stdout
    assert "ended since start: 7 completed" in table.stdout
    document = json.loads((await brokerctl(broker, "status", "--json")).stdout)
    assert document["outcomes"] == {"completed": 7}


async def test_the_doctor_says_what_it_found(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "doctor")
    assert result.exit_code == 0, result.output
    assert "backend gpu0" in result.stdout
    document = json.loads((await brokerctl(broker, "doctor", "--json")).stdout)
    # The scripted broker's version is not this brokerctl's.
    assert document["healthy"]
    assert [each["severity"] for each in document["findings"]].count("odd") == 1


async def test_drain_says_what_is_left(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "drain", "--timeout", "2")
    assert result.stdout == (
        f"the broker at {broker.address} leaves: 2 requests running and 1 waiting have 2.0 s; "
        "new work is refused\n"
    )


async def test_without_a_broker_everything_says_how_to_start_one() -> None:
    nobody = ["--address", "127.0.0.1:1"]
    for command in (
        *(["status"], ["models"], ["drain"], ["generate", "x", "--model", "m"]),
        *(["agents"], ["quota", "a"], ["explain", "r"], ["cancel", "r"], ["reload"]),
        *(["boost", "a", "--weight", "2"], ["block", "a"], ["pause", "--all"], ["resume", "a"]),
    ):
        result = await asyncio.to_thread(CliRunner().invoke, main, [*command, *nobody])
        said = "brokerctl: no broker answers at 127.0.0.1:1; start one with `brokerd`\n"
        assert (result.exit_code, result.stderr) == (3, said)
    result = await asyncio.to_thread(CliRunner().invoke, main, ["doctor", *nobody])
    assert result.exit_code == 3
    assert "start one with `brokerd`" in result.stdout


async def test_a_level_that_is_named_is_shown(broker: ScriptedBroker) -> None:
    async def lowered(request: Any, context: Context) -> AsyncIterator[Any]:
        started = inference_pb2.Started(
            model="small", backend="gpu0", level=common_pb2.DEGRADATION_LEVEL_2, changes=["smaller"]
        )
        yield inference_pb2.GenerateEvent(started=started)
        yield done()

    broker.script.append(lowered)
    result = await brokerctl(broker, "generate", "x", "--model", "m")
    assert "small on gpu0; smaller" in result.stderr
