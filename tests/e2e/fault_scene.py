"""What every test of a fault works with: a real `brokerd`, a simulated Ollama, the Python client,
and a check that nothing is left of the fault when it is over."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from broker_client import AsyncClient, BrokerError, Chunk, Done, Event, Requeued
from broker_client.pb.broker.v1 import admin_pb2
from tests.e2e.processes import PATIENCE_S, SERVER, BrokerProcess, backend_table, brokerd
from tests.integration.ollama_sim_process import Simulator, start_simulator

MODEL: Final = "tinyllama"
LONG: Final = 400  # tokens of an answer at most: long enough for others to wait for its slot
SHORT: Final = 8
# Times short enough to be waited for, long enough that a busy machine is no fault: a healthy answer
# of the simulator below takes a tenth of a second.
QUICK: Final = """
drain_timeout_s = 5
[queue]
announce_interval_ms = 50
[placement]
slot_grace_ms = 50
failed_load_hold_s = 1
load_timeout_s = 3
unload_timeout_s = 3
[timeouts]
first_token_s = 3
token_gap_s = 3
[retries]
backoff_s = 0.05
budget_max = 1000
[breaker]
failures = 1000
open_s = 0.5
open_s_max = 1.0
[healing]
cure_timeout_s = 3
"""
MEMORY_MAX: Final = 64 << 20  # bytes that a fault may leave behind: allocators do not give all back
THREADS_MAX: Final = 8  # beside those at first: gRPC makes a few more when it has much to do
# Connections to a backend that may wait for their next call: one of each slot and of control calls.
IDLE_MAX: Final = 4


@dataclass(slots=True)
class Heard:
    """What one agent heard of one request, to its end."""

    request_id: str
    events: list[Event] = field(default_factory=list)
    error: BrokerError | None = None

    @property
    def text(self) -> str:
        """Of the pieces that were not declared void."""
        kept: list[Chunk] = []
        for each in self.events:
            if isinstance(each, Requeued):
                kept = [chunk for chunk in kept if chunk.seq >= each.discard_before_seq]
            elif isinstance(each, Chunk):
                kept.append(each)
        return "".join(each.text for each in kept)

    @property
    def pieces(self) -> int:
        return sum(isinstance(each, Chunk) for each in self.events)

    @property
    def is_done(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], Done)

    def one_of(self, kind: type[Event]) -> bool:
        return any(isinstance(each, kind) for each in self.events)


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds that a fault may leak."""

    descriptors: int  # but those to the backend's port
    idle: int  # connections to it
    threads: int
    memory_bytes: int


class Scene:
    """`mark` once all is well; `leaves_nothing` when the fault is over."""

    def __init__(self, broker: BrokerProcess, simulator: Simulator, client: AsyncClient) -> None:
        self.broker = broker
        self.simulator = simulator
        self.client = client
        self._marked: Held | None = None

    async def ask(
        self, tokens: int = SHORT, *, on: Callable[[Event], None] | None = None, **more: Any
    ) -> Heard:
        """One generation to its end, whatever that is; `on` is called with each event."""
        asked: Any = {"model": MODEL, "prompt": "go", "max_tokens": tokens, "seed": 1, **more}
        stream = self.client.stream(**asked)
        heard = Heard(stream.request_id)
        try:
            async with stream as events:
                async for event in events:
                    heard.events.append(event)
                    if on is not None:
                        on(event)
        except BrokerError as error:
            heard.error = error
        return heard

    async def in_flight_and_waiting(self, **more: Any) -> tuple[Heard, Heard]:
        """One long answer under way, and a short one that waits for the only slot; both to their
        ends."""
        begun = asyncio.Event()

        def begin(event: Event) -> None:
            if isinstance(event, Chunk):
                begun.set()

        first = asyncio.create_task(self.ask(LONG, on=begin, **more))
        ready = asyncio.create_task(begun.wait())
        await asyncio.wait((first, ready), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        second = await self.ask(SHORT)
        return await first, second

    async def serves(self) -> None:
        """A request that comes now is served."""
        heard = await self.ask(SHORT)
        assert heard.is_done, heard

    async def warm_up(self) -> None:
        """The model is loaded then, and everything is there that only the first request makes."""
        await self.broker.until_status(lambda status: status.backends[0].up)
        for _ in range(3):
            await self.serves()
        await self.mark()

    async def mark(self) -> None:
        await self.at_rest()
        self._marked = self._held()

    async def at_rest(self) -> admin_pb2.GetStatusResponse:
        """The first status in which nothing waits, runs, or holds a slot."""
        return await self.broker.until_status(
            lambda status: not (status.queued or status.running or status.backends[0].running)
        )

    async def explained(self, heard: Heard) -> str:
        """Everything that `explain` says of a request, as text."""
        return str(await self.client.explain(heard.request_id))

    async def leaves_nothing(self) -> None:
        """Slots, descriptors, threads, memory are as they were; the server works for nobody."""
        assert self._marked is not None
        before = self._marked
        await self.at_rest()
        await self.simulator.wait_until("active", 0)

        def is_as_before(held: Held) -> bool:
            return (
                held.descriptors <= before.descriptors
                and held.idle <= IDLE_MAX
                and held.threads <= before.threads + THREADS_MAX
            )

        given_up_s = time.monotonic() + PATIENCE_S
        while not is_as_before(held := self._held()):
            assert time.monotonic() < given_up_s, (before, held)
            await asyncio.sleep(0.05)
        assert held.memory_bytes - before.memory_bytes < MEMORY_MAX, (before, held)

    def _held(self) -> Held:
        process = psutil.Process(self.broker.process.pid)
        to_backend = [
            each
            for each in process.net_connections("tcp")
            if each.raddr and each.raddr.port == self.simulator.port
        ]
        return Held(
            descriptors=process.num_fds() - len(to_backend),
            idle=len(to_backend),
            threads=process.num_threads(),
            memory_bytes=process.memory_info().rss,
        )

    async def leaves_well(self) -> None:
        """Told to stop it does so in order, which needs every task of it to end."""
        self.broker.tell(signal.SIGTERM)
        assert await self.broker.ended() == 0
        assert self.broker.plain == []  # no traceback, no word of a library


@asynccontextmanager
async def scene(
    folder: Path,
    *,
    config: str = QUICK,
    backend: str = "",
    speed: str = "5",
    flags: tuple[str, ...] = (),
    is_warm: bool = True,
) -> AsyncIterator[Scene]:
    """Everything started, and at the end stopped and looked after."""
    simulator = start_simulator("--speed", speed, "--seed", "7", *flags)
    try:
        table = backend_table(simulator.port, backend)
        async with brokerd(SERVER + config + table, folder) as broker:
            address = (await broker.said("broker listening"))["grpc"]
            async with AsyncClient(address, agent_id="system-1", pace=False) as client:
                made = Scene(broker, simulator, client)
                if is_warm:
                    await made.warm_up()
                yield made
                await made.leaves_nothing()
                await made.leaves_well()
    finally:
        simulator.stop()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits for something that is asked for again and again."""
    given_up_s = time.monotonic() + PATIENCE_S
    while not await holds():
        assert time.monotonic() < given_up_s
        await asyncio.sleep(0.02)
