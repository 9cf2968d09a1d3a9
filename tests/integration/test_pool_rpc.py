"""Several backends over the wire: one is drained and resumed, added and taken out by a reload,
while requests wait and run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from broker.config.schema import Config
from broker.config.serving import BackendConfig, ModelConfig
from broker.core.ports import Backend
from broker.daemon.engine_policy import engine_policy
from broker_client.pb.broker.v1 import admin_pb2 as pb
from broker_client.pb.broker.v1 import common_pb2, models_pb2
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
from tests.integration.wire_requests import generate

B = BACKEND.model_copy(update={"slots": 1})
C = BACKEND.model_copy(update={"name": "c", "url": "c:1", "slots": 1})


def config(*backends: BackendConfig, **more: Any) -> Config:
    return Config(server=FREE_PORTS, backends=backends, **QUICK, **more)


class Pool:
    """A daemon before backends b and c, of which the configuration names b first."""

    def __init__(self, daemon: RunningDaemon, others: dict[str, Backend]) -> None:
        self.daemon = daemon
        self.others = others

    def reload(self, wanted: Config) -> None:
        """As the daemon does it."""
        self.daemon.parts.pooling.check(wanted)
        self.daemon.parts.driver.reconfigure(engine_policy(wanted))
        self.daemon.parts.pooling.apply(wanted)

    async def runs(self, agent_id: str = "opus-1") -> tuple[Any, str]:
        """(stream, backend) of a request that has been started."""
        stream = self.daemon.inference.Generate(generate(agent_id=agent_id))
        return stream, (await read_until(stream, "started"))[-1].started.backend

    async def status(self, name: str) -> pb.BackendStatus | None:
        status = await self.daemon.admin.GetStatus(pb.GetStatusRequest())
        return next((each for each in status.backends if each.name == name), None)


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[Pool]:
    led = LedBackend()
    stand_ins: dict[str, Backend] = {"b": led, "c": LedBackend(name="c")}
    async with running_daemon(config(B), led, others=stand_ins) as daemon:
        yield Pool(daemon, stand_ins)


async def test_a_new_backend_is_asked_and_gets_work(pool: Pool) -> None:
    """As soon as more waits than the others have slots for: a model is loaded twice only then."""
    await pool.runs()
    second = pool.daemon.inference.Generate(generate(agent_id="opus-2"))
    third = pool.daemon.inference.Generate(generate(agent_id="opus-3"))
    await read_until(second, "queued")
    await read_until(third, "queued")
    pool.reload(config(B, C))
    assert (await read_until(second, "started"))[-1].started.backend == "c"
    led = pool.others["c"]
    assert isinstance(led, LedBackend)
    (await led.calls.get()).complete()
    await read_until(second, "done")
    assert (await read_until(third, "started"))[-1].started.backend == "c"


async def test_one_that_is_taken_out_ends_its_work_and_what_waits_goes_elsewhere(
    pool: Pool,
) -> None:
    first, _ = await pool.runs()
    waits = pool.daemon.inference.Generate(generate(agent_id="opus-2"))
    await read_until(waits, "queued")
    pool.reload(config(C))
    assert (await read_until(waits, "started"))[-1].started.backend == "c"
    left = await pool.status("b")
    assert left is not None
    assert (left.draining, left.running) == (True, 1)
    (await pool.daemon.backend.calls.get()).complete()
    await read_until(first, "done")
    await pool.daemon.until_status(lambda status: [x.name for x in status.backends] == ["c"])
    led = pool.others["c"]
    assert isinstance(led, LedBackend)
    (await led.calls.get()).complete()
    await read_until(waits, "done")
    while not pool.daemon.backend.closed:
        await pool.status("c")
    assert await pool.daemon.outcomes() == {"completed": 2}


async def test_slots_that_a_reload_adds_are_used_at_once(pool: Pool) -> None:
    await pool.runs()
    waits = pool.daemon.inference.Generate(generate(agent_id="opus-2"))
    await read_until(waits, "queued")
    pool.reload(config(B.model_copy(update={"slots": 2})))
    assert (await read_until(waits, "started"))[-1].started.backend == "b"


async def test_a_drained_backend_ends_its_work_and_gets_none_until_it_is_resumed(
    pool: Pool,
) -> None:
    first, _ = await pool.runs()
    waits = pool.daemon.inference.Generate(generate(agent_id="opus-2"))
    await read_until(waits, "queued")
    told = await pool.daemon.admin.Drain(pb.DrainRequest(backend="b"))
    assert (told.queued, told.running, told.timeout_ms) == (1, 1, 0)
    (await pool.daemon.backend.calls.get()).complete()
    await read_until(first, "done")
    reasons = [each.queued.reason for each in await read_until(waits, "queued")]
    assert reasons[-1] == common_pb2.WAIT_REASON_BACKEND_DRAINS
    drained = await pool.status("b")
    assert drained is not None
    assert (drained.draining, drained.running) == (True, 0)
    await pool.daemon.admin.Resume(pb.ResumeRequest(backend="b"))
    assert (await read_until(waits, "started"))[-1].started.backend == "b"
    (await pool.daemon.backend.calls.get()).complete()
    await read_until(waits, "done")


@pytest.mark.parametrize("call", ["Drain", "Resume"])
async def test_a_backend_that_is_not_there_is_refused_with_the_nearest(
    pool: Pool, call: str
) -> None:
    request = pb.DrainRequest(backend="bb") if call == "Drain" else pb.ResumeRequest(backend="bb")
    refusal = await refused(getattr(pool.daemon.admin, call)(request))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "BACKEND_NOT_FOUND")
    assert "nearest: b" in refusal.message


async def test_a_model_is_only_where_its_tags_let_it_be() -> None:
    backends = (B, C.model_copy(update={"tags": ("large",)}))
    models = {"qwen3:8b": ModelConfig(backend_tags=("large",))}
    led, other = LedBackend(), LedBackend(name="c")
    wanted = config(*backends, models=models)
    async with running_daemon(wanted, led, others={"c": other}) as daemon:
        found = await daemon.models.Get(models_pb2.GetRequest(name="qwen3:8b"))
        assert [each.backend for each in found.model.places] == ["c"]
        stream = daemon.inference.Generate(generate(model="qwen3:8b"))
        assert (await read_until(stream, "started"))[-1].started.backend == "c"
        (await other.calls.get()).complete()
        await read_until(stream, "done")
