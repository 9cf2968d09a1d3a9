"""Clients that leave a simulated server in the middle of a write leave no word in its log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
from aiohttp import web

from broker.sim.ollama_catalogue import recorded_catalogue
from broker.sim.ollama_http import SimulatedOllama
from broker.sim.ollama_machine import ServerSettings
from broker.sim.ollama_pump import Clock, Pump
from broker.sim.openai_flavour import Flavour
from broker.sim.openai_http import Handler, OpenAiSettings, SimulatedOpenAi
from tests.integration.served_backend import PATIENCE_S

Routes = Mapping[str, Mapping[str, Handler]]


def ollama(routes: Routes) -> web.Application:
    clock, loop = Clock(1.0), asyncio.get_running_loop()
    pump = Pump(recorded_catalogue(), ServerSettings(), seed=1, clock=clock, loop=loop)
    return SimulatedOllama(pump, checks_host=False, extra_routes=routes).application()


def openai(routes: Routes) -> web.Application:
    settings = OpenAiSettings(flavour=Flavour.VLLM, models=())
    return SimulatedOpenAi(settings).application(routes)


@pytest.mark.parametrize("application", [ollama, openai], ids=["ollama", "openai"])
async def test_a_write_to_who_has_left_is_no_error(
    application: Callable[[Routes], web.Application], caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[BaseException] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"one")
        # As the loop finds it when the client has closed and this has not been cancelled yet.
        assert request.transport is not None
        request.transport.close()
        try:
            await response.write(b"two")
        except ConnectionResetError as failure:
            failures.append(failure)
            raise
        return response

    runner = web.AppRunner(application({"/answer": {"GET": answer}}), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
            writer.write(b"GET /answer HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b"one" in await reader.read()
            writer.close()
            await writer.wait_closed()
    finally:
        await runner.cleanup()
    assert len(failures) == 1
    assert caplog.records == []
