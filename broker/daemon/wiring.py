"""Puts the parts together: from a configuration to a daemon that can run.

Imports every concrete class, and is imported by nobody but `main`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from broker.api.grpc.admin import AdminServicer
from broker.api.grpc.delivery import DeliveryLimits
from broker.api.grpc.floods import FloodLimits
from broker.api.grpc.inference import InferenceServicer
from broker.api.grpc.models import ModelsServicer
from broker.api.grpc.pubsub import PubSubServicer
from broker.api.grpc.server import GrpcServer, ServerSettings
from broker.api.grpc.validation import RequestLimits
from broker.api.http.health import HealthServer, HttpSettings
from broker.config.schema import Config
from broker.core.effects import Effect
from broker.core.engine import Engine
from broker.core.events import Bus
from broker.core.observer import Observer
from broker.core.pace import Pace
from broker.core.placement_rule import PlacementRule
from broker.core.ports import Backend
from broker.core.publish_quota import PublishPolicy
from broker.daemon.accounting import usage_books
from broker.daemon.changing import Changing
from broker.daemon.engine_policy import engine_policy, live_max, staying_max
from broker.daemon.learning import Learning
from broker.daemon.listing import Listing
from broker.daemon.model_lists import ModelLists
from broker.daemon.observing import Observing, observing
from broker.daemon.pooling import Pooling
from broker.daemon.sensing import GPU, sampling
from broker.models.catalog import Catalog, ModelSettings
from broker.models.usage_books import UsageBooks
from broker.monitors.sampler import Sampler
from broker.observability.alerting import Alerting
from broker.runtime.clock import Clock, LoopClock
from broker.runtime.driver import Driver, DriverLimits
from broker.runtime.observers import Observers
from broker.runtime.supervisor import Supervisor
from broker.runtime.switches import SwitchLimits
from broker.services.inference import DeadlinePolicy, InferenceService
from broker.services.model_accounts import ModelAccountsService
from broker.services.operations import OperationsService, ReloadReport
from broker.services.pubsub import PubSubPolicy, PubSubService
from broker.services.status import StatusService
from broker.services.system_topics import SystemTopics
from broker.state.mailbox import MailboxLimits
from broker.state.memory_bus import MemoryBus

_MS = 1_000_000
_S = 1_000_000_000

# Tasks beside those of requests: one discovery per backend, a load or unload each, renewals.
TASKS_SPARE = 1024


def broker_version() -> str:
    """The installed version; "0" in a tree that was never installed."""
    try:
        return version("ollama-broker")
    except PackageNotFoundError:
        return "0"


@dataclass(slots=True, kw_only=True)
class Parts:
    """What `main` starts and stops."""

    driver: Driver
    bus: Bus
    topics: SystemTopics
    observer: Observer
    observing: Observing
    alerting: Alerting
    grpc: GrpcServer
    http: HealthServer
    pooling: Pooling
    learning: Learning
    sampler: Sampler
    books: UsageBooks | None  # None: no use is kept
    listing: Listing
    lists: ModelLists
    models: ModelsServicer
    changing: Changing


def nothing_to_reload() -> ReloadReport:
    """What a broker without a configuration file answers."""
    problem = "the broker was started without a configuration file: there is nothing to reload"
    return ReloadReport(changed=(), needs_restart=(), problems=(problem,))


def build(
    config: Config,
    supervisor: Supervisor,
    stop: Callable[[int | None], int],
    reload: Callable[[], ReloadReport] = nothing_to_reload,
    clock: Clock | None = None,
    backends: Mapping[str, Backend] | None = None,
    rule: PlacementRule | None = None,
) -> Parts:
    """Everything, wired. Nothing runs yet. Must be called within the loop.

    `stop` begins to leave, `reload` reads the configuration again: what operators ask for through
    the wire. `backends` stand in for those that the configuration describes, by their names, and
    `rule`, to be compared with, for the product's own; no configuration names one.
    """
    clock = clock or LoopClock()
    bus = _bus(config, clock)
    # These look at the driver and at the lists, which are made with them.
    lore = _lore(config, supervisor, clock, backends, lambda: driver, lambda: lists)
    index = lore.listing.index
    topics = SystemTopics(bus, lambda: driver, lambda: index.changed_unix_ms)
    index.on_change(topics.list_changed)
    seen_by = observing(config, broker_version())
    engine = Engine(engine_policy(config), rule)
    counting = () if lore.books is None else (lore.books.recorder,)
    observers = Observers((*seen_by.observers, *counting, topics))
    pool, limits = lore.pooling.pool, _limits(config)
    driver = Driver(engine, pool, clock, supervisor, limits, observers, lore.performers())
    alerting = seen_by.alerting(config, driver, observers)
    lists = ModelLists(
        config, engine, driver, lore.listing, clock, bus, lore.catalog, pool.look_now
    )
    accounts = ModelAccountsService(driver, lore.catalog, lore.books, clock)
    models = ModelsServicer(lists.service, accounts, lore.changing.service())
    status = _status(driver, clock, lore, Pace(engine), alerting, stop)
    admin = AdminServicer(status, OperationsService(driver, reload))
    pubsub = _pubsub(config, driver, bus, (topics.look, lists.expect_listener))
    told = seen_by.exposition(
        driver, alerting, bus, lore.books, lists.state, lore.changing.pulls.pulls.state
    )
    return Parts(
        driver=driver,
        bus=bus,
        topics=topics,
        observer=observers,
        observing=seen_by,
        alerting=alerting,
        grpc=_grpc_server(config, driver, models, admin, pubsub),
        http=HealthServer(_http_settings(config), driver.snapshot, told),
        sampler=_sampler(config, driver, clock, alerting.on_tick),
        lists=lists,
        models=models,
        pooling=lore.pooling,
        learning=lore.learning,
        books=lore.books,
        listing=lore.listing,
        changing=lore.changing,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lore:
    """What knows of backends and models, and does what the engine wants of them."""

    catalog: Catalog
    pooling: Pooling
    learning: Learning
    listing: Listing
    books: UsageBooks | None
    changing: Changing

    def performers(self) -> dict[type[Effect], Callable[[Any], None]]:
        """Who does what, by the effect that asks for it."""
        return {
            **self.pooling.performers(),
            **self.changing.performers(),
            **self.learning.performers(),
        }


def _lore(
    config: Config,
    supervisor: Supervisor,
    clock: Clock,
    backends: Mapping[str, Backend] | None,
    driver: Callable[[], Driver],
    lists: Callable[[], ModelLists],
) -> _Lore:
    catalog = _catalog(config)
    pooling = Pooling(
        config, supervisor, clock, catalog, driver, backends, lambda: lists().is_watched()
    )
    listing = Listing(config, clock, catalog, pooling.pool.problems)
    books = usage_books(config, catalog, clock)
    if books is not None:
        listing.index.uses, listing.index.used = books.recorder.use_of, books.recorder.used
    changing = Changing(
        config,
        supervisor,
        clock,
        catalog,
        pooling.pool,
        listing.index,
        driver,
        lambda name: lists().service.resolve(name, None).model,
    )
    return _Lore(
        catalog=catalog,
        pooling=pooling,
        learning=Learning(config, supervisor, clock, driver),
        listing=listing,
        books=books,
        changing=changing,
    )


def _status(
    driver: Driver,
    clock: Clock,
    lore: _Lore,
    pace: Pace,
    alerting: Alerting,
    stop: Callable[[int | None], int],
) -> StatusService:
    pool = lore.pooling.pool
    return StatusService(
        driver,
        clock,
        pool,
        pool.versions,
        pool.down_since_ns,
        broker_version(),
        pace,
        alerting.firing,
        lore.listing.state,
        stop,
    )


def _pubsub(
    config: Config, driver: Driver, bus: Bus, looks: tuple[Callable[[], None], ...]
) -> PubSubServicer:
    """`looks` are called when somebody is about to listen."""

    def look() -> None:
        for each in looks:
            each()

    service = PubSubService(driver, bus, _pubsub_policy(config), look)
    return PubSubServicer(service, config.pubsub.payload_bytes_max)


def _sampler(config: Config, driver: Driver, clock: Clock, on_tick: Callable[[], None]) -> Sampler:
    """The sensors; that of the GPUs is asked also when the engine wants to know."""
    sampler = sampling(config.monitors, driver.feed, clock, on_tick=(on_tick,))
    driver.sense_gpus = partial(sampler.ask, GPU)
    return sampler


def _catalog(config: Config) -> Catalog:
    return Catalog(
        {
            name: ModelSettings(
                num_ctx=each.num_ctx,
                num_ctx_max=each.num_ctx_max,
                slots=each.slots,
                backend_tags=frozenset(each.backend_tags),
            )
            for name, each in config.models.items()
        }
    )


def _limits(config: Config) -> DriverLimits:
    return DriverLimits(
        stream_buffer_bytes_max=config.limits.stream_buffer_bytes_max,
        reconnect_grace_ns=config.server.reconnect_grace_ms * _MS,
        default_answer=config.degradation.default_answer,
        default_answers=config.degradation.default_answers,
        switches=SwitchLimits(
            load_timeout_s=config.placement.load_timeout_s,
            unload_timeout_s=config.placement.unload_timeout_s,
            cure_timeout_s=config.healing.cure_timeout_s,
            keep_alive_s=config.placement.keep_alive_s,
        ),
    )


def _bus(config: Config, clock: Clock) -> Bus:
    limits = MailboxLimits(
        events_max=config.pubsub.subscriber_events_max,
        bytes_max=config.pubsub.subscriber_bytes_max,
    )
    return MemoryBus(clock.unix_ns, subscribers_max=config.pubsub.subscribers_max, limits=limits)


def _pubsub_policy(config: Config) -> PubSubPolicy:
    return PubSubPolicy(
        publishing=PublishPolicy(
            per_minute=config.pubsub.publishes_per_minute,
            burst=config.pubsub.publishes_burst,
            remembered_max=config.agents.remembered_max,
        ),
        subscribers_per_agent_max=config.pubsub.subscribers_per_agent_max,
    )


def _grpc_server(
    config: Config,
    driver: Driver,
    models: ModelsServicer,
    admin: AdminServicer,
    pubsub: PubSubServicer,
) -> GrpcServer:
    limits = RequestLimits(
        request_bytes_max=config.limits.request_bytes_max,
        prompt_bytes_max=config.limits.prompt_bytes_max,
        messages_max=config.limits.messages_max,
        tools_max=config.limits.tools_max,
        embed_inputs_max=config.limits.embed_inputs_max,
        soft_deadline_ms_max=config.limits.deadline_max_s * 1000,
    )
    deadlines = DeadlinePolicy(
        default_ns=config.limits.deadline_default_s * _S,
        max_ns=config.limits.deadline_max_s * _S,
    )
    return GrpcServer(
        ServerSettings(
            address=config.server.grpc_address,
            message_bytes_max=config.server.message_bytes_max,
            keepalive_time_ms=config.server.keepalive_time_ms,
            keepalive_timeout_ms=config.server.keepalive_timeout_ms,
            ping_interval_ms_min=config.floods.ping_interval_ms_min,
            concurrent_streams_max=config.floods.calls_per_connection_max,
            calls_max=live_max(config) + staying_max(config),
            floods=FloodLimits(
                calls_per_s=config.floods.calls_per_s,
                calls_burst=config.floods.calls_burst,
                request_timeout_s=config.floods.client_stall_timeout_s,
            ),
        ),
        InferenceServicer(
            InferenceService(driver, deadlines),
            limits,
            DeliveryLimits(
                timeout_s=config.limits.delivery_timeout_s,
                stall_timeout_s=config.floods.client_stall_timeout_s,
            ),
            config.floods.calls_per_agent_max,
        ),
        models,
        admin,
        pubsub,
    )


def _http_settings(config: Config) -> HttpSettings:
    host, _, port = config.server.http_address.rpartition(":")
    return HttpSettings(host=host.strip("[]"), port=int(port))
