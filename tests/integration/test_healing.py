"""A stream that falls silent, on a real loop: found by its own gap, its model cured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.effects import TellHealing
from broker.core.errors import BackendFrozen
from broker.core.healing import HealingPolicy, HealingStep
from broker.core.observer import Observer
from broker.runtime.pieces import Pieces
from broker.runtime.streams import Done
from tests.integration.shell import read, running_shell

SOON = HealingPolicy(gap_extra_ns=1_000_000)


class _Ear(Observer):
    def __init__(self) -> None:
        self.steps: list[HealingStep] = []

    def healing(self, told: TellHealing) -> None:
        self.steps.append(told.step)


async def test_a_frozen_stream_is_found_and_what_waits_is_served_by_a_fresh_model() -> None:
    ear = _Ear()
    async with running_shell(observer=ear) as shell:
        shell.driver.reconfigure(replace(shell.engine.policy, healing=SOON))
        frozen, waits = shell.submit("frozen"), shell.submit("waits", agent_id="agent-2")
        call = await shell.backend.calls.get()
        for number in range(10):
            call.say(f"word {number}")
        await read(frozen, Pieces)
        await call.ended.wait()
        assert call.aborted
        with pytest.raises(BackendFrozen, match="gave nothing for"):
            await read(frozen, Done)
        second = await shell.backend.calls.get()
        assert shell.backend.unloads == ["m:latest"]
        assert shell.backend.loads == ["m:latest", "m:latest"]
        second.complete()
        await read(waits, Done)
    assert ear.steps == [HealingStep.FROZEN, HealingStep.CURED]
