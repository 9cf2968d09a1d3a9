"""What one client sends, or does not send, costs the others nothing, and is bounded."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from broker.config.resilience import FloodsConfig
from broker.config.schema import AgentsConfig, AgentTypeConfig, Config
from broker.core.errors import ClientTooSlow
from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    PATIENCE_S,
    RunningDaemon,
    read_until,
    refused,
    running_daemon,
)
from tests.integration.fake_backend import FakeCall
from tests.integration.http2_client import (
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    REFUSED_STREAM,
    RST_STREAM,
    http2_client,
    message,
)
from tests.integration.test_delivery import handlers
from tests.integration.test_generate_rpc import generate_on
from tests.integration.wire_requests import embed, generate

GENERATE = "/broker.v1.Inference/Generate"
GET_QUOTA = "/broker.v1.Inference/GetQuota"
ANYBODY = AgentsConfig(types=(AgentTypeConfig(name="any", match=("*",)),), default_type="any")
SLOW_SENDERS = 100


def config(**floods: Any) -> Config:
    return Config(
        server=FREE_PORTS, backends=(BACKEND,), agents=ANYBODY, floods=FloodsConfig(**floods)
    )


async def until_no_handler(daemon: RunningDaemon) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while handlers():
            await daemon.get("/healthz")


async def complete_one(daemon: RunningDaemon) -> None:
    """An ordinary client is served from beginning to end."""
    stream = daemon.inference.Generate(generate(agent_id="other"))
    await read_until(stream, "started")
    (await daemon.backend.calls.get()).complete()
    await read_until(stream, "done")


async def test_an_agent_has_so_many_calls_open_and_no_more() -> None:
    async with (
        running_daemon(config(calls_per_agent_max=2)) as daemon,
        daemon.open_channel() as far,
    ):
        mine = [generate_on(each, generate(agent_id="a")) for each in (daemon.channel, far)]
        for stream in mine:
            await read_until(stream, "queued")
        for call in (
            daemon.inference.Generate(generate(agent_id="a")),
            daemon.inference.Embed(embed(agent_id="a")),
        ):
            refusal = await refused(call)
            assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusal.reason == "CALLS_FULL"
            assert "'a' has 2 calls open" in refusal.message
            assert refusal.retry_after_s is not None
            assert refusal.about["outcome"] == "refused"
        await daemon.inference.Embed(embed(agent_id="b"))
        mine[0].cancel()
        mine[1].cancel()
        await until_no_handler(daemon)
        await daemon.inference.Embed(embed(agent_id="a"))


async def test_a_connection_opens_calls_so_fast_and_no_faster_bad_ones_too() -> None:
    floods = config(calls_per_s=0.1, calls_burst=3)
    async with running_daemon(floods) as daemon, daemon.open_channel() as far:
        await daemon.inference.GetQuota(pb.GetQuotaRequest(agent_id="a"))
        for _ in range(2):
            bad = await refused(daemon.inference.GetQuota(pb.GetQuotaRequest(agent_id="")))
            assert bad.reason == "INVALID_FIELD"
        for call in (
            daemon.inference.GetQuota(pb.GetQuotaRequest(agent_id="a")),
            daemon.inference.Generate(generate()),
        ):
            refusal = await refused(call)
            assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusal.reason == "CALL_RATE_LIMITED"
            assert "0.1 a second, 3 at once" in refusal.message
            assert refusal.retry_after_s is not None
            assert 0 < refusal.retry_after_s <= 10
        stream = generate_on(far, generate())  # another connection has calls of its own
        await read_until(stream, "started")
        (await daemon.backend.calls.get()).complete()
        await read_until(stream, "done")


async def test_who_pings_without_end_loses_the_connection_and_nobody_else_does() -> None:
    async with running_daemon(config()) as daemon, http2_client(daemon.port) as client:
        for _ in range(10):
            client.ping()
        async with asyncio.timeout(PATIENCE_S):
            # It is told why, unless the end of the connection overtakes that.
            while (frame := await client.read()) is not None:
                assert frame.kind != GOAWAY or frame.error_code == ENHANCE_YOUR_CALM
        await complete_one(daemon)


async def test_requests_that_never_come_whole_stop_nobody_and_are_ended() -> None:
    floods = config(client_stall_timeout_s=1, calls_per_connection_max=SLOW_SENDERS)
    async with running_daemon(floods) as daemon, http2_client(daemon.port) as client:
        assert client.streams_max == SLOW_SENDERS
        request = message(generate(agent_id="slow").SerializeToString())
        streams = [client.open_call(GENERATE) for _ in range(SLOW_SENDERS)]
        for stream in streams:
            client.send(stream, request[:1])
        await complete_one(daemon)
        # The transport itself refuses what is too many for one connection.
        refused_stream = client.open_call(GENERATE)
        async with asyncio.timeout(PATIENCE_S):
            reset = await client.read_until(RST_STREAM, refused_stream)
            assert reset.error_code == REFUSED_STREAM
            for stream in streams:
                assert (await client.read_until(HEADERS, stream)).flags & 1  # its status
        await until_no_handler(daemon)
        await complete_one(daemon)


async def test_a_request_that_comes_byte_by_byte_is_taken_if_it_comes_in_time() -> None:
    async with running_daemon(config()) as daemon, http2_client(daemon.port) as client:
        stream = client.open_call(GENERATE)
        for byte in message(generate(agent_id="slow").SerializeToString()):
            client.send(stream, bytes((byte,)))
            await client.writer.drain()
        client.send(stream, b"", is_ended=True)
        call = await daemon.backend.calls.get()
        call.complete()
        assert await daemon.outcomes() == {"completed": 1}


async def test_a_call_without_any_request_is_told_so() -> None:
    async with running_daemon(config()) as daemon, http2_client(daemon.port) as client:
        stream = client.open_call(GET_QUOTA, is_ended=True)
        async with asyncio.timeout(PATIENCE_S):
            assert (await client.read_until(HEADERS, stream)).flags & 1
        await until_no_handler(daemon)


async def test_who_says_to_take_everything_and_reads_nothing_fills_no_memory() -> None:
    async with running_daemon(config()) as daemon, http2_client(daemon.port) as client:
        client.open_window()
        stream = client.open_call(GENERATE)
        request = message(generate(agent_id="a").SerializeToString())
        client.send(stream, request, is_ended=True)
        work = await daemon.backend.calls.get()
        # A hundred megabytes: more than any buffer on the way.
        with pytest.raises(ClientTooSlow, match="1048576 bytes of the answer wait"):
            await say_much(work, 5_000)
        await complete_one(daemon)


async def say_much(work: FakeCall, times: int) -> None:
    for _ in range(times):
        work.say("x" * 20_000)
        await asyncio.sleep(0)


async def test_idle_connections_stop_nobody() -> None:
    async with running_daemon(config()) as daemon:
        idle = [await asyncio.open_connection("127.0.0.1", daemon.port) for _ in range(200)]
        await complete_one(daemon)
        for _, writer in idle:
            writer.transport.abort()


async def test_a_burst_of_calls_is_answered_whole() -> None:
    """More than the 1,000 that gRPC itself keeps for who has not looked at them yet."""
    burst = 1_900
    open_floods = config(calls_per_s=100_000, calls_burst=100_000)
    async with running_daemon(open_floods) as daemon:
        asked = [daemon.inference.GetQuota(pb.GetQuotaRequest(agent_id="a")) for _ in range(burst)]
        ends = await asyncio.gather(*(each.code() for each in asked))
        assert set(ends) == {grpc.StatusCode.OK}
