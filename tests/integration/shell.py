"""The real driver and engine around a fake backend, on a real loop, without the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from broker.core.agent_policy import OPEN_HOUSE, AgentsPolicy
from broker.core.content import GenerateContent, Prompt
from broker.core.effects import Effect, Own
from broker.core.engine import Engine
from broker.core.invariants import check
from broker.core.observer import Observer
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.policy import EnginePolicy
from broker.core.queueing import QueuePolicy
from broker.core.requests import Criticality, RequestKind, RequestSpec
from broker.models.catalog import Catalog
from broker.models.discovery import Discovery, DiscoveryPolicy
from broker.runtime.clock import LoopClock
from broker.runtime.driver import Driver, DriverLimits
from broker.runtime.observers import Observers
from broker.runtime.streams import StreamEvent, Subscription
from broker.runtime.supervisor import Supervisor
from tests.integration.fake_backend import FakeBackend

CONTENT = GenerateContent(input=Prompt(text="hello"))
# Nobody comes after this broker.
FORGETFUL: Mapping[type[Effect], Callable[[Any], None]] = {Own: lambda _: None}
MINUTE_NS = 60_000_000_000


@dataclass(slots=True)
class Shell:
    """What a test works with."""

    driver: Driver
    engine: Engine
    backend: FakeBackend
    discovery: Discovery
    supervisor: Supervisor

    def submit(
        self,
        request_id: str = "r1",
        *,
        agent_id: str = "agent-1",
        model: str = "m:latest",
        content: str = "same",
        resume_from: int = 0,
        priority: int = 5,
        lasts_ns: int = MINUTE_NS,
    ) -> Subscription:
        spec = RequestSpec(
            key=(agent_id, request_id),
            fingerprint=content.encode(),
            kind=RequestKind.GENERATE,
            model=model,
            priority=priority,
            criticality=Criticality.NORMAL,
            deadline_ns=self.driver.now_ns() + lasts_ns,
            size_bytes=10,
        )
        return self.driver.submit(spec, CONTENT, resume_from=resume_from)


@asynccontextmanager
async def running_shell(
    *models: str,
    slots: int = 1,
    limits: DriverLimits | None = None,
    is_up: bool = True,
    keep_alive_ns: int = 10 * MINUTE_NS,
    agents: AgentsPolicy = OPEN_HOUSE,
    observer: Observer | None = None,
    is_local: bool = False,
) -> AsyncIterator[Shell]:
    """A shell whose backend has been asked once; the engine's laws are checked at the end."""
    backend = FakeBackend(*(models or ("m:latest",)))
    policy = EnginePolicy(
        backends=(BackendPolicy(name="b", exclusive=True, is_local=is_local),),
        queue=QueuePolicy(announce_interval_ns=1_000_000),
        placement=PlacementPolicy(slot_grace_ns=1, keep_alive_ns=keep_alive_ns),
        agents=agents,
    )
    engine = Engine(policy)
    clock = LoopClock()
    async with Supervisor(100) as supervisor:
        limits = limits or DriverLimits()
        observer = observer or Observers()
        driver = Driver(engine, {"b": backend}, clock, supervisor, limits, observer, FORGETFUL)
        discovery = Discovery(
            backend,
            DiscoveryPolicy(slots=slots),
            Catalog({}),
            driver.feed,
            clock.monotonic_ns,
            clock.sleep,
        )
        if is_up:
            await discovery.ask()
        yield Shell(driver, engine, backend, discovery, supervisor)
        check(engine)
        driver.close()


async def read(subscription: Subscription, kind: type[StreamEvent]) -> StreamEvent:
    """The next event of this kind; others before it are passed over."""
    async for event in subscription:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"the stream ended before a {kind.__name__}")
