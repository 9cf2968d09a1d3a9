"""brokerctl's levers against a scripted broker over a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from broker_client.pb.broker.v1 import admin_pb2
from tests.integration.scripted_broker import ScriptedBroker, serving
from tests.integration.test_client_cli import brokerctl

Scope = admin_pb2.Scope


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with serving() as scripted:
        yield scripted


async def test_a_boost_says_what_holds_and_how_to_end_it(broker: ScriptedBroker) -> None:
    factors = ("--weight", "2", "--rate", "0.5", "--priority-best", "1")
    result = await brokerctl(broker, "boost", "opus-1", *factors)
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "agent opus-1 is boosted until `brokerctl resume opus-1`: "
        "weight x 2, rates x 0.5, priorities from 1 on\n"
    )
    assert broker.levers == [
        admin_pb2.BoostRequest(
            scope=Scope(agent_id="opus-1"), weight_factor=2, rate_factor=0.5, priority_best=1
        )
    ]


async def test_a_boost_of_a_type_for_a_while_says_nothing_that_was_not_asked(
    broker: ScriptedBroker,
) -> None:
    result = await brokerctl(broker, "boost", "--type", "opus", "--weight", "3", "--for", "10m")
    assert result.stdout == (
        "every agent of type opus is boosted for 10 min 0 s (3 agents known now): weight x 3\n"
    )
    asked = admin_pb2.BoostRequest(scope=Scope(agent_type="opus"), weight_factor=3, for_ms=600_000)
    assert broker.levers == [asked]


async def test_a_block_leaves_or_cancels_what_waits(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "block", "opus-1", "--for", "90s")
    assert result.stdout == (
        "agent opus-1 is blocked for 1 min 30 s: "
        "new requests are refused, what waits or runs goes on\n"
    )
    result = await brokerctl(broker, "block", "opus-1", "--cancel-waiting")
    assert "what waits is cancelled, what runs goes on" in result.stdout
    assert [(each.for_ms, each.cancel_waiting) for each in broker.levers] == [
        (90_000, False),
        (0, True),
    ]


async def test_a_backend_is_drained_and_resumed(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "drain", "--backend", "gpu0")
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "backend gpu0 gets no new work until `brokerctl resume --backend gpu0`; "
        "2 requests running on it may end; 1 request waits until then, as no other backend has "
        "the model\n"
    )
    result = await brokerctl(broker, "resume", "--backend", "gpu0")
    assert result.stdout == "backend gpu0 gets work again\n"
    assert broker.levers == [
        admin_pb2.DrainRequest(backend="gpu0"),
        admin_pb2.ResumeRequest(backend="gpu0"),
    ]
    as_json = [
        json.loads((await brokerctl(broker, name, "--backend", "gpu0", "--json")).stdout)
        for name in ("drain", "resume")
    ]
    assert as_json == [{"queued": 1, "running": 2, "timeout_ms": 0}, {"backend": "gpu0"}]
    for name in ("drain", "resume"):
        result = await brokerctl(broker, name, "--backend", "absent")
        assert result.exit_code == 1
        assert "`brokerctl status` lists the backends" in result.stderr


async def test_everybody_is_paused_and_resumed_only_by_name(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "pause", "--all")
    assert result.stdout == (
        "every agent is paused until `brokerctl resume --all` (3 agents known now): "
        "requests wait and none is started, what runs goes on\n"
    )
    result = await brokerctl(broker, "resume", "--all")
    assert result.stdout == (
        "no pause of everybody holds any more (3 agents known now); "
        "one of an agent or a type still may\n"
    )
    assert broker.levers == [admin_pb2.PauseRequest(), admin_pb2.ResumeRequest()]
    result = await brokerctl(broker, "resume", "opus-1")
    assert result.stdout == (
        "no boost, block or pause of agent opus-1 alone holds any more; "
        "one of its type or of everybody still may\n"
    )
    result = await brokerctl(broker, "resume", "--type", "opus")
    assert result.stdout == (
        "no boost, block or pause of type opus as a whole holds any more (3 agents known now); "
        "one of an agent or of everybody still may\n"
    )
    document = json.loads((await brokerctl(broker, "resume", "opus-1", "--json")).stdout)
    assert document == {"agent_id": "opus-1", "agent_type": "", "for_s": None, "agents": 1}


@pytest.mark.parametrize(
    "arguments",
    [
        ("boost", "--weight", "2"),
        ("boost", "opus-1", "--type", "opus", "--weight", "2"),
        ("boost", "opus-1"),
        ("boost", "opus-1", "--weight", "0"),
        ("boost", "opus-1", "--weight", "-1"),
        ("boost", "opus-1", "--rate", "101"),
        ("boost", "opus-1", "--rate", "much"),
        ("boost", "opus-1", "--priority-best", "0"),
        ("boost", "opus-1", "--priority-best", "11"),
        ("boost", "opus-1", "--weight", "2", "--for", "90"),
        ("block",),
        ("block", ""),
        ("block", "opus-1", "--for", "0s"),
        ("block", "opus-1", "--for", "-5m"),
        ("block", "opus-1", "--for", "31d"),
        ("block", "opus-1", "--for", "soon"),
        ("pause",),
        ("pause", ""),
        ("pause", "opus-1", "--all"),
        ("pause", "--type", "opus", "--all"),
        ("resume",),
        ("resume", "opus-1", "--type", "opus"),
        ("cancel",),
        ("explain",),
        ("quota",),
    ],
    ids=" ".join,
)
async def test_wrong_use_reaches_no_broker(
    broker: ScriptedBroker, arguments: tuple[str, ...]
) -> None:
    result = await brokerctl(broker, *arguments)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert broker.levers == []


@pytest.mark.parametrize("command", [("boost", "--weight", "2"), ("block",), ("pause",)])
async def test_an_agent_that_is_not_known_is_told_with_a_next_step(
    broker: ScriptedBroker, command: tuple[str, ...]
) -> None:
    result = await brokerctl(broker, *command, "absent")
    assert result.exit_code == 1
    said = "brokerctl: AGENT_NOT_FOUND; `brokerctl agents` lists those that are known\n"
    assert result.stderr == said


async def test_a_request_of_any_agent_is_cancelled(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "cancel", "known")
    assert result.stdout == "request known of agent opus-1 was queued; it is cancelled\n"
    named = await brokerctl(broker, "cancel", "known", "--agent", "opus-7", "--json")
    assert json.loads(named.stdout) == {"agent_id": "opus-7", "state": "queued"}
    absent = await brokerctl(broker, "cancel", "gone")
    assert absent.exit_code == 1
    assert "`brokerctl status --requests 100` lists what is under way" in absent.stderr


async def test_the_agents_of_all_pages(broker: ScriptedBroker) -> None:
    table = await brokerctl(broker, "agents")
    assert [name in table.stdout for name in ("opus-1", "opus-2", "boosted", "9.5")] == [True] * 4
    document = json.loads((await brokerctl(broker, "agents", "--json")).stdout)
    assert [(each["agent_id"], each["requests_left"]) for each in document] == [
        ("opus-1", 9.5),
        ("opus-2", None),
    ]


async def test_a_quota_on_a_page(broker: ScriptedBroker) -> None:
    page = (await brokerctl(broker, "quota", "opus-9")).stdout
    assert page.startswith(
        "agent opus-9 of type opus: 1 request of at most 100 waiting, 0 running\n"
        "weight 2, priorities from 3 on, may not call itself critical\n"
        "compartment opus: 4 of at most 10 running\n"
        "paused: its requests wait, and none is started\n"
    )
    assert "in 4.5 s" in page
    document = json.loads((await brokerctl(broker, "quota", "opus-9", "--json")).stdout)
    assert document["buckets"][0]["left"] == 0.25


async def test_the_story_of_a_request_on_a_page(broker: ScriptedBroker) -> None:
    result = await brokerctl(broker, "explain", "known")
    assert result.stdout == (
        "request known of agent opus-1 waits at position 2: 10 of 10 in opus run\n"
        "  model tiny:latest, priority 5, compartment opus\n"
        "  came 1.5 s ago\n"
        "gates on its way in:\n"
        "  passed   request bucket  9 of 10 left\n"
        "overtaken by 3 requests that came later and started earlier, by this rule:\n"
        "  3  a bulkhead (lately other of opus-2)\n"
    )
    as_json = await brokerctl(broker, "explain", "known", "--agent", "opus-3", "--json")
    document = json.loads(as_json.stdout)
    assert (document["agent_id"], document["wait_reason"]) == ("opus-3", "bulkhead")
    assert document["overtakings"][0]["examples"][0]["request_id"] == "other"


async def test_a_reload_says_what_holds_now_and_what_not_yet(broker: ScriptedBroker) -> None:
    broker.reloaded = admin_pb2.ReloadResponse(
        changed=["limits.queued_max: 1000 -> 2000"], needs_restart=["server.grpc_address"]
    )
    result = await brokerctl(broker, "reload")
    assert result.exit_code == 0
    assert result.stdout == (
        "limits.queued_max: 1000 -> 2000\nonly after a restart: server.grpc_address\n"
    )
    broker.reloaded = admin_pb2.ReloadResponse()
    assert (await brokerctl(broker, "reload")).stdout == "the configuration is as it was\n"


async def test_a_file_that_is_not_good_changes_nothing_and_says_why(broker: ScriptedBroker) -> None:
    broker.reloaded = admin_pb2.ReloadResponse(problems=["broker.toml:3: limits.queued_max: no"])
    result = await brokerctl(broker, "reload")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "broker.toml:3: limits.queued_max: no\n"
        "brokerctl: nothing was changed; correct the file and reload again\n"
    )
    as_json = await brokerctl(broker, "reload", "--json")
    assert as_json.exit_code == 1
    assert len(json.loads(as_json.stdout)["problems"]) == 1
