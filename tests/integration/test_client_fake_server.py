"""Both clients against a scripted broker over real sockets: one suite, played twice."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from broker_client import (
    AsyncClient,
    BackendFailed,
    Chunk,
    Client,
    ConnectionLost,
    DeadlineExpired,
    Done,
    Draining,
    Event,
    InvalidRequest,
    ModelUnknown,
    Queued,
    QueueFull,
    RequestUnknown,
    Retrying,
    RetryPolicy,
    Started,
    StreamBroken,
    Unreachable,
    __version__,
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
    refuse,
    serving,
)

QUICK = RetryPolicy(refusals_max=2, reconnects_max=3, backoff_ms=1)
TEXT = "".join(WORDS)


class AsyncCaller:
    """Calls with the asyncio client."""

    def __init__(self, address: str) -> None:
        self._client = AsyncClient(address, agent_id="opus-1", retry=QUICK)

    async def events(self, **ask: Any) -> list[Event]:
        return [event async for event in self._client.stream(**ask)]

    async def first_chunk(self, **ask: Any) -> Event:
        """Leaves the iterator at the first piece, as plain code does: with a return."""
        async for event in self._client.stream(**ask):
            if isinstance(event, Chunk):
                return event
        raise AssertionError("no piece came")

    async def texts(self, **ask: Any) -> list[str]:
        return [text async for text in self._client.text(**ask)]

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self._client, name)(*args, **kwargs)

    async def close(self) -> None:
        await self._client.close()


class SyncCaller:
    """Calls with the blocking client, from a thread, so that the broker's loop goes on."""

    def __init__(self, address: str) -> None:
        self._client = Client(address, agent_id="opus-1", retry=QUICK)

    async def events(self, **ask: Any) -> list[Event]:
        return await asyncio.to_thread(lambda: list(self._client.stream(**ask)))

    async def first_chunk(self, **ask: Any) -> Event:
        """Leaves the iterator at the first piece, as plain code does: with a return."""

        def read() -> Event:
            for event in self._client.stream(**ask):
                if isinstance(event, Chunk):
                    return event
            raise AssertionError("no piece came")

        return await asyncio.to_thread(read)

    async def texts(self, **ask: Any) -> list[str]:
        return await asyncio.to_thread(lambda: list(self._client.text(**ask)))

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(getattr(self._client, name), *args, **kwargs)

    async def close(self) -> None:
        self._client.close()


Caller = AsyncCaller | SyncCaller
ASK: dict[str, Any] = {"model": "tiny", "prompt": "why?"}


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with serving() as scripted:
        yield scripted


@pytest_asyncio.fixture(params=[AsyncCaller, SyncCaller])
async def caller(request: pytest.FixtureRequest, broker: ScriptedBroker) -> AsyncIterator[Caller]:
    made: Caller = request.param(broker.address)
    yield made
    await made.close()


def refusing(code: grpc.StatusCode, reason: str, **details: Any) -> Turn:
    async def turn(request: Any, context: Context) -> AsyncIterator[Any]:
        yield queued()
        await refuse(context, code, reason, **details)

    return turn


FULL = refusing(grpc.StatusCode.UNAVAILABLE, "QUEUE_FULL", retry_after_ms=1)


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(each) for each in events]


async def test_a_stream_from_queued_to_done(broker: ScriptedBroker, caller: Caller) -> None:
    broker.script.append(answer)
    events = await caller.events(**ASK, priority=2, request_id="mine")
    assert kinds(events) == [Queued, Started, *[Chunk] * len(WORDS), Done]
    asked = broker.requests[0]
    assert (asked.agent_id, asked.request_id, asked.priority) == ("opus-1", "mine", 2)
    assert broker.metadata[0]["broker-client"] == f"python/{__version__}"


async def test_text_and_a_whole_answer(broker: ScriptedBroker, caller: Caller) -> None:
    broker.script.extend([answer, answer])
    assert await caller.texts(**ASK) == list(WORDS)
    result = await caller.call("generate", **ASK)
    assert (result.text, result.finish_reason) == (TEXT, "stop")
    assert result.request_id == broker.requests[1].request_id


async def test_a_refusal_that_invites_back_is_tried_again(
    broker: ScriptedBroker, caller: Caller
) -> None:
    broker.script.extend([FULL, FULL, answer])
    events = await caller.events(**ASK)
    retries = [each for each in events if isinstance(each, Retrying)]
    assert [type(each.error) for each in retries] == [QueueFull, QueueFull]
    assert all(each.delay_s >= 0.001 for each in retries)
    assert isinstance(events[-1], Done)
    assert len({each.request_id for each in broker.requests}) == 1


