"""Aliases and requirements over the wire: which model answers, and what is said of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import pytest
import pytest_asyncio

from broker.config.aliases import AliasConfig
from broker.config.schema import Config
from broker_client import AsyncClient, Client, NoModelFits, Requirements
from broker_client.pb.broker.v1 import admin_pb2, models_pb2
from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    QUICK,
    LedBackend,
    RunningDaemon,
    read_until,
    refused,
    running_daemon,
)
from tests.integration.wire_requests import embed, generate

GB = 1_000_000_000
CAPABILITIES = {
    "talk:latest": frozenset({"completion", "tools"}),
    "llama3:8b": frozenset({"completion"}),
    "tiny:latest": frozenset({"completion"}),
    "embed:latest": frozenset({"embedding"}),
    "llama-guard3:1b": frozenset({"completion"}),
}
SIZES = {
    "talk:latest": 9,
    "llama3:8b": 5,
    "tiny:latest": 1,
    "embed:latest": 1,
    "llama-guard3:1b": 1,
}


def sized() -> LedBackend:
    backend = LedBackend(CAPABILITIES)
    backend.facts = tuple(replace(each, size_bytes=SIZES[each.name] * GB) for each in backend.facts)
    return backend


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[RunningDaemon]:
    config = Config(
        server=FREE_PORTS,
        backends=(BACKEND,),
        aliases={"coder": AliasConfig(models=("qwen3-coder:30b", "llama3:8b", "talk"))},
        **QUICK,
    )
    async with running_daemon(config, sized()) as running:
        yield running


async def answered(daemon: RunningDaemon, request: pb.GenerateRequest) -> pb.Started:
    """The request is answered; what was told when it started."""
    call = daemon.inference.Generate(request)
    events = await read_until(call, "started")
    (await daemon.backend.calls.get()).complete()
    await read_until(call, "done")
    return events[-1].started


async def test_an_alias_is_answered_by_what_it_means(daemon: RunningDaemon) -> None:
    small = await answered(daemon, generate(model="small"))
    assert (small.model, small.substituted_for, list(small.changes)) == ("tiny:latest", "", [])
    assert small.chosen_because.startswith("tiny:latest: the smallest of 3 that fit")
    coder = await answered(daemon, generate(model="coder"))
    assert coder.model == "llama3:8b"
    assert coder.chosen_because.endswith("qwen3-coder:30b is on no backend")


async def test_requirements_choose_where_no_model_is_named(daemon: RunningDaemon) -> None:
    request = generate(requirements=models_pb2.ModelRequirements(capabilities=["tools"]))
    request.model = ""
    assert (await answered(daemon, request)).model == "talk:latest"
    large = generate(
        requirements=models_pb2.ModelRequirements(prefer="large", size_bytes_max=5 * GB)
    )
    large.model = ""
    assert (await answered(daemon, large)).model == "llama3:8b"


async def test_a_named_model_is_told_no_reason(daemon: RunningDaemon) -> None:
    assert (await answered(daemon, generate(model="talk"))).chosen_because == ""


async def test_an_embedding_gets_what_embeds(daemon: RunningDaemon) -> None:
    request = embed(requirements=models_pb2.ModelRequirements(prefer="small"))
    request.model = ""
    answer = await daemon.inference.Embed(request)
    assert answer.model == "embed:latest"
    assert answer.chosen_because.startswith("embed:latest: the only one that fits")


async def test_what_nothing_is_is_refused_with_the_nearest(daemon: RunningDaemon) -> None:
    request = generate(requirements=models_pb2.ModelRequirements(capabilities=["vision"]))
    request.model = ""
    refusal = await refused(daemon.inference.Generate(request))
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "NO_MODEL_FITS",
    )
    assert refusal.about["nearest"] == "llama3:8b,talk:latest,tiny:latest"
    assert "llama3:8b lacks vision" in refusal.message
    assert not daemon.backend.was_reached


async def test_a_capability_that_is_missing_names_who_has_it(daemon: RunningDaemon) -> None:
    request = generate(
        model="tiny", requirements=models_pb2.ModelRequirements(capabilities=["tools"])
    )
    refusal = await refused(daemon.inference.Generate(request))
    assert (refusal.reason, refusal.about["nearest"]) == ("CAPABILITY_MISSING", "talk:latest")
    assert not daemon.backend.was_reached


async def test_resolve_says_what_would_answer_and_why_not_the_others(daemon: RunningDaemon) -> None:
    answer = await daemon.models.Resolve(models_pb2.ResolveRequest(model="small"))
    assert (answer.model, list(answer.alternatives)) == (
        "tiny:latest",
        ["llama3:8b", "talk:latest"],
    )
    assert {each.name: each.because for each in answer.rejected} == {
        "embed:latest": "lacks completion",
        "llama-guard3:1b": "judges texts and answers none",
    }
    unknown = await refused(daemon.models.Resolve(models_pb2.ResolveRequest(model="coddr")))
    assert unknown.reason == "MODEL_UNKNOWN"


async def test_explain_tells_why_it_was_chosen(daemon: RunningDaemon) -> None:
    await answered(daemon, generate(model="small", request_id="why"))
    story = await daemon.admin.Explain(admin_pb2.ExplainRequest(request_id="why"))
    assert story.model == "small"
    assert story.chosen_because.startswith("tiny:latest: the smallest")


async def test_what_was_chosen_is_counted(daemon: RunningDaemon) -> None:
    await answered(daemon, generate(model="Small"))
    _, metrics = await daemon.get("/metrics")
    line = 'broker_requests_chosen_total{asked="small",model="tiny:latest"} 1.0'
    assert line in metrics.splitlines()


async def test_who_names_no_model_may_prefer_what_is_loaded(daemon: RunningDaemon) -> None:
    await answered(daemon, generate(model="llama3:8b"))
    wants = models_pb2.ModelRequirements(prefer="small")
    request = generate(requirements=wants, prefer_loaded=True)
    request.model = ""
    assert (await answered(daemon, request)).model == "llama3:8b"
    refusal = await refused(daemon.inference.Generate(generate(prefer_loaded=True)))
    assert "prefer_loaded" in refusal.violations


async def test_the_same_requirements_are_the_same_request(daemon: RunningDaemon) -> None:
    """Others under the same id are another request."""
    wants = models_pb2.ModelRequirements(prefer="small")
    first = daemon.inference.Generate(generate(model="small", request_id="x"))
    await read_until(first, "started")
    other = generate(model="small", request_id="x", requirements=wants)
    assert (await refused(daemon.inference.Generate(other))).reason == "REQUEST_ID_IN_USE"
    again = daemon.inference.Generate(generate(model="small", request_id="x"))
    await read_until(again, "started")
    (await daemon.backend.calls.get()).complete()
    await read_until(again, "done")


async def test_clients_resolve_and_ask_by_requirements(daemon: RunningDaemon) -> None:
    async with AsyncClient(f"127.0.0.1:{daemon.port}", agent_id="opus-1") as client:
        found = await client.resolve("coder")
        assert (found.model, found.rejected[0].name) == ("llama3:8b", "qwen3-coder:30b")
        tools = Requirements(capabilities=["tools"])
        assert (await client.resolve(requirements=tools)).model == "talk:latest"
        with pytest.raises(NoModelFits, match="lacks vision"):
            await client.resolve(requirements=Requirements(capabilities=["vision"]))
        result = await client.embed(inputs=["a"], requirements=Requirements())
        assert result.model == "embed:latest"
        assert result.chosen_because
        names = [each.name for each in await client.available(capabilities=["completion"])]
        assert names == ["llama3:8b", "talk:latest", "tiny:latest"]
        fits = await client.available(capabilities=["completion"], max_memory=7 * GB)
        assert [each.name for each in fits] == ["llama3:8b", "tiny:latest"]
        named = await client.available(include_dynamic=False)  # by an alias
        assert [each.name for each in named] == ["llama3:8b", "talk:latest"]


def test_a_request_without_a_model_must_say_what_it_wants() -> None:
    with Client("127.0.0.1:1", agent_id="a") as client:
        with pytest.raises(TypeError, match="a model or an alias, or requirements"):
            client.stream(prompt="hi")
        with pytest.raises(TypeError, match="not one word"):
            client.stream(prompt="hi", requirements=Requirements(capabilities="tools"))
