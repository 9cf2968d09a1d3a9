"""What a client does not take is not kept for ever, and calls at once are bounded."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from broker.api.grpc import server
from broker.config.resilience import FloodsConfig
from broker.config.schema import Config, LimitsConfig
from broker.config.serving import BackendConfig, PlacementConfig
from broker.daemon.engine_policy import staying_max
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    PATIENCE_S,
    RunningDaemon,
    read_until,
    refused,
    running_daemon,
    text_of,
)
from tests.integration.test_generate_rpc import SMALL_WINDOW, generate_on
from tests.integration.wire_requests import generate

IMPATIENT = Config(
    server=FREE_PORTS, limits=LimitsConfig(delivery_timeout_s=1), backends=(BACKEND,)
)
PIECES, LETTERS = 40, 20_000  # more than a small window takes, less than a stream may hold


def handlers() -> int:
    """Handlers of the server that run: each holds its request's answer."""
    return sum("broker.v1.Inference" in each.get_name() for each in asyncio.all_tasks())


async def complete_unread(daemon: RunningDaemon, call: Any) -> None:
    """The answer is whole; its client has read that it began and reads no more."""
    await read_until(call, "started")
    work = await daemon.backend.calls.get()
    for number in range(PIECES):
        work.say(f"{number:{LETTERS}}")
        await asyncio.sleep(0)
    work.complete()
    assert await daemon.outcomes() == {"completed": 1}


async def test_an_answer_that_nobody_reads_is_let_go() -> None:
    async with running_daemon(IMPATIENT) as daemon, daemon.open_channel(*SMALL_WINDOW) as far:
        stream = generate_on(far, generate())
        await complete_unread(daemon, stream)
        assert handlers() == 1
        async with asyncio.timeout(PATIENCE_S):
            while handlers():
                await daemon.get("/healthz")
        refusal = await refused(stream)
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "CLIENT_TOO_SLOW",
        )


async def test_a_reader_that_stands_still_loses_its_slot_and_others_lose_nothing() -> None:
    one_slot = BackendConfig(**{**BACKEND.model_dump(), "slots": 1})
    config = Config(
        server=FREE_PORTS,
        backends=(one_slot,),
        floods=FloodsConfig(client_stall_timeout_s=1),
        placement=PlacementConfig(slot_grace_ms=10),
    )
    async with running_daemon(config) as daemon, daemon.open_channel(*SMALL_WINDOW) as far:
        stalled = generate_on(far, generate(request_id="stalled"))
        await read_until(stalled, "started")
        work = await daemon.backend.calls.get()
        for number in range(PIECES):  # more than its window takes; it reads nothing of it
            work.say(f"{number:{LETTERS}}")
            await asyncio.sleep(0)
        waiting = daemon.inference.Generate(generate(agent_id="opus-2"))
        await read_until(waiting, "started")  # it has the one slot now
        assert work.aborted
        others = await daemon.backend.calls.get()
        others.complete()
        await read_until(waiting, "done")
        assert await daemon.outcomes() == {"completed": 1, "failed": 1}
        refusal = await refused(stalled)
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refusal.reason == "CLIENT_TOO_SLOW"
        assert "took nothing of its answer for 1 s while more of it waited" in refusal.message
        assert refusal.about["outcome"] == "failed"
        assert 0 < int(refusal.about["sent_pieces"]) < PIECES


async def test_a_reader_of_a_slow_backend_is_not_a_slow_reader() -> None:
    config = Config(
        server=FREE_PORTS, backends=(BACKEND,), floods=FloodsConfig(client_stall_timeout_s=1)
    )
    async with running_daemon(config) as daemon, daemon.open_channel(*SMALL_WINDOW) as far:
        patient = daemon.inference.Generate(generate())
        await read_until(patient, "started")
        work = await daemon.backend.calls.get()
        work.say("a")
        await read_until(patient, "chunk")
        stalled = generate_on(far, generate(agent_id="opus-2"))
        await read_until(stalled, "started")
        other = await daemon.backend.calls.get()
        for number in range(PIECES):
            other.say(f"{number:{LETTERS}}")
            await asyncio.sleep(0)
        await other.ended.wait()  # so the time is over for whoever stands still
        work.complete()
        await read_until(patient, "done")


async def test_an_answer_that_is_read_late_is_whole() -> None:
    async with running_daemon() as daemon, daemon.open_channel(*SMALL_WINDOW) as far:
        stream = generate_on(far, generate())
        await complete_unread(daemon, stream)
        events = await read_until(stream, "done")
        assert text_of(events) == "".join(f"{number:{LETTERS}}" for number in range(PIECES))
        assert await stream.code() is grpc.StatusCode.OK


async def test_more_calls_than_may_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = LimitsConfig(streams_max=1, queued_max=1)
    config = Config(server=FREE_PORTS, limits=limits, backends=(BACKEND,))
    monkeypatch.setattr(server, "CALLS_SPARE", -staying_max(config))
    async with running_daemon(config) as daemon, daemon.open_channel() as far:
        stream = daemon.inference.Generate(generate())
        await read_until(stream, "started")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await read_until(generate_on(far, generate(agent_id="opus-2")), "queued")
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        (await daemon.backend.calls.get()).complete()
        await read_until(stream, "done")
        async with asyncio.timeout(PATIENCE_S):
            while handlers():
                await daemon.get("/healthz")
        again = generate_on(far, generate(agent_id="opus-2"))
        await read_until(again, "started")
        (await daemon.backend.calls.get()).complete()
        await read_until(again, "done")
