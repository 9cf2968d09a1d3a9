"""Levels and the status by both clients against a scripted broker: one suite, played twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from broker_client import (
    AsyncClient,
    Client,
    DeadlineExpired,
    Draining,
    GenerateResult,
    Internal,
    ResourceAwareness,
    Status,
)
from broker_client.pb.broker.v1 import admin_pb2, common_pb2, inference_pb2
from tests.integration.scripted_broker import (
    Context,
    ScriptedBroker,
    answer,
    done,
    serving,
)

HOUR_S = 3600.0
PATIENCE_S = 30.0
ASK: dict[str, Any] = {"model": "tiny", "prompt": "why?"}
AWARE = ResourceAwareness(max_tokens=100, temperature=0.2)


class AsyncCaller:
    """Calls with the asyncio client."""

    def __init__(self, address: str, **settings: Any) -> None:
        self._client = AsyncClient(address, agent_id="opus-1", **settings)

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self._client, name)(*args, **kwargs)

    async def watch(self, most: int, **kwargs: Any) -> list[Status]:
        """So many statuses of a watch at most; raises what ends it before."""
        found: list[Status] = []
        watch = self._client.watch_status(**kwargs)
        try:
            async for status in watch:
                found.append(status)
                if len(found) == most:
                    break
        finally:
            await watch.aclose()
        return found

    async def close(self) -> None:
        await self._client.close()


class SyncCaller:
    """Calls with the blocking client, from a thread, so that the broker's loop goes on."""

    def __init__(self, address: str, **settings: Any) -> None:
        self._client = Client(address, agent_id="opus-1", **settings)

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(getattr(self._client, name), *args, **kwargs)

    async def watch(self, most: int, **kwargs: Any) -> list[Status]:
        """So many statuses of a watch at most; raises what ends it before."""

        def read() -> list[Status]:
            found: list[Status] = []
            for status in self._client.watch_status(**kwargs):
                found.append(status)
                if len(found) == most:
                    break
            return found

        return await asyncio.to_thread(read)

    async def close(self) -> None:
        self._client.close()


Caller = AsyncCaller | SyncCaller


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with serving() as scripted:
        yield scripted


@pytest.fixture(params=[AsyncCaller, SyncCaller])
def kind(request: pytest.FixtureRequest) -> type[Caller]:
    made: type[Caller] = request.param
    return made


@pytest_asyncio.fixture
async def caller(kind: type[Caller], broker: ScriptedBroker) -> AsyncIterator[Caller]:
    """One that believes a level for longer than any test lasts."""
    made = kind(broker.address, level_age_s_max=HOUR_S, awareness=AWARE)
    yield made
    await made.close()


async def test_a_watch_gives_one_status_after_the_other(
    broker: ScriptedBroker, caller: Caller
) -> None:
    found = await caller.watch(2, requests_max=3, interval_s=0.1)
    assert [each.version for each in found] == ["1.2.3"] * 2
    assert len(found[0].requests) == 3


async def test_a_watch_ends_as_the_broker_does(caller: Caller) -> None:
    with pytest.raises(Draining):
        await caller.watch(4)


async def test_an_interval_that_means_another_on_the_wire_does_not_leave_the_client(
    broker: ScriptedBroker, caller: Caller
) -> None:
    with pytest.raises(ValueError, match="interval_s"):
        await caller.watch(1, interval_s=0)
    assert broker.statuses == 0


LEVELS: tuple[tuple[tuple[Any, ...], dict[str, Any], admin_pb2.SetLevelRequest], ...] = (
    (
        ("2",),
        {"for_s": 90.0},
        admin_pb2.SetLevelRequest(level=common_pb2.DEGRADATION_LEVEL_2, for_ms=90_000),
    ),
    (
        ("critical",),
        {},
        admin_pb2.SetLevelRequest(level=common_pb2.DEGRADATION_LEVEL_CRITICAL),
    ),
    ((None,), {}, admin_pb2.SetLevelRequest()),
)


@pytest.mark.parametrize(("args", "kwargs", "asked"), LEVELS)
async def test_a_level_is_set_by_hand_or_left_to_the_load(
    broker: ScriptedBroker,
    caller: Caller,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    asked: admin_pb2.SetLevelRequest,
) -> None:
    held = await caller.call("set_level", *args, **kwargs)
    assert broker.levers == [asked]
    assert held.level == (args[0] or "normal")
    assert held.until_ms == (asked.for_ms or None)
    assert held.parts[0].share == 0.002


async def test_what_is_no_level_does_not_leave_the_client(
    broker: ScriptedBroker, caller: Caller
) -> None:
    with pytest.raises(ValueError, match="'3' is no level; there are normal, 1, 2, critical"):
        await caller.call("set_level", "3")
    assert broker.levers == []


@pytest.mark.parametrize("age_s", [0, HOUR_S])
async def test_a_level_is_asked_for_again_only_when_it_is_old(
    broker: ScriptedBroker, kind: type[Caller], age_s: float
) -> None:
    caller = kind(broker.address, level_age_s_max=age_s)
    try:
        assert not await caller.call("is_degraded")
        broker.level = common_pb2.DEGRADATION_LEVEL_1
        assert await caller.call("level") == ("normal" if age_s else "1")
        assert await caller.call("is_degraded") is (not age_s)
        assert broker.statuses == (1 if age_s else 3)
    finally:
        await caller.close()


async def test_all_who_ask_at_once_share_one_look(broker: ScriptedBroker, caller: Caller) -> None:
    asked = await asyncio.gather(*(caller.call("is_degraded") for _ in range(8)))
    assert asked == [False] * 8
    assert broker.statuses == 1


