"""What the shell does when it is told that a reader takes nothing of its answer."""

from __future__ import annotations

import pytest

from broker.core.errors import BrokerError, Cancelled, ClientTooSlow
from broker.core.requests import Outcome
from broker.runtime.driver import DriverLimits
from broker.runtime.streams import Done, Started, Subscription
from tests.integration.shell import read, running_shell

STALLS = ClientTooSlow("it reads nothing")
A_MINUTE = DriverLimits(reconnect_grace_ns=60_000_000_000)


async def error_of(reader: Subscription) -> BrokerError:
    with pytest.raises(BrokerError) as raised:
        async for _ in reader:
            pass
    return raised.value


@pytest.mark.parametrize("limits", [DriverLimits(), A_MINUTE])
async def test_a_running_request_ends_with_it_and_its_slot_serves_the_next(
    limits: DriverLimits,
) -> None:
    async with running_shell(limits=limits) as shell:
        slow = shell.submit("r1")
        await read(slow, Started)
        call = await shell.backend.calls.get()
        waits = shell.submit("r2")
        shell.driver.end_slow(slow, STALLS)
        shell.driver.leave(slow)
        await read(waits, Started)
        assert call.aborted
        assert slow.stream.outcome is Outcome.FAILED
        assert await error_of(slow) is STALLS
        (await shell.backend.calls.get()).complete()
        await read(waits, Done)


async def test_one_that_waits_is_cancelled() -> None:
    async with running_shell() as shell:
        runs = shell.submit("r1")
        await read(runs, Started)
        waits = shell.submit("r2")
        shell.driver.end_slow(waits, STALLS)
        assert isinstance(await error_of(waits), Cancelled)
        (await shell.backend.calls.get()).complete()
        await read(runs, Done)


async def test_a_request_that_a_newer_call_reads_is_not_touched() -> None:
    async with running_shell() as shell:
        older = shell.submit("r1")
        await read(older, Started)
        newer = shell.submit("r1")
        shell.driver.end_slow(older, STALLS)
        (await shell.backend.calls.get()).complete()
        assert isinstance(await read(newer, Done), Done)


async def test_one_that_has_ended_is_not_touched() -> None:
    async with running_shell() as shell:
        reader = shell.submit("r1")
        await read(reader, Started)
        (await shell.backend.calls.get()).complete()
        assert isinstance(await read(reader, Done), Done)
        shell.driver.end_slow(reader, STALLS)
        assert reader.stream.outcome is None  # it ended well
