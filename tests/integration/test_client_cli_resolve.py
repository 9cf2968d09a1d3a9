"""brokerctl's ways to have a model chosen, against a scripted broker over a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest_asyncio

from broker_client.pb.broker.v1 import models_pb2
from tests.integration.scripted_broker import ScriptedBroker, answer, serving
from tests.integration.test_client_cli import brokerctl


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with serving() as scripted:
        yield scripted


async def test_which_model_would_answer_is_said_first_and_then_why(
    broker: ScriptedBroker,
) -> None:
    result = await brokerctl(broker, "models", "resolve", "fast")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "a:latest",
        "  because: a:latest: the soonest answer of 2 that fit, resident on gpu0",
        "  else: b:latest",
        "  not c:latest: lacks tools",
    ]
    assert broker.resolves == [models_pb2.ResolveRequest(model="fast")]


async def test_programs_read_the_same(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "models", "resolve", "fast", "--json")
    told = json.loads(result.stdout)
    assert (told["model"], told["rejected"]) == (
        "a:latest",
        [{"name": "c:latest", "because": "lacks tools"}],
    )


async def test_what_a_model_must_be_is_said_with_options(broker: ScriptedBroker) -> None:
    options = ("--need", "tools", "--need", "vision", "--prefer", "small", "--context", "8192")
    sizes = ("--max-size", "10GB", "--max-memory", "12.5GB")
    result = await brokerctl(broker, "models", "resolve", *options, *sizes)
    assert result.exit_code == 0, result.output
    wanted = models_pb2.ModelRequirements(
        capabilities=["tools", "vision"],
        context_min=8192,
        size_bytes_max=10_000_000_000,
        memory_bytes_max=12_500_000_000,
        prefer="small",
    )
    assert broker.resolves == [models_pb2.ResolveRequest(requirements=wanted)]


async def test_one_of_both_must_be_said(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "models", "resolve")
    assert result.exit_code == 2
    assert "no NAME; give a model, an alias, or what it must be" in result.stderr
    assert broker.resolves == []


async def test_a_name_that_means_nothing_is_said_with_the_next_step(
    broker: ScriptedBroker,
) -> None:
    result = await brokerctl(broker, "models", "resolve", "z")
    assert result.exit_code == 1
    assert "`brokerctl models` lists the models there are" in result.stderr


async def test_a_prompt_asks_by_requirements_and_names_no_model(broker: ScriptedBroker) -> None:
    broker.script.append(answer)
    result = await brokerctl(broker, "generate", "why?", "--need", "tools")
    assert result.exit_code == 0, result.output
    [asked] = broker.requests
    assert (asked.model, list(asked.requirements.capabilities)) == ("", ["tools"])


async def test_a_prompt_names_an_alias_and_what_it_must_be_besides(
    broker: ScriptedBroker,
) -> None:
    broker.script.append(answer)
    await brokerctl(broker, "generate", "why?", "--model", "fast", "--prefer", "large")
    [asked] = broker.requests
    assert (asked.model, asked.requirements.prefer) == ("fast", "large")


async def test_a_prompt_without_requirements_sends_none(broker: ScriptedBroker) -> None:
    broker.script.append(answer)
    await brokerctl(broker, "generate", "why?", "--model", "tiny")
    assert not broker.requests[0].HasField("requirements")
