"""A daemon that leaves: its subscribers are told, and none of them holds it up."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from broker_client.pb.broker.v1 import pubsub_pb2 as pb
from broker_client.pb.broker.v1 import pubsub_pb2_grpc
from tests.e2e.processes import QUICK, SERVER, backend_table, brokerd
from tests.integration.daemon import refused

NOBODY = 9  # the port of "discard", where no Ollama listens


@pytest.mark.slow
async def test_a_subscriber_hears_that_the_broker_leaves(tmp_path: Path) -> None:
    async with brokerd(SERVER + QUICK + backend_table(NOBODY), tmp_path) as broker:
        assert broker.channel is not None
        stub = pubsub_pb2_grpc.PubSubStub(broker.channel)
        streams = [
            stub.Subscribe(pb.SubscribeRequest(agent_id="opus-1", topics=["**"])) for _ in range(3)
        ]
        for stream in streams:
            assert isinstance(await stream.read(), pb.SubscribeResponse)
        broker.tell()
        for stream in streams:
            refusal = await refused(stream)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert refusal.retry_after_s is not None
        assert await broker.ended() == 0
        assert broker.plain == []