async def test_refusals_end_at_their_bound(broker: ScriptedBroker, caller: Caller) -> None:
    broker.script.extend([FULL] * 3)
    with pytest.raises(QueueFull) as raised:
        await caller.events(**ASK)
    assert raised.value.retry_after_s == 0.001
    assert raised.value.outcome == "refused"
    assert len(broker.requests) == QUICK.refusals_max + 1


@pytest.mark.parametrize(
    ("turn", "error"),
    [
        (refusing(grpc.StatusCode.INTERNAL, "BACKEND_FAILED", outcome="failed"), BackendFailed),
        (refusing(grpc.StatusCode.UNAVAILABLE, "DRAINING"), Draining),
    ],
)
async def test_what_does_not_invite_back_is_raised_at_once(
    broker: ScriptedBroker, caller: Caller, turn: Turn, error: type[Exception]
) -> None:
    broker.script.extend([turn, answer])
    with pytest.raises(error):
        await caller.events(**ASK)
    assert len(broker.requests) == 1


async def test_details_that_cannot_be_read_leave_the_status(
    broker: ScriptedBroker, caller: Caller
) -> None:
    async def turn(request: Any, context: Context) -> AsyncIterator[Any]:
        yield queued()
        trailers = (("grpc-status-details-bin", b"\xff\xff"),)
        await context.abort(grpc.StatusCode.DATA_LOSS, "odd", trailing_metadata=trailers)

    broker.script.append(turn)
    with pytest.raises(Exception, match="odd") as raised:
        await caller.events(**ASK)
    assert getattr(raised.value, "code", None) is grpc.StatusCode.DATA_LOSS


async def test_a_cut_connection_is_taken_up_without_a_gap_or_a_repeat(
    broker: ScriptedBroker, caller: Caller
) -> None:
    broker.script.extend([broker.cut_after(2), broker.cut_after(1), answer])
    events = await caller.events(**ASK)
    chunks = [each for each in events if isinstance(each, Chunk)]
    assert [each.text for each in chunks] == list(WORDS)
    assert [each.seq for each in chunks] == list(range(len(WORDS)))
    lost = [each.error for each in events if isinstance(each, Retrying)]
    assert [type(each) for each in lost] == [ConnectionLost, ConnectionLost]
    first, *again = broker.requests
    assert first.resume_from_seq == 0
    assert all(each.request_id == first.request_id for each in again)
    assert all(each.prompt == first.prompt for each in again)


async def test_a_request_that_the_broker_dropped_meanwhile_was_lost(
    broker: ScriptedBroker, caller: Caller
) -> None:
    seen = asyncio.Event()

    async def cut_when_read(request: Any, context: Context) -> AsyncIterator[Any]:
        # Much more text than gRPC's windows hold: that all of it was sent means some was read.
        for seq in range(64):
            yield chunk(seq, "x" * 65536)
        seen.set()
        broker.wire.cut()
        await asyncio.Event().wait()

    gone = refusing(grpc.StatusCode.NOT_FOUND, "REQUEST_UNKNOWN", outcome="")
    broker.script.extend([cut_when_read, gone])
    with pytest.raises(ConnectionLost, match="dropped"):
        await caller.events(**ASK)
    assert seen.is_set()
    assert broker.requests[1].resume_from_seq > 0


async def test_lost_connections_end_at_their_bound(broker: ScriptedBroker, caller: Caller) -> None:
    broker.script.extend([broker.cut_after(0)] * 9)
    with pytest.raises(ConnectionLost):
        await caller.events(**ASK)
    assert len(broker.requests) <= QUICK.reconnects_max + 1


async def test_an_answer_that_begins_anew_is_not_spliced(
    broker: ScriptedBroker, caller: Caller
) -> None:
    async def from_the_beginning(request: Any, context: Context) -> AsyncIterator[Any]:
        for seq in range(1, 3):
            yield chunk(seq, WORDS[seq])
        yield done()

    broker.script.append(from_the_beginning)
    with pytest.raises(StreamBroken):
        await caller.events(**ASK)


async def test_a_stream_that_ends_well_without_done_is_an_error(
    broker: ScriptedBroker, caller: Caller
) -> None:
    async def cut_short(request: Any, context: Context) -> AsyncIterator[Any]:
        yield chunk(0, WORDS[0])

    broker.script.append(cut_short)
    with pytest.raises(StreamBroken, match="done"):
        await caller.events(**ASK)


