"""The agents of `fleet`: how each sends its request by way of one rival, and when it gives up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import grpc

from bench.fleet_broker import broker
from bench.fleet_machine import Machine, agents_session
from bench.processes import Measured
from bench.scheduling_cells import GIVES_UP_NS
from broker.core.requests import Outcome, RequestKey
from broker.sim.collating import Collating
from broker.sim.workload import Task
from broker_client.pb.broker.v1 import inference_pb2 as pb
from broker_client.pb.broker.v1 import inference_pb2_grpc

OnFirst = Callable[[], None]
Send = Callable[[Task, OnFirst], Awaitable[Outcome]]
Stays = Callable[[Task], Awaitable[bool]]

_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Way:
    """By way of one rival. Where it is a broker: its process, and between which moments each would
    start, as its first word said where that said anything."""

    send: Send
    process: Measured | None = None
    told_ns: Mapping[RequestKey, tuple[int, int]] = field(default_factory=dict)


@asynccontextmanager
async def nothing(machine: Machine, *, sees_loads: bool) -> AsyncIterator[Way]:
    """Straight to the server. Who gives up while its model is loaded for its sake ends that load;
    with `sees_loads` it stays, which no client of Ollama could know to do."""
    async with agents_session() as session:
        agents = _Direct(machine, session)
        kind = _Kind(machine, agents)
        yield Way(kind.send if sees_loads else agents.send)


@asynccontextmanager
async def collation(machine: Machine) -> AsyncIterator[Way]:
    """llama-swap's rule before the server: the very rule of `scheduling`, on a real clock."""
    async with agents_session() as session, asyncio.TaskGroup() as swaps:
        yield Way(_Collated(machine, session, swaps).send)


@asynccontextmanager
async def engine(machine: Machine, *, rule: str) -> AsyncIterator[Way]:
    """The daemon, with its own rule or a rival's."""
    async with AsyncExitStack() as stack:
        address, process = await stack.enter_async_context(broker(machine, rule))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        stub = inference_pb2_grpc.InferenceStub(channel)
        agents = _ThroughBroker(machine, stub)
        yield Way(agents.send, process, agents.told_ns)


