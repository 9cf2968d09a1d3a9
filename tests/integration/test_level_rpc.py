"""What each level does, as a client sees it: over the wire, with the level set by an operator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import pytest_asyncio

from broker.config.machine import DegradationConfig
from broker.config.schema import Config
from broker.core.level import Level
from broker_client.pb.broker.v1 import admin_pb2, common_pb2
from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.integration.daemon import (
    BACKEND,
    CAPABILITIES,
    FREE_PORTS,
    QUICK,
    LedBackend,
    RunningDaemon,
    kinds,
    read_until,
    refused,
    running_daemon,
    text_of,
)
from tests.integration.wire_requests import embed, generate

GB = 10**9
LARGE = frozenset({"llama3:8b", "qwen3:8b", "embed:latest"})
ONE_SLOT = BACKEND.model_copy(update={"slots": 1})
TALKS = frozenset({"completion"})


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[RunningDaemon]:
    """One slot for each model; "talk" and "tinyllama" are small."""
    backend = LedBackend({**CAPABILITIES, "tinyllama:latest": TALKS})
    backend.facts = tuple(
        replace(each, size_bytes=5 * GB if each.name in LARGE else GB) for each in backend.facts
    )
    degradation = DegradationConfig(automatic=False, default_answer="later, please")
    config = Config(server=FREE_PORTS, backends=(ONE_SLOT,), degradation=degradation, **QUICK)
    async with running_daemon(config, backend) as running:
        yield running


def hold(daemon: RunningDaemon, level: Level) -> None:
    daemon.parts.driver.set_level(level, None)


async def start(daemon: RunningDaemon, **changed: Any) -> tuple[Any, pb.Started]:
    """A generation that runs, and what it was told as it started."""
    stream = daemon.inference.Generate(generate(**changed))
    return stream, (await read_until(stream, "started"))[-1].started


@pytest.mark.parametrize(
    ("asked", "cut", "words"),
    [
        (2000, 512, ["max_tokens is 512 instead of 2000 (level 1)"]),
        (None, 512, ["max_tokens is 512, as the level is 1"]),
        (100, 100, []),
    ],
)
async def test_level_1_cuts_answers_and_says_so(
    daemon: RunningDaemon, asked: int | None, cut: int, words: list[str]
) -> None:
    hold(daemon, Level.LEVEL_1)
    options = pb.Options(max_tokens=asked) if asked else None
    stream, started = await start(daemon, options=options)
    call = await daemon.backend.calls.get()
    assert call.content.options["num_predict"] == cut
    assert started.level == common_pb2.DEGRADATION_LEVEL_1
    assert list(started.changes) == words
    call.complete()
    await read_until(stream, "done")


async def test_what_streams_is_never_touched(daemon: RunningDaemon) -> None:
    stream, started = await start(daemon, model="llama3:8b", priority=9)
    assert started.level == common_pb2.DEGRADATION_LEVEL_NORMAL
    call = await daemon.backend.calls.get()
    call.say("one ")
    await read_until(stream, "chunk")
    hold(daemon, Level.CRITICAL)
    call.say("two")
    call.complete()
    assert text_of(await read_until(stream, "done")) == "two"


async def test_level_2_refuses_what_is_not_critical_with_a_time_to_come_again(
    daemon: RunningDaemon,
) -> None:
    hold(daemon, Level.LEVEL_2)
    for changed in ({"priority": 8}, {"criticality": common_pb2.CRITICALITY_BATCH}):
        refusal = await refused(daemon.inference.Generate(generate(request_id="r", **changed)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DEGRADED")
        assert refusal.retry_after_s is not None
        assert refusal.about["outcome"] == "refused"
    told = await daemon.admin.Explain(admin_pb2.ExplainRequest(request_id="r", agent_id="opus-1"))
    gate = told.gates[-1]
    assert (gate.name, gate.passed) == ("level", False)


async def test_level_2_lets_a_small_model_answer_and_says_which_and_why(
    daemon: RunningDaemon,
) -> None:
    hold(daemon, Level.LEVEL_2)
    stream, started = await start(daemon, model="llama3:8b", request_id="r")
    assert (started.model, started.substituted_for) == ("tinyllama:latest", "llama3:8b")
    assert started.level == common_pb2.DEGRADATION_LEVEL_2
    assert any("only small models run" in each for each in started.changes)
    call = await daemon.backend.calls.get()
    assert call.model == "tinyllama:latest"
    call.complete()
    done = (await read_until(stream, "done"))[-1].done
    assert (done.model, done.cached) == ("tinyllama:latest", False)
    told = await daemon.admin.Explain(admin_pb2.ExplainRequest(request_id="r", agent_id="opus-1"))
    assert list(told.changes) == list(started.changes)
    assert any(each.name == "level" and "tinyllama" in each.detail for each in told.gates)


async def test_a_fallback_of_the_caller_goes_before_any_other_small_model(
    daemon: RunningDaemon,
) -> None:
    hold(daemon, Level.LEVEL_2)
    stream, started = await start(
        daemon,
        model="llama3:8b",
        fallback_models=["qwen3:8b", "talk"],
        substitution=pb.SUBSTITUTION_FALLBACKS,
    )
    assert started.model == "talk:latest"
    (await daemon.backend.calls.get()).complete()
    await read_until(stream, "done")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"substitution": pb.SUBSTITUTION_NEVER}, "allows no other"),
        ({"substitution": pb.SUBSTITUTION_FALLBACKS}, "none of its fallback_models"),
        ({"options": pb.Options(num_ctx=200_000)}, "num_ctx"),
    ],
)
async def test_who_forbids_another_model_is_refused_in_clear_words(
    daemon: RunningDaemon, changed: dict[str, Any], words: str
) -> None:
    hold(daemon, Level.LEVEL_2)
    refusal = await refused(daemon.inference.Generate(generate(model="llama3:8b", **changed)))
    assert words in refusal.message
    if "options" not in changed:
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.UNAVAILABLE,
            "SMALL_MODELS_ONLY",
        )
        assert refusal.retry_after_s is not None


async def test_vectors_are_never_those_of_another_model(daemon: RunningDaemon) -> None:
    hold(daemon, Level.LEVEL_2)
    refusal = await refused(daemon.inference.Embed(embed()))
    assert refusal.reason == "SMALL_MODELS_ONLY"
    assert "vectors of another model" in refusal.message
    hold(daemon, Level.LEVEL_1)
    answer = await daemon.inference.Embed(embed())
    assert answer.level == common_pb2.DEGRADATION_LEVEL_1
    assert list(answer.changes) == []


async def test_critical_serves_the_first_priorities_first_and_tells_the_others_why_they_wait(
    daemon: RunningDaemon,
) -> None:
    running, _ = await start(daemon)
    call = await daemon.backend.calls.get()
    ordinary = daemon.inference.Generate(generate(agent_id="opus-2"))
    await read_until(ordinary, "queued")
    hold(daemon, Level.CRITICAL)
    while (told := (await read_until(ordinary, "queued"))[-1].queued).reason != (
        common_pb2.WAIT_REASON_LEVEL
    ):
        pass
    assert "priority 3 and better goes first" in told.detail
    urgent = daemon.inference.Generate(generate(agent_id="opus-3", priority=3))
    await read_until(urgent, "queued")
    call.complete()
    await read_until(running, "done")
    await read_until(urgent, "started")
    (await daemon.backend.calls.get()).complete()
    await read_until(urgent, "done")
    await read_until(ordinary, "started")  # no memory is short: the slot would idle
    (await daemon.backend.calls.get()).complete()
    await read_until(ordinary, "done")


async def test_the_default_answer_at_the_critical_level(daemon: RunningDaemon) -> None:
    hold(daemon, Level.CRITICAL)
    stream = daemon.inference.Generate(generate(accept_default=True))
    events = await read_until(stream, "done")
    assert kinds(events)[-3:] == ["started", "chunk", "done"]
    assert text_of(events) == "later, please"
    started, done = events[-3].started, events[-1].done
    assert (started.model, started.level) == ("", common_pb2.DEGRADATION_LEVEL_CRITICAL)
    assert list(started.changes) == ["the operator's default answer, as the level is critical"]
    assert (done.cached, done.finish_reason) == (True, pb.FINISH_REASON_STOP)
    assert not daemon.backend.was_reached


async def test_who_waits_already_gets_the_default_answer_when_the_level_becomes_critical(
    daemon: RunningDaemon,
) -> None:
    running, _ = await start(daemon)
    waiting = daemon.inference.Generate(generate(agent_id="opus-2", accept_default=True))
    await read_until(waiting, "queued")
    hold(daemon, Level.CRITICAL)
    events = await read_until(waiting, "done")
    assert text_of(events) == "later, please"
    (await daemon.backend.calls.get()).complete()
    await read_until(running, "done")


async def test_what_waits_moves_to_a_small_model_and_back(daemon: RunningDaemon) -> None:
    running, _ = await start(daemon, model="llama3:8b")
    call = await daemon.backend.calls.get()
    waiting = daemon.inference.Generate(generate(agent_id="opus-2", model="llama3:8b"))
    await read_until(waiting, "queued")
    busy, _ = await start(daemon, agent_id="opus-3", model="tinyllama")
    small = await daemon.backend.calls.get()
    hold(daemon, Level.LEVEL_2)
    hold(daemon, Level.NORMAL)
    call.complete()
    await read_until(running, "done")
    started = (await read_until(waiting, "started"))[-1].started
    assert (started.model, started.substituted_for) == ("llama3:8b", "")
    small.complete()
    await read_until(busy, "done")
    (await daemon.backend.calls.get()).complete()
    await read_until(waiting, "done")
