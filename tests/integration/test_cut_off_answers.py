"""An answer that is cut off is not free: its agent pays for the pieces that came."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.core.agent_policy import AgentsPolicy, AgentTypePolicy, BucketPolicy
from broker.core.errors import BackendFailed, ClientTooSlow, TokenQuotaExceeded
from broker.runtime.driver import DriverLimits
from broker.runtime.streams import Subscription
from tests.integration.fake_backend import FakeCall
from tests.integration.shell import Shell, running_shell

BURST = 1000.0
PIECES = 900
# Nothing worth counting comes while a test runs.
METERED = AgentsPolicy(
    types=(
        AgentTypePolicy(
            name="any", match=("*",), tokens=BucketPolicy(per_minute=0.001, burst=BURST)
        ),
    ),
    default_type="any",
)

CutOff = Callable[[Shell, Subscription, FakeCall], object]


def _too_slow(shell: Shell, reader: Subscription, call: FakeCall) -> None:
    with pytest.raises(ClientTooSlow) as slow:
        call.say("y" * 10_000)
    call.fail(slow.value)  # as a real backend call passes it on


WAYS: dict[str, CutOff] = {
    "its client leaves": lambda shell, reader, call: shell.driver.leave(reader),
    "its agent cancels": lambda shell, reader, call: shell.driver.cancel(reader.stream.key),
    "the broker stops": lambda shell, reader, call: shell.driver.drain(1),
    "the backend fails": lambda shell, reader, call: call.fail(BackendFailed("the runner died")),
    "its client is too slow": _too_slow,
}


def _paid(shell: Shell) -> tuple[int, float]:
    """(what fairness counts the agent as having had, what is left of its tokens)."""
    (agent,) = shell.driver.agents()
    (bucket,) = shell.driver.quota(agent.agent_id).buckets
    return agent.served_cost, bucket.left


@pytest.mark.parametrize("cut_off", WAYS.values(), ids=WAYS)
async def test_who_is_cut_off_just_before_the_end_pays_for_what_came(cut_off: CutOff) -> None:
    limits = DriverLimits(stream_buffer_bytes_max=10_000)
    async with running_shell(limits=limits, agents=METERED) as shell:
        reader = shell.submit()
        call = await shell.backend.calls.get()
        call.say(*["x"] * PIECES)
        cut_off(shell, reader, call)
        await call.ended.wait()
        served_cost, left = _paid(shell)
        assert served_cost >= PIECES * shell.engine.policy.queue.output_token_cost
        assert left < BURST - PIECES + 1


async def test_who_cuts_off_every_answer_is_soon_refused() -> None:
    async with running_shell(agents=METERED) as shell:
        for number in (1, 2):
            reader = shell.submit(f"r{number}")
            call = await shell.backend.calls.get()
            call.say(*["x"] * PIECES)
            shell.driver.leave(reader)
            await call.ended.wait()
        with pytest.raises(TokenQuotaExceeded):
            shell.submit("r3")


async def test_an_answer_with_its_terminator_costs_what_the_backend_counted() -> None:
    async with running_shell(agents=METERED) as shell:
        reader = shell.submit()
        call = await shell.backend.calls.get()
        call.say(*["x"] * PIECES)
        call.complete()  # 3 tokens of prompt, 2 of output
        async for _ in reader:
            pass
        assert _paid(shell)[1] == pytest.approx(BURST - 5, abs=0.5)