async def test_leaving_the_iterator_ends_the_call(broker: ScriptedBroker, caller: Caller) -> None:
    broker.script.append(broker.hang)
    event = await caller.first_chunk(**ASK)
    assert isinstance(event, Chunk)
    async with asyncio.timeout(30):
        await broker.gone.wait()


async def test_a_cancelled_task_ends_the_call(broker: ScriptedBroker) -> None:
    broker.script.append(broker.hang)
    async with AsyncClient(broker.address, agent_id="opus-1") as client:
        got_piece = asyncio.Event()

        async def read() -> None:
            async for event in client.stream(**ASK):
                if isinstance(event, Chunk):
                    got_piece.set()

        task = asyncio.create_task(read())
        async with asyncio.timeout(30):
            await got_piece.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await broker.gone.wait()


async def test_the_deadline_travels_and_is_kept(broker: ScriptedBroker, caller: Caller) -> None:
    left: list[float] = []

    async def slow(request: Any, context: Context) -> AsyncIterator[Any]:
        left.append(context.time_remaining())
        async for event in broker.hang(request, context):
            yield event

    broker.script.append(slow)
    with pytest.raises(DeadlineExpired):
        await caller.events(**ASK, deadline_s=0.2)
    # The wire rounds a deadline up to its own unit, so it may arrive a little later than asked for.
    assert 0 < left[0] < 1


async def test_what_is_larger_than_any_broker_reads_names_the_limit(
    broker: ScriptedBroker, caller: Caller
) -> None:
    with pytest.raises(
        InvalidRequest, match=r"is [0-9]{7} bytes; the broker takes at most"
    ) as told:
        await caller.events(**{**ASK, "prompt": "x" * 5_000_000})
    (field,) = told.value.fields
    assert (field.field, "4194304" in field.problem) == ("request", True)  # gRPC's own limit
    assert broker.requests == []


async def test_no_broker_there(unused_address: str) -> None:
    for make in (AsyncCaller, SyncCaller):
        caller = make(unused_address)
        with pytest.raises(Unreachable, match=f"no broker answers at {unused_address}"):
            await caller.events(**ASK)
        with pytest.raises(Unreachable):
            await caller.call("status")
        await caller.close()


@pytest.fixture
def unused_address() -> Iterator[str]:
    """A port that is held, so that nobody else takes it, and on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def vectors(*, cut: Callable[[], None] | None = None) -> Turn:
    async def turn(
        request: inference_pb2.EmbedRequest, context: Context
    ) -> AsyncIterator[inference_pb2.EmbedResponse]:
        if cut is not None:
            cut()
            await asyncio.Event().wait()
        found = [inference_pb2.Embedding(values=[0.0, 1.0]) for _ in request.inputs]
        yield inference_pb2.EmbedResponse(model="e:latest", embeddings=found)

    return turn


async def test_texts_are_embedded_over_a_refusal_and_a_cut(
    broker: ScriptedBroker, caller: Caller
) -> None:
    async def full(request: Any, context: Context) -> AsyncIterator[Any]:
        await refuse(context, grpc.StatusCode.UNAVAILABLE, "QUEUE_FULL", retry_after_ms=1)
        yield  # Never reached; makes this a generator, which a turn is.

    broker.script.extend([full, vectors(cut=broker.wire.cut), vectors()])
    result = await caller.call("embed", model="e", inputs=["a", "b"])
    assert (result.model, result.vectors) == ("e:latest", ((0.0, 1.0), (0.0, 1.0)))
    assert len({each.request_id for each in broker.requests}) == 1


async def test_the_short_calls(broker: ScriptedBroker, caller: Caller) -> None:
    assert [each.name for each in await caller.call("models")] == ["a:latest", "b:latest"]
    model = await caller.call("model", "a")
    assert [(each.backend, each.state) for each in model.places] == [("gpu0", "resident")]
    with pytest.raises(ModelUnknown):
        await caller.call("model", "zzz")
    assert await caller.call("cancel", "known") == "queued"
    with pytest.raises(RequestUnknown):
        await caller.call("cancel", "other")
    status = await caller.call("status", requests_max=2)
    assert (status.version, status.queued, status.outcomes) == ("1.2.3", 2, {"completed": 7})
    assert status.backends[0].up
    assert len(status.requests) == 2
    assert (await caller.call("drain")).timeout_ms == 30_000
    assert (await caller.call("drain", timeout_s=1.5)).timeout_ms == 1500
