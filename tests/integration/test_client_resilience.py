"""Both clients where attempts are lost, brokers come back empty, and less is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
import pytest_asyncio

from broker_client import (
    AsyncClient,
    Chunk,
    Client,
    ConnectionLost,
    DeadlineExpired,
    Done,
    Event,
    PacePolicy,
    QueueFull,
    Requeued,
    Retrying,
    SlowDown,
    StreamBroken,
    TimedOut,
    Timeouts,
)
from broker_client.pb.broker.v1 import inference_pb2
from tests.integration.scripted_broker import (
    WORDS,
    Context,
    ScriptedBroker,
    Turn,
    answer,
    chunk,
    done,
    queued,
    serving,
)
from tests.integration.test_client_fake_server import (
    ASK,
    FULL,
    QUICK,
    TEXT,
    AsyncCaller,
    Caller,
    SyncCaller,
    refusing,
    vectors,
)

PATIENCE_S = 30
TIMED_OUT = refusing(
    grpc.StatusCode.DEADLINE_EXCEEDED, "TIMED_OUT", outcome="expired", phase="first_token"
)
GONE = refusing(grpc.StatusCode.NOT_FOUND, "REQUEST_UNKNOWN", outcome="")


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with serving() as scripted:
        yield scripted


@pytest_asyncio.fixture(params=[AsyncCaller, SyncCaller])
async def caller(request: pytest.FixtureRequest, broker: ScriptedBroker) -> AsyncIterator[Caller]:
    made: Caller = request.param(broker.address)
    yield made
    await made.close()


def requeued(discard_before_seq: int) -> inference_pb2.GenerateEvent:
    return inference_pb2.GenerateEvent(
        requeued=inference_pb2.Requeued(reason="gpu0 died", discard_before_seq=discard_before_seq)
    )


def dying_after(broker: ScriptedBroker, pieces: int) -> Turn:
    """Many pieces, more than the connection holds, so that when the last is sent some were read;
    then the connection is cut, as by a broker that is killed."""

    async def turn(request: Any, context: Context) -> AsyncIterator[Any]:
        for seq in range(pieces):
            yield chunk(seq, "x" * 65536)
        broker.wire.cut()
        await asyncio.Event().wait()

    return turn


async def begins_anew(request: Any, context: Context) -> AsyncIterator[Any]:
    """Its first attempt is lost after two pieces, thinking and a tool call among them."""
    yield queued()
    call = inference_pb2.ToolCall(id="1", name="w", arguments_json="{}")
    lost = inference_pb2.Chunk(seq=0, thinking="hm", tool_calls=[call], tokens=1)
    yield inference_pb2.GenerateEvent(chunk=lost)
    yield chunk(1, "lost")
    yield requeued(2)
    started = inference_pb2.Started(model="tiny:latest", backend="gpu1", attempt=2)
    yield inference_pb2.GenerateEvent(started=started)
    for seq, word in enumerate(WORDS):
        yield chunk(2 + seq, word)
    yield done()


async def goes_on(request: Any, context: Context) -> AsyncIterator[Any]:
    """Its first attempt is lost after two pieces, which stand."""
    for seq in range(2):
        yield chunk(seq, WORDS[seq])
    yield requeued(0)
    for seq in range(2, len(WORDS)):
        yield chunk(seq, WORDS[seq])
    yield done()


async def test_void_pieces_are_seen_and_are_not_in_the_answer(
    broker: ScriptedBroker, caller: Caller
) -> None:
    broker.script.extend([begins_anew, begins_anew])
    events = await caller.events(**ASK, on_interruption="restart")
    assert Requeued(reason="gpu0 died", discard_before_seq=2) in events
    assert [each.seq for each in events if isinstance(each, Chunk)] == list(range(2 + len(WORDS)))
    result = await caller.call("generate", **ASK, on_interruption="restart")
    assert (result.text, result.thinking, result.tool_calls) == (TEXT, "", ())
    assert broker.requests[0].on_interruption == inference_pb2.ON_INTERRUPTION_RESTART


async def test_text_that_was_given_out_is_not_mixed_with_what_begins_anew(
    broker: ScriptedBroker, caller: Caller
) -> None:
    broker.script.append(begins_anew)
    with pytest.raises(StreamBroken, match="gpu0 died"):
        await caller.texts(**ASK, on_interruption="restart")


async def test_an_answer_that_goes_on_is_whole(broker: ScriptedBroker, caller: Caller) -> None:
    broker.script.append(goes_on)
    assert "".join(await caller.texts(**ASK, on_interruption="continue")) == TEXT


async def test_a_broker_that_came_back_empty_gets_the_request_anew(
    broker: ScriptedBroker, caller: Caller
) -> None:
    broker.script.extend([broker.cut_after(0), answer])
    events = await caller.events(**ASK)
    assert isinstance(events[-1], Done)
    first, second = broker.requests
    assert (second.request_id, second.resume_from_seq) == (first.request_id, 0)
    assert not any(isinstance(each, Requeued) for each in events)


@pytest.mark.parametrize("word", ["restart", "continue"])
async def test_after_pieces_it_begins_anew_where_the_caller_may_bear_it(
    broker: ScriptedBroker, caller: Caller, word: str
) -> None:
    dying = dying_after(broker, 64)
    broker.script.extend([dying, GONE, dying, GONE, answer])
    events = await caller.events(**ASK, on_interruption=word)
    standing: list[Chunk] = []
    due = 0
    for event in events:
        if isinstance(event, Chunk):
            assert event.seq == due
            due += event.tokens
            standing.append(event)
        elif isinstance(event, Requeued):
            assert event.discard_before_seq == due
            standing = []
    assert "".join(each.text for each in standing) == TEXT
    assert len({each.request_id for each in broker.requests}) == 1
    resumed = [each.resume_from_seq > 0 for each in broker.requests]
    assert resumed == [False, True, False, True, False]
    assert isinstance(events[-1], Done)


async def test_else_it_says_how_much_had_come(broker: ScriptedBroker, caller: Caller) -> None:
    broker.script.extend([dying_after(broker, 64), GONE])
    with pytest.raises(ConnectionLost, match="dropped") as raised:
        await caller.events(**ASK)
    assert raised.value.sent_pieces == broker.requests[1].resume_from_seq > 0


async def test_a_time_out_names_its_phase(broker: ScriptedBroker, caller: Caller) -> None:
    broker.script.append(TIMED_OUT)
    with pytest.raises(TimedOut) as raised:
        await caller.events(**ASK, timeouts=Timeouts(first_token_s=1.5), prompt_type="summary")
    assert raised.value.phase == "first_token"
    asked = broker.requests[0]
    assert asked.timeouts == inference_pb2.Timeouts(first_token_ms=1_500)
    assert asked.prompt_type == "summary"


def asking_for_less(retry_after_ms: int) -> Turn:
    async def turn(request: Any, context: Context) -> AsyncIterator[Any]:
        slow_down = inference_pb2.SlowDown(retry_after_ms=retry_after_ms)
        yield inference_pb2.GenerateEvent(slow_down=slow_down)
        async for event in answer(request, context):
            yield event

    return turn


class PacedAsync(AsyncCaller):
    """The asyncio client with a small window."""

    def __init__(self, address: str) -> None:
        self._client = AsyncClient(
            address, agent_id="opus-1", retry=QUICK, pace=PacePolicy(window=2)
        )

    @property
    def client(self) -> AsyncClient:
        return self._client


class PacedSync(SyncCaller):
    """The blocking client with a small window."""

    def __init__(self, address: str) -> None:
        self._client = Client(address, agent_id="opus-1", retry=QUICK, pace=PacePolicy(window=2))

    @property
    def client(self) -> Client:
        return self._client


Paced = PacedAsync | PacedSync


@pytest_asyncio.fixture(params=[PacedAsync, PacedSync])
async def paced(request: pytest.FixtureRequest, broker: ScriptedBroker) -> AsyncIterator[Paced]:
    made: Paced = request.param(broker.address)
    yield made
    await made.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - it is another thread's, or the loop's own
            await asyncio.sleep(0.001)


def told(paced: Paced) -> tuple[int, int, int]:
    """The window, who is under way, who waits."""
    pacing = paced.client.pacing
    assert pacing is not None
    return pacing.window, pacing.under_way, pacing.waiting


async def test_no_more_are_sent_than_the_window_holds(broker: ScriptedBroker, paced: Paced) -> None:
    go = asyncio.Event()

    async def when_told(request: Any, context: Context) -> AsyncIterator[Any]:
        await go.wait()
        async for event in answer(request, context):
            yield event

    broker.script.extend([when_told] * 5)
    asked = [asyncio.create_task(paced.events(**ASK)) for _ in range(5)]
    await until(lambda: told(paced) == (2, 2, 3))
    await until(lambda: len(broker.requests) == 2)
    go.set()
    assert all(isinstance(each[-1], Done) for each in await asyncio.gather(*asked))
    assert told(paced)[1:] == (0, 0)
    assert told(paced)[0] > 2  # all went well: there is more room


async def test_less_is_sent_when_less_is_asked_for(broker: ScriptedBroker, paced: Paced) -> None:
    broker.script.append(asking_for_less(600_000))
    events = await paced.events(**ASK)
    assert SlowDown(retry_after_ms=600_000) in events
    assert isinstance(events[-1], Done)
    pacing = paced.client.pacing
    assert pacing is not None
    assert pacing.held_s > 0
    with pytest.raises(DeadlineExpired, match="own pacing"):
        await paced.events(**ASK, deadline_s=0.01)
    with pytest.raises(DeadlineExpired, match="own pacing"):
        await paced.call("embed", model="e", inputs=["a"], deadline_s=0.01)
    assert len(broker.requests) == 1  # no call was made
    assert told(paced)[1:] == (0, 0)


async def test_a_refusal_halves_the_window(broker: ScriptedBroker, paced: Paced) -> None:
    broker.script.extend([FULL, FULL, FULL])
    with pytest.raises(QueueFull):
        await paced.events(**ASK)
    assert told(paced) == (1, 0, 0)


async def test_embeddings_have_their_place(broker: ScriptedBroker, paced: Paced) -> None:
    broker.script.extend([vectors(cut=broker.wire.cut), vectors()])
    await paced.call("embed", model="e", inputs=["a"])
    assert told(paced)[1:] == (0, 0)


async def test_leaving_early_gives_the_place_back(broker: ScriptedBroker, paced: Paced) -> None:
    broker.script.extend([broker.hang, broker.hang, answer])
    for _ in range(2):
        await paced.first_chunk(**ASK)
    # Iterators that were dropped are ended by whoever collects them.
    await until(lambda: told(paced)[1] == 0)
    assert isinstance((await paced.events(**ASK))[-1], Done)


async def test_a_cancelled_wait_sends_nothing(broker: ScriptedBroker) -> None:
    policy = PacePolicy(window=1)
    async with AsyncClient(broker.address, agent_id="opus-1", pace=policy) as client:
        broker.script.extend([broker.hang, answer])
        first = client.stream(**ASK)
        event: Event = await anext(first)
        waits = asyncio.create_task(client.generate(**ASK))
        await until(lambda: client.pacing is not None and client.pacing.waiting == 1)
        waits.cancel()
        with suppress(asyncio.CancelledError):
            await waits
        assert client.pacing is not None
        assert (client.pacing.under_way, client.pacing.waiting) == (1, 0)
        await first.aclose()
        assert (await client.generate(**ASK)).text == TEXT
        assert not isinstance(event, Retrying)


async def test_pacing_is_switched_off(broker: ScriptedBroker) -> None:
    broker.script.extend([asking_for_less(600_000), answer] * 2)
    async with AsyncClient(broker.address, agent_id="opus-1", pace=False) as client:
        assert [(await client.generate(**ASK)).text for _ in range(2)] == [TEXT, TEXT]
        assert client.pacing is None
    blocking = Client(broker.address, agent_id="opus-1", pace=None)
    for _ in range(2):
        assert (await asyncio.to_thread(blocking.generate, **ASK)).text == TEXT
    assert blocking.pacing is None
    blocking.close()