class _Direct:
    """An agent with an HTTP client and a time-out until the first word, as agents have without a
    broker. `waiting` are those without a word so far, in order of arrival."""

    def __init__(self, machine: Machine, session: aiohttp.ClientSession) -> None:
        self._machine, self._session = machine, session
        self.waiting: dict[Task, None] = {}

    async def send(
        self,
        task: Task,
        on_first: OnFirst,
        stays: Stays | None = None,
        patience_ns: int = GIVES_UP_NS,
    ) -> Outcome:
        heard = asyncio.Event()

        def first() -> None:
            on_first()
            heard.set()

        self.waiting[task] = None
        call = asyncio.create_task(self._call(task, first))
        word = asyncio.create_task(heard.wait())
        try:
            limit_s = patience_ns / 1e9 / self._machine.speed
            await asyncio.wait({call, word}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            is_silent = not heard.is_set() and not call.done()
            if is_silent and (stays is None or not await stays(task)):
                return Outcome.CANCELLED
            return await call
        finally:
            self.waiting.pop(task, None)
            word.cancel()
            call.cancel()
            await asyncio.wait({call, word})

    async def _call(self, task: Task, first: OnFirst) -> Outcome:
        machine = self._machine
        body = {
            "model": machine.wording.model(task),
            "prompt": machine.wording.prompt(task),
            "options": {"num_predict": machine.wording.output_max(task)},
        }
        line = b""
        try:
            async with self._session.post(f"{machine.url}/api/generate", json=body) as answer:
                if answer.status != 200:
                    return Outcome.REFUSED if answer.status == 503 else Outcome.FAILED
                async for piece in answer.content:
                    line = piece
                    if task in self.waiting:
                        del self.waiting[task]
                        first()
        except aiohttp.ClientError:
            return Outcome.FAILED
        return Outcome.COMPLETED if b'"done":true' in line else Outcome.FAILED


class _Kind:
    """Agents that know when a load is for them, and stay: the oldest that waits for the model is
    the one that its load belongs to."""

    def __init__(self, machine: Machine, agents: _Direct) -> None:
        self._machine, self._agents = machine, agents

    async def send(self, task: Task, on_first: OnFirst) -> Outcome:
        return await self._agents.send(task, on_first, self._is_loading_for)

    async def _is_loading_for(self, task: Task) -> bool:
        loading = await self._machine.meter.loading()
        model_of = self._machine.wording.model
        oldest = next((each for each in self._agents.waiting if model_of(each) == loading), None)
        return task is oldest


class _Collated:
    """Before each call its model is made ready, by llama-swap's rule."""

    def __init__(
        self, machine: Machine, session: aiohttp.ClientSession, swaps: asyncio.TaskGroup
    ) -> None:
        self._machine, self._session, self._swaps = machine, session, swaps
        self._agents = _Direct(machine, session)
        self._rule: Collating[asyncio.Future[None]] = Collating(
            machine.cell.resident,
            load=lambda model: self._begin(model, -1, self._rule.loaded),
            unload=lambda model: self._begin(model, 0, self._rule.unloaded),
            pass_on=lambda ready: ready.set_result(None),
        )

    async def send(self, task: Task, on_first: OnFirst) -> Outcome:
        loop, model = asyncio.get_running_loop(), self._machine.wording.model(task)
        came_s, limit_s = loop.time(), GIVES_UP_NS / 1e9 / self._machine.speed
        ready = loop.create_future()
        self._rule.come(model, ready)
        await asyncio.wait({ready}, timeout=limit_s)
        if not ready.done():
            self._rule.leave(model, ready)
            return Outcome.CANCELLED
        left_s = max(0.0, limit_s - (loop.time() - came_s))
        try:
            patience_ns = int(left_s * self._machine.speed * 1e9)
            return await self._agents.send(task, on_first, patience_ns=patience_ns)
        finally:
            self._rule.ended(model)

    def _begin(self, model: str, keep_alive: int, then: Callable[[], None]) -> None:
        self._swaps.create_task(self._swap(model, keep_alive, then))

    async def _swap(self, model: str, keep_alive: int, then: Callable[[], None]) -> None:
        """A load without an end, or an unload; a failure ends the benchmark."""
        body = {"model": model, "keep_alive": keep_alive, "stream": False}
        async with self._session.post(f"{self._machine.url}/api/generate", json=body) as answer:
            answer.raise_for_status()
        then()


class _ThroughBroker:
    """The same agent with the broker's stub, a limit for its wait, and a deadline. Both are in the
    fleet's seconds, as the broker's own are."""

    def __init__(self, machine: Machine, stub: inference_pb2_grpc.InferenceAsyncStub) -> None:
        self._wording, self._stub = machine.wording, stub
        self.told_ns: dict[RequestKey, tuple[int, int]] = {}

    async def send(self, task: Task, on_first: OnFirst) -> Outcome:
        request = pb.GenerateRequest(
            request_id=task.request_id,
            agent_id=task.agent_id,
            model=self._wording.model(task),
            priority=task.priority,
        )
        request.prompt.text = self._wording.prompt(task)
        request.options.max_tokens = self._wording.output_max(task)
        request.timeouts.queue_ms = task.queue_limit_ns // _MS
        is_done = has_begun = has_heard = False
        try:
            async for event in self._stub.Generate(request, timeout=task.patience_ns / 1e9):
                if not has_heard and event.HasField("queued"):
                    has_heard = True
                    self._hear(task, event.queued)
                if not has_begun and event.HasField("chunk"):
                    has_begun = True
                    on_first()
                is_done = event.HasField("done")
        except grpc.aio.AioRpcError as error:
            return _OUTCOMES.get(error.code(), Outcome.FAILED)
        return Outcome.COMPLETED if is_done else Outcome.FAILED

    def _hear(self, task: Task, word: pb.Queued) -> None:
        """The first word comes at once."""
        if word.HasField("eta_low_ms") and word.HasField("eta_high_ms"):
            first_ns, last_ns = word.eta_low_ms * _MS, word.eta_high_ms * _MS
            self.told_ns[task.key] = (task.at_ns + first_ns, task.at_ns + last_ns)


_OUTCOMES = {
    grpc.StatusCode.DEADLINE_EXCEEDED: Outcome.EXPIRED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Outcome.REFUSED,
    grpc.StatusCode.UNAVAILABLE: Outcome.REFUSED,
}