async def test_who_sets_a_level_knows_it(broker: ScriptedBroker, caller: Caller) -> None:
    await caller.call("set_level", "1")
    assert await caller.call("is_degraded")
    assert broker.statuses == 0


async def test_a_degraded_broker_is_asked_for_less(broker: ScriptedBroker, caller: Caller) -> None:
    broker.script.extend([answer] * 3)
    broker.level = common_pb2.DEGRADATION_LEVEL_2
    results: list[GenerateResult] = [
        await caller.call("generate", **ASK, max_tokens=4096, temperature=0.1),
        await caller.call("generate", **ASK, max_tokens=4096, awareness=None),
        await caller.call("generate", **ASK, awareness=ResourceAwareness(temperature=None)),
    ]
    assert [each.options.max_tokens for each in broker.requests] == [100, 4096, 512]
    assert [each.options.temperature for each in broker.requests] == [0.1, 0.0, 0.0]
    assert [list(each.lowered) for each in results] == [
        ["max_tokens lowered from 4096 to 100"],
        [],
        ["max_tokens lowered from no bound to 512"],
    ]
    assert broker.statuses == 1


async def test_a_healthy_broker_is_asked_for_what_was_said(
    broker: ScriptedBroker, caller: Caller
) -> None:
    broker.script.append(answer)
    result = await caller.call("generate", **ASK, max_tokens=4096)
    assert result.lowered == ()
    assert broker.requests[0].options.max_tokens == 4096


async def test_a_broker_that_does_not_tell_its_level_gets_the_request_as_it_is(
    broker: ScriptedBroker, caller: Caller
) -> None:
    broker.keeps_its_level = True
    broker.script.append(answer)
    result = await caller.call("generate", **ASK, max_tokens=4096)
    assert (result.text, result.lowered) == ("The sky is blue.", ())
    with pytest.raises(Internal):
        await caller.call("is_degraded")


async def test_a_broker_that_does_not_answer_is_waited_for_once_by_all(
    broker: ScriptedBroker, kind: type[Caller]
) -> None:
    """A look that fails speaks for all who ask for as long as a level is believed."""
    broker.tells.clear()
    broker.script.extend([answer] * 8)
    caller = kind(broker.address, level_age_s_max=HOUR_S, awareness=AWARE, call_timeout_s=0.2)
    try:
        results = await asyncio.gather(*(caller.call("generate", **ASK) for _ in range(8)))
        assert [each.lowered for each in results] == [()] * 8
        assert broker.statuses == 1
        with pytest.raises(DeadlineExpired):
            await caller.call("is_degraded")
        assert broker.statuses == 1
    finally:
        await caller.close()


async def test_a_level_is_waited_for_a_second_whatever_the_calls_may_take(
    broker: ScriptedBroker, kind: type[Caller]
) -> None:
    broker.tells.clear()
    caller = kind(broker.address, call_timeout_s=HOUR_S)
    try:
        with pytest.raises(DeadlineExpired):
            await caller.call("is_degraded")
    finally:
        await caller.close()


async def test_who_is_in_a_hurry_does_not_wait_for_the_level_past_its_deadline(
    broker: ScriptedBroker, caller: Caller
) -> None:
    broker.tells.clear()
    with pytest.raises(DeadlineExpired):
        await caller.call("generate", **ASK, deadline_s=0.1)
    assert (broker.statuses, broker.requests) == (1, [])
    broker.tells.set()  # that it could not wait tells nobody else that the broker keeps silent
    assert not await caller.call("is_degraded")


async def test_who_is_in_a_hurry_does_not_wait_for_the_look_of_another(
    broker: ScriptedBroker, caller: Caller
) -> None:
    broker.tells.clear()
    looking = asyncio.create_task(caller.call("level"))
    await asyncio.wait_for(broker.looked_at.wait(), PATIENCE_S)
    with pytest.raises(DeadlineExpired):
        await caller.call("generate", **ASK, deadline_s=0.1)
    assert (broker.statuses, broker.requests) == (1, [])
    broker.tells.set()
    await asyncio.gather(looking, return_exceptions=True)


async def test_a_level_that_was_told_before_one_was_set_does_not_take_its_place(
    broker: ScriptedBroker, caller: Caller
) -> None:
    broker.tells.clear()
    looking = asyncio.create_task(caller.call("level"))
    await asyncio.wait_for(broker.looked_at.wait(), PATIENCE_S)  # "normal" is on its way
    setting = asyncio.create_task(caller.call("set_level", "2"))
    await asyncio.wait_for(broker.level_set.wait(), PATIENCE_S)
    broker.tells.set()
    await asyncio.gather(looking, return_exceptions=True)
    await setting
    assert await caller.call("level") == "2"
    assert broker.statuses == 1


async def test_a_result_says_the_level_the_model_and_what_was_changed(
    broker: ScriptedBroker, caller: Caller
) -> None:
    started = inference_pb2.Started(
        model="tiny:latest",
        level=common_pb2.DEGRADATION_LEVEL_2,
        substituted_for="large:latest",
        changes=["max_tokens cut to 512"],
    )

    async def substituting(request: Any, context: Context) -> AsyncIterator[Any]:
        yield inference_pb2.GenerateEvent(started=started)
        yield done()

    async def vectors(request: Any, context: Context) -> AsyncIterator[Any]:
        level = common_pb2.DEGRADATION_LEVEL_1
        yield inference_pb2.EmbedResponse(model="e", level=level, changes=["something"])

    broker.script.extend([substituting, vectors])
    result = await caller.call("generate", **ASK)
    assert (result.level, result.substituted_for) == ("2", "large:latest")
    assert (result.model, result.changes) == ("tiny:latest", ("max_tokens cut to 512",))
    embedded = await caller.call("embed", model="e", inputs=["a"])
    assert (embedded.level, embedded.changes) == ("1", ("something",))
