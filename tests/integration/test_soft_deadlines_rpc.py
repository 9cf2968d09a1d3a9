"""Soft deadlines on the wire: what a client may say, and what it hears of it."""

from __future__ import annotations

import asyncio

import pytest

from broker.config.schema import Config, LimitsConfig
from broker_client import AsyncClient
from broker_client.pb.broker.v1 import admin_pb2
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    QUICK,
    read_until,
    refused,
    running_daemon,
)
from tests.integration.wire_requests import embed, generate

CONFIG = Config(
    server=FREE_PORTS,
    backends=(BACKEND,),
    limits=LimitsConfig(deadline_max_s=3600),
    **QUICK,
)
LONG_MS = 3_600_000


@pytest.mark.parametrize(("soft_ms", "is_met"), [(LONG_MS, True), (1, False)])
async def test_done_says_whether_it_was_met(soft_ms: int, is_met: bool) -> None:
    async with running_daemon(CONFIG) as daemon:
        request = generate(request_id="r", soft_deadline_ms=soft_ms)
        stream = daemon.inference.Generate(request)
        await read_until(stream, "started")
        call = await daemon.backend.calls.get()
        asked = admin_pb2.ExplainRequest(request_id="r")
        while not is_met:  # until it knows that it is late
            told = await daemon.admin.Explain(asked)
            if told.soft_deadline.HasField("met"):
                assert not told.soft_deadline.met
                break
        call.complete()
        done = (await read_until(stream, "done"))[-1].done
        assert done.HasField("soft_deadline_met")
        assert done.soft_deadline_met is is_met
        told = await daemon.admin.Explain(asked)
        assert 0 < told.soft_deadline.within_ms <= soft_ms
        assert told.soft_deadline.met is is_met


async def test_who_says_nothing_hears_nothing() -> None:
    async with running_daemon(CONFIG) as daemon:
        stream = daemon.inference.Generate(generate(request_id="r"))
        await read_until(stream, "started")
        (await daemon.backend.calls.get()).complete()
        done = (await read_until(stream, "done"))[-1].done
        assert not done.HasField("soft_deadline_met")
        told = await daemon.admin.Explain(admin_pb2.ExplainRequest(request_id="r"))
        assert not told.HasField("soft_deadline")
        assert not (await daemon.inference.Embed(embed())).HasField("soft_deadline_met")


async def test_vectors_have_one_too() -> None:
    async with running_daemon(CONFIG) as daemon:
        answer = await daemon.inference.Embed(embed(soft_deadline_ms=LONG_MS))
        assert answer.HasField("soft_deadline_met")
        assert answer.soft_deadline_met


async def test_none_is_longer_than_any_deadline() -> None:
    async with running_daemon(CONFIG) as daemon:
        for soft_ms in (0, -1, LONG_MS + 1):
            refusal = await refused(daemon.inference.Generate(generate(soft_deadline_ms=soft_ms)))
            assert refusal.reason == "INVALID_FIELD"
            problem = f"is {soft_ms}; must be 1 to {LONG_MS}"
            assert refusal.violations == {"soft_deadline_ms": problem}


async def test_the_client_passes_it_on_and_says_what_came_of_it() -> None:
    async with (
        running_daemon(CONFIG) as daemon,
        AsyncClient(f"127.0.0.1:{daemon.port}", agent_id="opus-1") as client,
    ):
        asked = asyncio.create_task(
            client.generate(model="talk", prompt="hello", soft_deadline_s=60)
        )
        (await daemon.backend.calls.get()).complete()
        assert (await asked).soft_deadline_met
        vectors = await client.embed(model="embed", inputs=["a"], soft_deadline_s=60)
        assert vectors.soft_deadline_met
