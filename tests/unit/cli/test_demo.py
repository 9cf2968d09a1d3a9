"""The parts of the demonstration that decide: plans, stage, summary, lines."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from rich.console import Console

from broker.config.load import load
from broker_client import (
    BackendModel,
    BackendStatus,
    Chunk,
    Event,
    Model,
    ModelPlace,
    Queued,
    QuotaExceeded,
    Requeued,
    Retrying,
    Started,
    Status,
)
from broker_client.errors import ErrorDetails
from broker_client.pb.broker.v1 import admin_pb2 as pb
from broker_client.pb.broker.v1 import common_pb2
from broker_client.status import status_of
from brokerctl.demo.fleet import Agent, Outcome, Plan, draw_plans, follow
from brokerctl.demo.greedy import Greedy
from brokerctl.demo.stage import (
    backend_verdict,
    is_free,
    listening_address,
    server_section,
    simulated_backend,
    simulator_url,
    spread,
    without_ollama,
)
from brokerctl.demo.summary import greedy_line, percentile, summarize, summary_view
from brokerctl.demo.view import PlainView, activity, picture

PLAN = Plan(agent_id="opus-1", priority=2, model="tiny:latest", prompt="?", max_tokens=9)
QUEUED = Queued(position=2, eta_ms=1500, reason="slot", detail="a free slot", request_id="r")
TOO_MUCH = QuotaExceeded(ErrorDetails(code=grpc.StatusCode.RESOURCE_EXHAUSTED, message="too much"))
RETRYING = Retrying(error=TOO_MUCH, delay_s=5.4)
STARTED = Started(
    model="tiny:latest", backend="b", level="normal", substituted_for="", changes=(), attempt=1
)


def chunk(text: str) -> Chunk:
    return Chunk(seq=0, text=text, thinking="", tool_calls=(), tokens=1)


def status(*models: tuple[str, str, bool]) -> Status:
    """A status with these models: name, state, whether the broker manages it."""
    held = tuple(
        BackendModel(
            name=name,
            place=ModelPlace(
                backend="b",
                state=state,
                slots=2,
                running=1,
                num_ctx=0,
                memory_bytes=0,
                gpu_memory_bytes=0,
                managed=managed,
                expires_ms=None,
            ),
            queued=3,
        )
        for name, state, managed in models
    )
    backend = BackendStatus(
        name="b",
        kind="ollama",
        url="",
        up=True,
        problem="",
        version="",
        models=held,
        loads=4,
        loads_failed=0,
        weight=1.0,
        tags=(),
        draining=False,
        health="well",
        evidence="",
        running=0,
        breakers=(),
        retries=0,
        retries_left=10.0,
        sick_models=(),
        restarts=0,
    )
    wire = pb.GetStatusResponse(
        version="0",
        uptime_s=1.0,
        level=common_pb2.DEGRADATION_LEVEL_NORMAL,
        queued=3,
        queued_max=1000,
        running=1,
        standing_max=100,
        agents=1,
    )
    return replace(status_of(wire), backends=(backend,))


def printed(*parts: object) -> str:
    console = Console(width=160, record=True, quiet=False, file=None, color_system=None)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return capture.get()


def test_twelve_agents_of_three_types_ask_the_same_for_the_same_seed() -> None:
    plans = draw_plans(["a", "b"], requests=3, seed=1)
    assert plans == draw_plans(["a", "b"], requests=3, seed=1)
    assert plans != draw_plans(["a", "b"], requests=3, seed=2)
    assert len(plans) == 12
    assert {name.partition("-")[0] for name in plans} == {"opus", "sonnet", "system"}
    every = [plan for each in plans.values() for plan in each]
    assert len(every) == 36
    assert {each.model for each in every} == {"a", "b"}
    assert len({each.priority for each in every}) > 5


def test_an_agent_is_followed_through_its_request() -> None:
    agent = Agent(agent_id="opus-1", plans=(PLAN,))
    assert str(activity(agent, width=60)) == ""
    agent.current = PLAN
    assert str(activity(agent, width=60)) == "asks"
    follow(agent, QUEUED)
    assert str(activity(agent, width=60)) == "waits, position 2, about 1.5 s  a free slot"
    events: tuple[Event, ...] = (STARTED, chunk("so it\n"), chunk("is"))
    for event in events:
        follow(agent, event)
    assert str(activity(agent, width=60)) == "streams  so it is"
    follow(agent, Requeued(reason="p1", discard_before_seq=0))
    assert str(activity(agent, width=60)).startswith("waits")
    assert agent.tail
    follow(agent, Requeued(reason="gpu0 died", discard_before_seq=2))
    assert (agent.tail, agent.pieces) == ("", 0)
    follow(agent, RETRYING)
    assert str(activity(agent, width=60)) == "tries again in 5.4 s: too much"
    follow(agent, QUEUED)
    assert str(activity(agent, width=60)).startswith("waits")
    agent.current, agent.ended = None, 1
    assert str(activity(agent, width=60)) == "has all its answers"


def test_the_tail_of_an_answer_is_bounded() -> None:
    agent = Agent(agent_id="opus-1", plans=(PLAN,), current=PLAN)
    follow(agent, chunk("x" * 10_000))
    assert len(agent.tail) == 200


def test_of_an_answer_the_last_words_are_shown() -> None:
    agent = Agent(agent_id="opus-1", plans=(PLAN,), current=PLAN, started=STARTED)
    follow(agent, chunk("one two three four five"))
    assert str(activity(agent, width=19)) == "streams   four five"
    agents = [agent] * 12
    drawn = Console(width=80)
    with drawn.capture() as capture:
        drawn.print(picture(status(("tiny:latest", "loading", True)), agents, width=80))
    lines = capture.get().splitlines()
    assert sum("four five" in each for each in lines) == 12
    assert len(lines) <= 24


def test_plain_lines_say_each_thing_once(capsys: pytest.CaptureFixture[str]) -> None:
    agent = Agent(agent_id="opus-1", plans=(PLAN,), current=PLAN)
    view = PlainView(Console(width=160, highlight=False))
    view.watch(agent, QUEUED)
    view.watch(agent, QUEUED)
    view.watch(agent, RETRYING)
    view.tell("the greedy one")
    view.watch(agent, Outcome(plan=PLAN, wait_ms=1500, tokens=1))
    view.watch(agent, Outcome(plan=PLAN, error="QueueFull: full"))
    view.show(status(("tiny:latest", "loading", True)), [agent])
    view.show(status(("tiny:latest", "resident", True), ("x", "resident", False)), [agent])
    view.show(status(("x", "resident", False)), [agent])
    assert capsys.readouterr().out.splitlines() == [
        "opus-1 (priority 2, tiny:latest) waits, position 2, about 1.5 s",
        "opus-1 (priority 2, tiny:latest) tries again in 5.4 s: too much",
        "the greedy one",
        "opus-1 (priority 2, tiny:latest) got 1 token after waiting 1.5 s",
        "opus-1 (priority 2, tiny:latest) FAILED: QueueFull: full",
        "model tiny:latest: loading",
        "model tiny:latest: resident",
        "model x: resident, loaded by others",
        "model tiny:latest: gone",
    ]


def test_the_picture_shows_models_and_agents() -> None:
    agent = Agent(agent_id="opus-1", plans=(PLAN,), current=PLAN, queued=QUEUED)
    drawn = printed(picture(status(("tiny:latest", "loading", True)), [agent], width=160))
    assert "3 requests waiting, 1 running" in drawn
    assert "loading" in drawn
    assert "waits, position 2" in drawn
    assert "0 of 1" in drawn


@pytest.mark.parametrize(
    ("values", "share", "answer"),
    [([5.0], 0.5, 5.0), ([3, 1, 2], 0.5, 2), ([4, 3, 2, 1], 0.5, 2), ([1, 2], 1.0, 2)],
)
def test_percentiles(values: list[float], share: float, answer: float) -> None:
    assert percentile(values, share) == answer


def test_a_summary_counts_every_request_once() -> None:
    other = Plan(agent_id="system-1", priority=9, model="m", prompt="?", max_tokens=9)
    outcomes = [
        Outcome(plan=PLAN, wait_ms=100, tokens=5),
        Outcome(plan=PLAN, wait_ms=300, tokens=6),
        Outcome(plan=PLAN, error="QueueFull: full"),
        Outcome(plan=other, error="QueueFull: full"),
    ]
    first, last = summarize(outcomes)
    assert (first.priority, first.answered, first.failed, first.tokens) == (2, 2, 1, 11)
    assert (first.wait_ms_p50, first.wait_ms_max) == (100, 300)
    assert (last.priority, last.answered, last.failed, last.wait_ms_p50) == (9, 0, 1, None)
    text = printed(summary_view(outcomes, status(), elapsed_ms=2000))
    assert "2 requests of 2 agents answered, 2 failed; 11 tokens in 2.0 s; 4 model loads" in text


def test_greed_is_compared_with_the_others() -> None:
    greedy = Greedy("m", tell=lambda line: None)
    greedy.let_in, greedy.refused = 2, 28
    outcomes = [Outcome(plan=PLAN, wait_ms=each) for each in (100, 300, 900)]
    said = "opus-greedy asked 30 times at once: 2 let in, 28 refused"
    assert greedy_line(greedy, outcomes) == said
    greedy.waits_ms = [2000, 4000]
    waits = "its median wait was 2.0 s, that of the twelve 300 ms"
    assert greedy_line(greedy, outcomes) == f"{said}; {waits}"
    assert greedy_line(greedy, []) == said


def test_the_configurations_it_writes_are_good(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    server = server_section("127.0.0.1:0", "127.0.0.1:0")
    file.write_text(server)
    assert load(file, {}).server.grpc_address == "127.0.0.1:0"
    file.write_text(server + simulated_backend("http://127.0.0.1:1"))
    [backend] = load(file, {"OLLAMA_HOST": "elsewhere"}).backends
    assert (backend.url, backend.exclusive, backend.slots) == ("http://127.0.0.1:1", True, 2)


def test_the_lines_that_say_where_a_program_listens() -> None:
    said = '{"grpc": "127.0.0.1:5", "event": "broker listening"}'
    assert listening_address(said) == "127.0.0.1:5"
    for other in ('{"event": "backend answers"}', "Traceback", "[1]", ""):
        assert listening_address(other) is None
        assert backend_verdict(other) is (True if "answers" in other else None)
    assert backend_verdict('{"event": "backend does not answer"}') is False
    assert simulator_url("ollama-sim listening on http://127.0.0.1:7 (sim)") == "http://127.0.0.1:7"
    assert simulator_url("something else") is None


def test_models_are_spread_over_the_sizes() -> None:
    models = [
        Model(
            name=str(number),
            capabilities=(),
            size_bytes=number,
            parameter_size="",
            quantization="",
            family="",
            context_length_train=0,
            places=(),
        )
        for number in range(6)
    ]
    assert [each.name for each in spread(models, 3)] == ["0", "2", "5"]
    assert [each.name for each in spread(models[:2], 3)] == ["0", "1"]


def test_settings_for_ollama_are_kept_from_the_simulator() -> None:
    assert without_ollama({"OLLAMA_HOST": "x", "PATH": "y"}) == {"PATH": "y"}


def test_a_port_that_is_listened_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)
