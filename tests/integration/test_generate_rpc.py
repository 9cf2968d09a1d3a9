"""Generate and Cancel over the wire, before a backend whose every step the test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from broker.config.schema import Config, LimitsConfig, ServerConfig
from broker.config.serving import PlacementConfig
from broker.core.errors import (
    BackendBusy,
    BackendFailed,
    BackendRefused,
    BackendUnreachable,
    BrokerError,
    ClientTooSlow,
)
from broker_client.pb.broker.v1 import common_pb2, inference_pb2_grpc
from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    PATIENCE_S,
    QUICK,
    RunningDaemon,
    kinds,
    read_until,
    refused,
    running_daemon,
    text_of,
)
from tests.integration.wire_requests import generate

_Code = grpc.StatusCode
ONE_SLOT = BACKEND.model_copy(update={"slots": 1})
# A connection that takes little before it is read: what a slow reader's looks like from afar.
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16_384))


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[RunningDaemon]:
    async with running_daemon(Config(server=FREE_PORTS, backends=(ONE_SLOT,), **QUICK)) as running:
        yield running


@pytest_asyncio.fixture
async def two_slots() -> AsyncIterator[RunningDaemon]:
    async with running_daemon() as running:
        yield running


def generate_on(channel: grpc.aio.Channel, request: pb.GenerateRequest) -> Any:
    """The same call over a connection of its own."""
    return inference_pb2_grpc.InferenceStub(channel).Generate(request)


async def test_events_come_in_order_and_tell_where_the_time_went(daemon: RunningDaemon) -> None:
    stream = daemon.inference.Generate(generate(request_id="mine", priority=3))
    events = await read_until(stream, "started")
    assert kinds(events) == ["queued", "started"]
    assert events[0].queued.request_id == "mine"
    assert events[0].queued.position == 1
    assert events[0].queued.detail
    assert not events[0].queued.HasField("eta_ms")
    started = events[1].started
    assert (started.model, started.backend) == ("talk:latest", "b")
    assert started.level == common_pb2.DEGRADATION_LEVEL_NORMAL
    assert (started.substituted_for, list(started.changes)) == ("", [])
    call = await daemon.backend.calls.get()
    call.say("hel")
    chunks = await read_until(stream, "chunk")
    call.say("lo", "!")
    chunks += await read_until(stream, "chunk")
    assert [(each.chunk.seq, each.chunk.tokens) for each in chunks] == [(0, 1), (1, 2)]
    assert text_of(chunks) == "hello!"
    call.complete()
    (done,) = await read_until(stream, "done")
    assert await stream.code() is _Code.OK
    assert (done.done.model, done.done.cached) == ("talk:latest", False)
    assert done.done.finish_reason == pb.FINISH_REASON_STOP
    assert (done.done.usage.prompt_tokens, done.done.usage.output_tokens) == (3, 2)
    timings = done.done.timings
    assert 0 < timings.load_ms <= timings.queue_wait_ms <= timings.first_token_ms
    assert timings.first_token_ms <= timings.total_ms
    assert timings.per_token_ms > 0


async def test_a_request_without_an_id_hears_the_one_that_was_drawn(daemon: RunningDaemon) -> None:
    stream = daemon.inference.Generate(generate())
    (queued,) = await read_until(stream, "queued")
    drawn = queued.queued.request_id
    assert drawn
    again = daemon.inference.Cancel(pb.CancelRequest(agent_id="opus-1", request_id=drawn))
    assert (await again).state
    refusal = await refused(stream)
    assert (refusal.code, refusal.reason) == (_Code.CANCELLED, "CANCELLED")
    assert refusal.about["outcome"] == "cancelled"


async def test_who_waits_is_told_at_once_and_when_the_line_moves(daemon: RunningDaemon) -> None:
    first = daemon.inference.Generate(generate())
    await read_until(first, "started")
    running = await daemon.backend.calls.get()
    waiting = []
    for number in (1, 2):
        # Agents that were not served yet, so that of these two the first comes first.
        stream = daemon.inference.Generate(generate(agent_id=f"new-{number}"))
        (event,) = await read_until(stream, "queued")
        assert event.queued.position == number
        assert event.queued.reason == common_pb2.WAIT_REASON_SLOT
        waiting.append(stream)
    running.complete()
    await read_until(waiting[0], "started")
    moved = await read_until(waiting[1], "queued")
    assert moved[-1].queued.position == 1
    for stream in waiting:
        (await daemon.backend.calls.get()).complete()
        await read_until(stream, "done")


async def test_a_slow_reader_gets_merged_chunks_and_delays_nobody(two_slots: RunningDaemon) -> None:
    pieces, letters = 400, 2_000
    async with two_slots.open_channel(*SMALL_WINDOW) as far:
        slow = generate_on(far, generate(agent_id="slow"))
        await read_until(slow, "started")
        to_slow = await two_slots.backend.calls.get()
        fast = two_slots.inference.Generate(generate(agent_id="fast"))
        await read_until(fast, "started")
        to_fast = await two_slots.backend.calls.get()
        for number in range(pieces):
            to_slow.say(f"{number:{letters}}")
            to_fast.say("x")
            (event,) = await read_until(fast, "chunk")  # comes although the other does not read
            assert event.chunk.seq == number
        to_fast.complete()
        await read_until(fast, "done")
        to_slow.complete()
        events = await read_until(slow, "done")
    chunks = [each.chunk for each in events[:-1]]
    assert len(chunks) < pieces
    assert max(each.tokens for each in chunks) > 1
    assert text_of(events) == "".join(f"{number:{letters}}" for number in range(pieces))
    ends = [each.seq + each.tokens for each in chunks]
    assert [each.seq for each in chunks] == [0, *ends[:-1]]
    assert ends[-1] == pieces


async def test_a_client_too_slow_for_its_share_of_memory_hears_so() -> None:
    limits = LimitsConfig(stream_buffer_bytes_max=100_000)
    config = Config(server=FREE_PORTS, limits=limits, backends=(BACKEND,))
    async with running_daemon(config) as daemon, daemon.open_channel(*SMALL_WINDOW) as far:
        slow = generate_on(far, generate())
        await read_until(slow, "started")
        call = await daemon.backend.calls.get()
        told = None
        for _ in range(1000):
            try:
                call.say("x" * 10_000)
            except ClientTooSlow as error:
                told = error
                break
            await asyncio.sleep(0)
        assert told is not None
        call.fail(told)  # as a real call passes it on
        refusal = await refused(slow)
    assert (refusal.code, refusal.reason) == (_Code.RESOURCE_EXHAUSTED, "CLIENT_TOO_SLOW")
    assert refusal.about["outcome"] == "failed"
    assert int(refusal.about["sent_pieces"]) > 0


@pytest.mark.parametrize("spoken", [0, 3])
async def test_a_client_that_cancels_aborts_the_work(daemon: RunningDaemon, spoken: int) -> None:
    stream = daemon.inference.Generate(generate())
    await read_until(stream, "started")
    call = await daemon.backend.calls.get()
    for number in range(spoken):
        call.say(str(number))
        await read_until(stream, "chunk")
    stream.cancel()
    await asyncio.wait_for(call.ended.wait(), PATIENCE_S)
    assert call.aborted
    assert await daemon.outcomes() == {"cancelled": 1}


async def test_a_client_that_cancels_while_it_waits_never_reaches_the_backend(
    daemon: RunningDaemon,
) -> None:
    running = daemon.inference.Generate(generate())
    await read_until(running, "started")
    call = await daemon.backend.calls.get()
    waiting = daemon.inference.Generate(generate(agent_id="opus-2"))
    await read_until(waiting, "queued")
    waiting.cancel()
    await daemon.until_status(lambda status: status.queued == 0)
    call.complete()
    await read_until(running, "done")
    assert not daemon.backend.was_reached
    assert await daemon.outcomes() == {"completed": 1, "cancelled": 1}


async def test_a_slow_reader_that_cancels_aborts_the_work_too(daemon: RunningDaemon) -> None:
    async with daemon.open_channel(*SMALL_WINDOW) as far:
        slow = generate_on(far, generate())
        await read_until(slow, "started")
        call = await daemon.backend.calls.get()
        for _ in range(300):  # more than the connection takes: the answer is stuck on its way
            call.say("x" * 2_000)
            await asyncio.sleep(0)
        slow.cancel()
        await asyncio.wait_for(call.ended.wait(), PATIENCE_S)
    assert call.aborted


async def test_a_lost_connection_aborts_the_work(daemon: RunningDaemon) -> None:
    async with daemon.open_channel() as far:
        await read_until(generate_on(far, generate()), "started")
    call = await daemon.backend.calls.get()
    await asyncio.wait_for(call.ended.wait(), PATIENCE_S)
    assert call.aborted


async def test_the_broker_says_that_the_deadline_passed_before_the_client_knows(
    daemon: RunningDaemon,
) -> None:
    """With details: a client whose own timer was first would have none."""
    running = daemon.inference.Generate(generate(), timeout=1.5)
    await read_until(running, "started")
    call = await daemon.backend.calls.get()
    call.say("a")
    waiting = daemon.inference.Generate(generate(agent_id="opus-2"), timeout=1.0)
    ran, waited = await asyncio.gather(refused(running), refused(waiting))
    for each in (ran, waited):
        assert (each.code, each.reason) == (_Code.DEADLINE_EXCEEDED, "DEADLINE_EXPIRED")
        assert each.about["outcome"] == "expired"
    assert (ran.about["sent_pieces"], waited.about["sent_pieces"]) == ("1", "0")
    assert "while it ran" in ran.message
    assert "a free slot of talk:latest" in waited.message
    await asyncio.wait_for(call.ended.wait(), PATIENCE_S)
    assert call.aborted


async def test_a_newer_call_takes_the_stream_over(daemon: RunningDaemon) -> None:
    old = daemon.inference.Generate(generate(request_id="mine"))
    await read_until(old, "started")
    call = await daemon.backend.calls.get()
    call.say("a")
    call.say("b")
    seen = await read_until(old, "chunk")
    assert text_of(seen) == "ab"
    new = daemon.inference.Generate(generate(request_id="mine", resume_from_seq=1))
    refusal = await refused(old)
    assert (refusal.code, refusal.reason) == (_Code.ABORTED, "TAKEN_OVER")
    assert refusal.about == {"sent_pieces": "2"}  # no outcome: the request goes on
    call.say("c")
    call.complete()
    events = await read_until(new, "done")
    assert kinds(events)[0] == "started"
    assert text_of(events) == "bc"
    assert events[1].chunk.seq == 1
    assert not call.aborted
    assert daemon.backend.calls.empty()
    assert await daemon.outcomes() == {"completed": 1}


async def test_a_client_that_comes_back_within_the_grace_goes_on_where_it_was() -> None:
    server = ServerConfig(**{**FREE_PORTS.model_dump(), "reconnect_grace_ms": 60_000})
    async with running_daemon(Config(server=server, backends=(BACKEND,))) as daemon:
        async with daemon.open_channel() as far:
            lost = generate_on(far, generate(request_id="mine"))
            await read_until(lost, "started")
            call = await daemon.backend.calls.get()
            call.say("a")
            await read_until(lost, "chunk")
        call.say("b")
        again = daemon.inference.Generate(generate(request_id="mine", resume_from_seq=1))
        assert text_of(await read_until(again, "chunk")) == "b"
        call.complete()
        await read_until(again, "done")
        assert await daemon.outcomes() == {"completed": 1}


@pytest.mark.parametrize(
    ("error", "code", "reason", "retries"),
    [
        (BackendFailed("the runner died"), _Code.INTERNAL, "BACKEND_FAILED", False),
        (BackendBusy("its queue is full"), _Code.UNAVAILABLE, "BACKEND_FAILED", True),
        (BackendUnreachable("gone"), _Code.UNAVAILABLE, "BACKEND_FAILED", True),
        (BackendRefused("bad image", status=400), _Code.INVALID_ARGUMENT, "BACKEND_REFUSED", False),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_a_failing_backend_is_told_with_how_much_was_sent(
    daemon: RunningDaemon, error: BrokerError, code: grpc.StatusCode, reason: str, retries: bool
) -> None:
    stream = daemon.inference.Generate(generate())
    await read_until(stream, "started")
    call = await daemon.backend.calls.get()
    call.say("a", "b")
    await read_until(stream, "chunk")
    call.fail(error)
    refusal = await refused(stream)
    assert (refusal.code, refusal.reason, refusal.message) == (code, reason, error.message)
    assert refusal.about == {"outcome": "failed", "sent_pieces": "2"}
    assert (refusal.retry_after_s is not None) is retries


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    config = Config(
        server=FREE_PORTS, limits=LimitsConfig(queued_max=1), backends=(ONE_SLOT,), **QUICK
    )
    async with running_daemon(config) as daemon:
        streams = []
        for number, until in enumerate(("started", "queued")):
            stream = daemon.inference.Generate(generate(agent_id=f"opus-{number}"))
            await read_until(stream, until)
            streams.append(stream)
        refusal = await refused(daemon.inference.Generate(generate(agent_id="opus-3")))
        assert (refusal.code, refusal.reason) == (_Code.UNAVAILABLE, "QUEUE_FULL")
        assert refusal.about == {"outcome": "refused"}
        assert refusal.retry_after_s is not None
        assert refusal.retry_after_s > 0
        for stream in streams:
            (await daemon.backend.calls.get()).complete()
            await read_until(stream, "done")


async def test_a_backend_that_is_away_refuses_with_a_reason_and_is_found_again(
    daemon: RunningDaemon,
) -> None:
    daemon.backend.problem = BackendUnreachable("nobody listens there")
    await daemon.until_status(lambda status: not status.backends[0].up)
    refusal = await refused(daemon.inference.Generate(generate()))
    assert (refusal.code, refusal.reason) == (_Code.UNAVAILABLE, "NO_BACKEND")
    assert "nobody listens there" in refusal.message
    assert refusal.retry_after_s == 2.0
    daemon.backend.problem = None
    await daemon.until_status(lambda status: status.backends[0].up)
    stream = daemon.inference.Generate(generate())
    await read_until(stream, "started")
    (await daemon.backend.calls.get()).complete()
    await read_until(stream, "done")


async def test_a_model_that_cannot_be_loaded_is_told_to_who_waits_and_who_comes(
    daemon: RunningDaemon,
) -> None:
    daemon.backend.load_problem = BackendFailed("invalid file magic")
    # Before the load is tried again: who has more time than that waits for it.
    too_soon_s = PlacementConfig().failed_load_hold_s / 2
    for outcome in ("failed", "refused"):
        refusal = await refused(daemon.inference.Generate(generate(), timeout=too_soon_s))
        assert (refusal.code, refusal.reason) == (_Code.UNAVAILABLE, "LOAD_FAILED")
        assert refusal.about["outcome"] == outcome
        assert refusal.retry_after_s is not None


async def test_what_goes_back_to_the_queue_is_told_and_starts_again(daemon: RunningDaemon) -> None:
    stream = daemon.inference.Generate(generate())
    await read_until(stream, "started")
    (await daemon.backend.calls.get()).fail(BackendUnreachable("connection refused"))
    events = await read_until(stream, "requeued")
    assert events[-1].requeued.reason == "connection refused"
    assert events[-1].requeued.discard_before_seq == 0
    await read_until(stream, "started")
    (await daemon.backend.calls.get()).complete()
    await read_until(stream, "done")
    assert await daemon.outcomes() == {"completed": 1}


async def test_a_cancel_says_where_the_request_was(daemon: RunningDaemon) -> None:
    running = daemon.inference.Generate(generate(request_id="runs"))
    await read_until(running, "started")
    call = await daemon.backend.calls.get()
    waiting = daemon.inference.Generate(generate(request_id="waits"))
    await read_until(waiting, "queued")
    call.say("a")
    await read_until(running, "chunk")
    for name, state, sent in (("waits", "queued", "0"), ("runs", "streaming", "1")):
        cancel = pb.CancelRequest(agent_id="opus-1", request_id=name)
        assert (await daemon.inference.Cancel(cancel)).state == state
        refusal = await refused(waiting if name == "waits" else running)
        assert refusal.reason == "CANCELLED"
        assert refusal.about == {"outcome": "cancelled", "sent_pieces": sent}
        assert (await refused(daemon.inference.Cancel(cancel))).reason == "REQUEST_UNKNOWN"
    stranger = pb.CancelRequest(agent_id="opus-2", request_id="runs")
    assert (await refused(daemon.inference.Cancel(stranger))).reason == "REQUEST_UNKNOWN"
    await asyncio.wait_for(call.ended.wait(), PATIENCE_S)
