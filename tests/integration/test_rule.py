"""A daemon that is given a rule asks that one which model to load; no configuration names one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from broker.config.schema import Config
from broker.core.demands import Demand, View
from broker.core.residency import Residency
from tests.integration.daemon import BACKEND, FREE_PORTS, PATIENCE_S, QUICK, running_daemon
from tests.integration.wire_requests import generate


class OnlyTalk:
    """Loads nothing but one model, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.wanted: set[str] = set()
        self.wanted_both = asyncio.Event()

    def rank(self, view: View, demands: Sequence[Demand]) -> list[Demand]:
        self.wanted |= {each.runner for each in demands}
        if len(self.wanted) > 1:
            self.wanted_both.set()
        return [each for each in demands if each.runner == "blob-talk:latest"]

    def leaving(
        self, view: View, target: Demand, candidates: Sequence[Residency]
    ) -> list[Residency]:
        return []


async def test_what_is_loaded_is_the_rules_to_say() -> None:
    rule = OnlyTalk()
    config = Config(server=FREE_PORTS, backends=(BACKEND,), **QUICK)
    async with running_daemon(config, rule=rule) as daemon:
        refused = daemon.inference.Generate(generate(model="qwen3:8b", request_id="never"))
        await refused.read()
        served = daemon.inference.Generate(generate(model="talk", request_id="served"))
        await served.read()
        async with asyncio.timeout(PATIENCE_S):
            await rule.wanted_both.wait()
            call = await daemon.backend.calls.get()
        assert call.model == "talk:latest"
        assert daemon.backend.loads == ["talk:latest"]
        assert rule.wanted == {"blob-talk:latest", "blob-qwen3:8b"}
        call.complete()
        refused.cancel()
