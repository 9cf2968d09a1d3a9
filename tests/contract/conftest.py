"""The stages of the suite that every adapter passes: each server once for a module, its adapter
anew for every test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.contract.backend_stages import DIALECTS, Dialect, Stage
from tests.integration.ollama_sim_process import PATIENCE_S, Simulator


@pytest.fixture(scope="module", params=DIALECTS, ids=lambda each: each.name)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[Dialect, Simulator]]:
    dialect: Dialect = request.param
    simulator = dialect.start()
    yield dialect, simulator
    simulator.stop()


@pytest_asyncio.fixture
async def stage(server: tuple[Dialect, Simulator]) -> AsyncIterator[Stage]:
    dialect, simulator = server
    await simulator.reset()
    backend = dialect.adapter(f"127.0.0.1:{simulator.port}")
    try:
        async with asyncio.timeout(PATIENCE_S):
            await backend.models()
            await backend.load(dialect.speaker, num_ctx=None, keep_alive_s=600)
            yield Stage(dialect=dialect, simulator=simulator, backend=backend)
    finally:
        await backend.close()
    await simulator.wait_until("active", 0)
