"""Subscribers in a process of their own, that read and count and do nothing else.

    python -m bench.listeners --address 127.0.0.1:50434 --count 1000 --topic 'load:**'

It says when each has had its first message. When its input ends it prints what they were told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from dataclasses import asdict, dataclass

import grpc
import uvloop

from broker_client.pb.broker.v1 import pubsub_pb2 as pb
from broker_client.pb.broker.v1 import pubsub_pb2_grpc

CHANNELS = 8
AGENTS = 50  # an agent may have a hundred subscribers


@dataclass(slots=True)
class Tally:
    """What all of them were told so far."""

    messages: int = 0
    events: int = 0
    missed: int = 0


async def listen(
    stub: pubsub_pb2_grpc.PubSubAsyncStub, agent_id: str, topic: str, tally: Tally
) -> None:
    """One subscriber; returns after its first message, which is of states, and reads on."""
    call = stub.Subscribe(pb.SubscribeRequest(agent_id=agent_id, topics=[topic]))
    first = await call.read()
    if not isinstance(first, pb.SubscribeResponse):
        raise RuntimeError("a subscription ended at once")

    async def read() -> None:
        while isinstance(message := await call.read(), pb.SubscribeResponse):
            tally.messages += 1
            tally.events += len(message.events)
            tally.missed += message.missed

    task = asyncio.get_running_loop().create_task(read())
    _reading.add(task)


_reading: set[asyncio.Task[None]] = set()


async def _main(address: str, count: int, topic: str) -> None:
    tally = Tally()
    # Without a pool of its own each channel would be a name for the same connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CHANNELS)]
    stubs = [pubsub_pb2_grpc.PubSubStub(each) for each in channels]
    await asyncio.gather(
        *(
            listen(stubs[number % CHANNELS], f"bench-{number % AGENTS}", topic, tally)
            for number in range(count)
        )
    )
    # It shares a core with those whose tokens are timed, and must not be what they wait for.
    os.nice(10)
    print("listeners ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    print(json.dumps(asdict(tally)), flush=True)
    # A thousand calls are not ended one by one: the kernel closes what is open.
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--topic", default="load:**")
    options = parser.parse_args()
    uvloop.run(_main(options.address, options.count, options.topic))


if __name__ == "__main__":
    main()
