"""What a request was made of goes with it: nothing waits for the collector of cycles, which is off
here, and which in a broker comes late for what has grown old."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import pytest_asyncio

from broker.config.schema import Config, ServerConfig
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    PATIENCE_S,
    QUICK,
    RunningDaemon,
    read_until,
    running_daemon,
)
from tests.integration.wire_requests import embed, generate

ONE_SLOT = BACKEND.model_copy(update={"slots": 1})
SHELL = ("broker.api.", "broker.runtime.", "broker.services.")
GRACE = ServerConfig(
    grpc_address=FREE_PORTS.grpc_address, http_address=FREE_PORTS.http_address, reconnect_grace_ms=1
)
Fate = Callable[[RunningDaemon], Coroutine[Any, Any, None]]


@pytest_asyncio.fixture(params=[FREE_PORTS, GRACE], ids=["at-once", "after-a-grace"])
async def daemon(request: pytest.FixtureRequest) -> AsyncIterator[RunningDaemon]:
    config = Config(server=request.param, backends=(ONE_SLOT,), **QUICK)
    async with running_daemon(config) as running:
        gc.collect()
        gc.disable()
        try:
            yield running
        finally:
            gc.enable()


def held() -> Counter[str]:
    """What there is in the shell, by its kind; the core remembers some requests that ended."""
    kinds = (type(each) for each in gc.get_objects())
    return Counter(each.__qualname__ for each in kinds if str(each.__module__).startswith(SHELL))


async def completed(daemon: RunningDaemon) -> None:
    stream = daemon.inference.Generate(generate())
    await read_until(stream, "started")
    work = await daemon.backend.calls.get()
    work.say("a", "b")
    work.complete()
    await read_until(stream, "done")


async def vectors(daemon: RunningDaemon) -> None:
    await daemon.inference.Embed(embed())


async def left_while_it_ran(daemon: RunningDaemon) -> None:
    stream = daemon.inference.Generate(generate())
    await read_until(stream, "started")
    work = await daemon.backend.calls.get()
    stream.cancel()
    async with asyncio.timeout(PATIENCE_S):
        await work.ended.wait()


async def left_while_it_waited(daemon: RunningDaemon) -> None:
    first = daemon.inference.Generate(generate())
    await read_until(first, "started")
    second = daemon.inference.Generate(generate(agent_id="opus-2"))
    await read_until(second, "queued")
    second.cancel()
    await daemon.until_status(lambda status: not status.queued)
    (await daemon.backend.calls.get()).complete()
    await read_until(first, "done")


@pytest.mark.parametrize(
    "fate",
    [completed, vectors, left_while_it_ran, left_while_it_waited],
    ids=lambda each: each.__name__,
)
async def test_nothing_of_a_request_is_left(daemon: RunningDaemon, fate: Fate) -> None:
    await fate(daemon)  # what is made once is there from now on
    await daemon.outcomes()
    gc.collect()
    before = held()
    for _ in range(3):
        await fate(daemon)
    await daemon.outcomes()
    async with asyncio.timeout(PATIENCE_S):
        while more := held() - before:
            await daemon.get("/healthz")
    assert not more
