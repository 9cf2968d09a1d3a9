"""A configuration read again by a broker that runs: by a signal, over the wire, while it leaves."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from broker.config.schema import Config, LimitsConfig
from broker.daemon.engine_policy import engine_policy
from broker_client.pb.broker.v1 import admin_pb2, admin_pb2_grpc, inference_pb2
from tests.e2e.processes import SERVER, BrokerProcess, brokerd
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    QUICK,
    read_until,
    refused,
    running_daemon,
)

STARTED_WITH = (
    SERVER
    + """
[limits]
queued_max = 100
[[backends]]
url = "127.0.0.1:1"  # nothing answers there
"""
)


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[BrokerProcess]:
    async with brokerd(STARTED_WITH, tmp_path) as running:
        yield running


async def queued_max(broker: BrokerProcess) -> int:
    return (await broker.until_status(lambda status: True)).queued_max


async def requests_per_minute(broker: BrokerProcess, agent_id: str) -> float | None:
    """What this agent may send, as it hears it itself; None: as much as it likes."""
    quota = await broker.inference.GetQuota(inference_pb2.GetQuotaRequest(agent_id=agent_id))
    rates = [each.per_minute for each in quota.buckets if each.name == "requests"]
    return rates[0] if rates else None


async def test_a_hangup_changes_what_can_change(broker: BrokerProcess, tmp_path: Path) -> None:
    assert await queued_max(broker) == 100
    assert await requests_per_minute(broker, "opus-1") == 10
    (tmp_path / "broker.toml").write_text(
        STARTED_WITH.replace("100", "200")
        + """
        slots = 2
        connect_timeout_ms = 100
        [agents]
        types = [{name = "system", match = ["system-*"], requests_per_minute = 7}]
        """
    )
    broker.tell(signal.SIGHUP)
    said = await broker.said("configuration reloaded")
    assert "limits.queued_max: 100 -> 200" in said["changed"]
    assert "backends.ollama.slots: 1 -> 2" in said["changed"]
    assert said["needs_restart"] == ["backends.ollama.connect_timeout_ms: 5000 -> 100"]
    assert await queued_max(broker) == 200
    assert await requests_per_minute(broker, "opus-1") == 7  # now of the default type


async def test_a_bad_file_changes_nothing_and_every_problem_is_named(
    broker: BrokerProcess, tmp_path: Path
) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(
        STARTED_WITH.replace("100", "200") + "slotz = 2\n[agents]\nrequests_per_minute = nan\n"
    )
    broker.tell(signal.SIGHUP)
    said = await broker.said("configuration not reloaded")
    assert said["problems"] == [
        f"{file}: agents.requests_per_minute: is nan; must be a finite number",
        f"{file}: backends[0].slotz: is no setting; did you mean slots?",
    ]
    assert said["level"] == "error"
    assert await queued_max(broker) == 100
    file.write_text(STARTED_WITH.replace("100", "300"))
    broker.tell(signal.SIGHUP)
    assert (await broker.said("configuration reloaded"))["changed"] == [
        "limits.queued_max: 100 -> 300"
    ]
    assert await queued_max(broker) == 300


async def test_an_operator_hears_over_the_wire_what_a_reload_came_to(
    broker: BrokerProcess, tmp_path: Path
) -> None:
    file = tmp_path / "broker.toml"
    assert broker.channel is not None
    admin = admin_pb2_grpc.AdminStub(broker.channel)
    nothing = await admin.Reload(admin_pb2.ReloadRequest())
    assert nothing == admin_pb2.ReloadResponse()
    file.write_text(STARTED_WITH.replace("100", "0"))
    refused = await admin.Reload(admin_pb2.ReloadRequest())
    assert refused == admin_pb2.ReloadResponse(
        problems=[f"{file}: limits.queued_max: is 0; must be at least 1"]
    )
    file.write_text(STARTED_WITH.replace("100", "101") + "kind = 'openai'\n")
    taken = await admin.Reload(admin_pb2.ReloadRequest())
    assert taken == admin_pb2.ReloadResponse(
        changed=["limits.queued_max: 100 -> 101"],
        needs_restart=['backends.ollama.kind: "ollama" -> "openai"'],
    )
    assert await queued_max(broker) == 101


async def test_a_reload_does_not_keep_a_broker_from_leaving() -> None:
    config = Config(server=FREE_PORTS, backends=(BACKEND,), **QUICK)
    request = inference_pb2.GenerateRequest(
        agent_id="opus-1", model="talk", prompt=inference_pb2.Prompt(text="go")
    )
    async with running_daemon(config) as daemon:
        running = daemon.inference.Generate(request)
        call = await daemon.backend.calls.get()
        await daemon.admin.Drain(admin_pb2.DrainRequest())
        other = config.model_copy(update={"limits": LimitsConfig(queued_max=7)})
        daemon.parts.driver.reconfigure(engine_policy(other))
        status = await daemon.until_status(lambda status: status.queued_max == 7)
        assert status.draining
        assert (await refused(daemon.inference.Generate(request))).reason == "DRAINING"
        call.complete()
        await read_until(running, "done")
        await daemon.parts.driver.wait_drained()
