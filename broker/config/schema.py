"""The configuration: every setting, its unit, its limits and its default with the reason for it.

Rules: a section is frozen and knows no key that it does not list; types are taken as TOML gives
them ("5" is no number); what only several settings together can get wrong stands in
`contradictions.py`. Sources of the numbers: the issue's seeds, Ollama's own defaults, gRPC's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from pydantic_core import to_jsonable_python

from broker.config.aliases import Aliases, built_in
from broker.config.library import LibraryConfig
from broker.config.machine import (
    AlertsConfig,
    DegradationConfig,
    MonitorsConfig,
    ObservabilityConfig,
    PubSubConfig,
)
from broker.config.model_changes import ModelAccessConfig, PullsConfig
from broker.config.models import ModelListConfig, UsageConfig
from broker.config.preload import PreloadConfig
from broker.config.resilience import (
    BreakerConfig,
    FloodsConfig,
    HealingConfig,
    RetriesConfig,
    TimeoutsConfig,
)
from broker.config.section import (
    DAY_S,
    MESSAGE_BYTES_MAX,
    MIB,
    Array,
    Glob,
    ListenAddress,
    Name,
    NameOrNone,
    Priority,
    RequestsBurst,
    RequestsPerMinute,
    Section,
    TokensBurst,
    TokensPerMinute,
)
from broker.config.serving import BackendConfig, ModelConfig, PlacementConfig
from broker.core.agent_policy import BATCH, BULKHEADS_MAX, CRITICAL
from broker.core.requests import PRIORITY_HIGHEST


class ServerConfig(Section):
    """[server]: where the broker listens and how it leaves."""

    # Loopback only: there is neither TLS nor identity yet. The ports are the design's.
    grpc_address: ListenAddress = "127.0.0.1:50434"
    http_address: ListenAddress = "127.0.0.1:9434"
    # gRPC's own limit lies above limits.request_bytes_max, so that the broker answers a request
    # that is too large, with a reason, instead of the transport.
    message_bytes_max: int = Field(default=12 * MIB, ge=64 * 1024, le=MESSAGE_BYTES_MAX)
    # What a long answer usually takes; systemd's own stop limit is 90 s.
    drain_timeout_s: int = Field(default=30, ge=0, le=3_600)
    # How long a request whose client went away waits for it to come back with the same request_id.
    # 0: the backend's work is aborted at once, which is what an agent that cancels wants.
    reconnect_grace_ms: int = Field(default=0, ge=0, le=60_000)
    # Where the broker keeps what it must know after a restart: which models it had loaded, and who
    # used them. "": in the platform's state folder.
    state_dir: str = Field(default="", max_length=4_096)
    # A client that vanished without a word is noticed after their sum; gRPC clients refuse pings
    # more often than every 10 s unless both sides are told otherwise.
    keepalive_time_ms: int = Field(default=30_000, ge=10_000, le=3_600_000)
    keepalive_timeout_ms: int = Field(default=10_000, ge=1_000, le=600_000)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    # auto: lines for people on a terminal, JSON elsewhere.
    log_format: Literal["auto", "console", "json"] = "auto"


class LimitsConfig(Section):
    """[limits]: how large a request may be, how many there may be, how long one may take."""

    # The seeds' queue.
    queued_max: int = Field(default=1_000, ge=1, le=1_000_000)
    # The same of one agent; None: as many as queued_max, since a flood gives way when all is full.
    queued_per_agent_max: int | None = Field(default=None, ge=1, le=1_000_000)
    # Images in a long queue would fill the memory: each waiting request is held about three times.
    queued_bytes_max: int = Field(default=512 * MIB, ge=1 * MIB, le=64 * 1_024 * MIB)
    # A chat with a few images; the text alone is bounded below.
    request_bytes_max: int = Field(default=8 * MIB, ge=4_096, le=1_024 * MIB)
    # About a million tokens of English, more than any context that is served here.
    prompt_bytes_max: int = Field(default=4 * MIB, ge=1_024, le=512 * MIB)
    # Text kept for one slow reader, who is ended when it falls further behind: an answer of 250,000
    # tokens, so that the reader of an ordinary answer never is.
    stream_buffer_bytes_max: int = Field(default=1 * MIB, ge=4_096, le=256 * MIB)
    # How long a client may take nothing of an answer that is complete, before its call is ended:
    # longer than any pause of a network or of a garbage collector.
    delivery_timeout_s: int = Field(default=60, ge=1, le=3_600)
    # Ten times the queue: waiting and running calls, and many clients of each.
    streams_max: int = Field(default=10_000, ge=1, le=1_000_000)
    # An agent's long day; each turn is a message.
    messages_max: int = Field(default=4_096, ge=1, le=1_000_000)
    # What the larger hosted services allow.
    tools_max: int = Field(default=128, ge=0, le=10_000)
    # Longer than any interactive wait; a request that gives no deadline must still end.
    deadline_default_s: int = Field(default=600, ge=1, le=7 * DAY_S)
    deadline_max_s: int = Field(default=DAY_S, ge=1, le=7 * DAY_S)
    # A backend embeds one text after the other, and holds its slot for all of them.
    embed_inputs_max: int = Field(default=256, ge=1, le=100_000)


class QueueConfig(Section):
    """[queue]: who is next, and what happens when the queue is full."""

    # Each step of priority stands back 5 s, so that priority 10 is at most 45 s behind priority 1.
    handicap_ms_per_priority: int = Field(default=5_000, ge=0, le=3_600_000)
    # A request stands back by so many times the time it probably runs: what is short does not wait
    # behind what is long, and what is long still ages into its turn (docs/adr/0020).
    size_handicap: float = Field(default=5, ge=0, le=1_000)
    # That is among agents that were served alike to within so much; a few requests of usual length.
    # 0: sizes play no part.
    fairness_grain_tokens: int = Field(default=3_072, ge=0, le=1_000_000_000)
    # The next call of a session counts as older by the done part of this, so that what is nearly
    # finished is not passed by what has only begun (docs/adr/0023). 0: sessions play no part.
    session_credit_ms: int = Field(default=30_000, ge=0, le=60_000)
    # Often enough to see a queue move, seldom enough to cost nothing.
    announce_interval_ms: int = Field(default=1_000, ge=50, le=600_000)
    # Which of an agent's own requests of one priority is first: the oldest, or the one due first.
    agent_order: Literal["size", "arrival", "deadline"] = "size"
    # The waiting room before a full queue, for whom and for how long: the design's. 0: there is
    # none.
    room_max: int = Field(default=100, ge=0, le=1_000_000)
    room_wait_ms: int = Field(default=5_000, ge=1, le=600_000)
    room_priority_worst: Priority = 3
    # From this part of a limit on, agents are told to send less; what is left is what arrives
    # before they can heed it. Those whose request has a priority worse than 7 are told from the
    # second on already.
    slow_down_percent: int = Field(default=80, ge=1, le=100)
    slow_down_early_percent: int = Field(default=70, ge=1, le=100)
    # What fairness charges for a token. One that is generated takes a step of the model of its own,
    # those of a prompt share one; 1 and 2 are those of the paper (arXiv 2401.00588).
    prompt_token_cost: int = Field(default=1, ge=0, le=1_000)
    output_token_cost: int = Field(default=2, ge=0, le=1_000)
    # Refused at once is what would miss its deadline even if all went so many times faster than
    # measured.
    deadline_margin: float = Field(default=2.0, ge=1, le=1_000)


class PreemptionConfig(Section):
    """[preemption]: which running work is set aside for urgent requests, and at which cost."""

    # So often one request is at most; after that it runs to its end. 0: nothing is set aside.
    preemptions_max: int = Field(default=2, ge=0, le=100)
    # What was set aside has run in vain: at most this part of the time of all slots, and what is
    # not used of it is saved up for so long. With one slot these are 60 s.
    share_percent: float = Field(default=10.0, ge=0, le=100)
    window_s: int = Field(default=600, ge=1, le=DAY_S)
    # Who has others set aside: the design's. And whoever marks its work preemptible, it is not set
    # aside at a better priority than the second.
    urgent_priority_worst: Priority = 2
    victim_priority_best: Priority = 3
    # What probably ends within so long is waited for: its slot comes as soon as one that is taken.
    soon_ms: int = Field(default=1_000, ge=0, le=600_000)


class AgentTypeConfig(Section):
    """[[agents.types]]: a kind of agent, and the ids that belong to it as globs.

    A rate that is left out is no limit. A burst is what may be saved up for later: one minute's
    worth where it is left out, and at least one request.
    """

    name: Name
    match: Annotated[tuple[Glob, ...], Array, Field(min_length=1, max_length=1_000)]
    # Its agents' part of the server: one of weight 2 is served twice as many tokens as one of 1.
    weight: float = Field(default=1.0, ge=0.001, le=1_000)
    # Of each agent of the type.
    requests_per_minute: RequestsPerMinute | None = None
    requests_burst: RequestsBurst | None = None
    tokens_per_minute: TokensPerMinute | None = None
    tokens_burst: TokensBurst | None = None
    # Of all agents of the type together.
    all_requests_per_minute: RequestsPerMinute | None = None
    all_requests_burst: RequestsBurst | None = None
    all_tokens_per_minute: TokensPerMinute | None = None
    all_tokens_burst: TokensBurst | None = None
    # A better priority is lowered to this, and the answer says so.
    priority_best: Priority = PRIORITY_HIGHEST
    may_be_critical: bool = True
    # The compartment of its ordinary work, see [bulkheads]; "" is the one named as the type.
    bulkhead: NameOrNone = ""


def _seed_types() -> tuple[AgentTypeConfig, ...]:
    """The three kinds of agents of the seeds, with the rates of the seeds' AgentRateLimiter."""
    rates = {"opus": 10.0, "sonnet": 20.0, "system": 50.0}
    return tuple(
        AgentTypeConfig(name=name, match=(f"{name}-*",), requests_per_minute=rate)
        for name, rate in rates.items()
    )


def _seed_bulkheads() -> dict[str, int]:
    """The seeds' BulkheadPattern; system agents have none."""
    return {"opus": 10, "sonnet": 20, CRITICAL: 5, BATCH: 15}


class AgentsConfig(Section):
    """[agents]: who asks. The first type with a glob that fits is the agent's."""

    # The type of an id that no glob fits; "" refuses such ids.
    default_type: str = "system"
    # Of all agents together; left out: no limit.
    requests_per_minute: RequestsPerMinute | None = None
    requests_burst: RequestsBurst | None = None
    tokens_per_minute: TokensPerMinute | None = None
    tokens_burst: TokensBurst | None = None
    # Agents kept in memory. Of those without work the one not seen for longest is forgotten first.
    remembered_max: int = Field(default=10_000, ge=100, le=10_000_000)
    types: Annotated[tuple[AgentTypeConfig, ...], Array, Field(max_length=1_000)] = Field(
        default_factory=_seed_types
    )


class Config(Section):
    """Everything the daemon is told. `Config()` is the configuration of an empty file."""

    server: ServerConfig = Field(default_factory=ServerConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    queue: QueueConfig = Field(default_factory=QueueConfig)
    preemption: PreemptionConfig = Field(default_factory=PreemptionConfig)
    agents: AgentsConfig = Field(default_factory=AgentsConfig)
    # [bulkheads]: how many requests of a compartment run at once. Giving the table replaces the
    # seeds'; a compartment that is not in it has no limit.
    bulkheads: dict[Name, Annotated[int, Field(ge=1, le=100_000)]] = Field(
        default_factory=_seed_bulkheads, max_length=BULKHEADS_MAX
    )
    backends: Annotated[tuple[BackendConfig, ...], Array, Field(min_length=1, max_length=64)] = (
        Field(default_factory=lambda: (BackendConfig(),))
    )
    models: dict[Annotated[str, Field(min_length=1, max_length=512)], ModelConfig] = Field(
        default_factory=dict, max_length=10_000
    )
    aliases: Aliases = Field(default_factory=built_in)
    model_list: ModelListConfig = Field(default_factory=ModelListConfig)
    library: LibraryConfig = Field(default_factory=LibraryConfig)
    usage: UsageConfig = Field(default_factory=UsageConfig)
    pulls: PullsConfig = Field(default_factory=PullsConfig)
    model_access: ModelAccessConfig = Field(default_factory=ModelAccessConfig)
    preload: PreloadConfig = Field(default_factory=PreloadConfig)
    placement: PlacementConfig = Field(default_factory=PlacementConfig)
    timeouts: TimeoutsConfig = Field(default_factory=TimeoutsConfig)
    retries: RetriesConfig = Field(default_factory=RetriesConfig)
    breaker: BreakerConfig = Field(default_factory=BreakerConfig)
    healing: HealingConfig = Field(default_factory=HealingConfig)
    floods: FloodsConfig = Field(default_factory=FloodsConfig)
    degradation: DegradationConfig = Field(default_factory=DegradationConfig)
    monitors: MonitorsConfig = Field(default_factory=MonitorsConfig)
    pubsub: PubSubConfig = Field(default_factory=PubSubConfig)
    alerts: AlertsConfig = Field(default_factory=AlertsConfig)
    observability: ObservabilityConfig = Field(default_factory=ObservabilityConfig)

    def digest(self) -> str:
        """SHA-256 of the effective settings in hex: equal where two brokers decide alike."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def settings(self) -> dict[str, object]:
        """Every single setting that is not empty, by its path as TOML writes it."""
        return dict(_settings(self.model_dump(mode="json"), ""))

    def describe(self) -> str:
        """The effective settings as `path = value` lines, those that are not the default marked."""
        # A backend or a type beyond those that are there by default has the defaults of its kind.
        defaults = (Config().settings(), dict(_of_fields(self, "")))
        lines = []
        for path, value in self.settings().items():
            is_default = any(path in each and each[path] == value for each in defaults)
            shown = json.dumps(value, ensure_ascii=False)
            lines.append(f"{path} = {shown}" + ("" if is_default else "  # set"))
        return "\n".join(lines)


def key(name: str) -> str:
    """A key as TOML writes it: bare where it may be, else quoted."""
    is_bare = bool(name) and all(c.isascii() and (c.isalnum() or c in "_-") for c in name)
    return name if is_bare else json.dumps(name, ensure_ascii=False)


def _of_fields(section: BaseModel, path: str) -> Iterator[tuple[str, object]]:
    """The default of every single setting that has one, by its path, whatever it is now."""
    for name, field in type(section).model_fields.items():
        value, at = getattr(section, name), f"{path}.{name}" if path else name
        members = list[tuple[str, object]]()
        if isinstance(value, BaseModel):
            members = [(at, value)]
        elif isinstance(value, dict):
            members = [(f"{at}.{key(each)}", value[each]) for each in value]
        elif isinstance(value, tuple):
            members = [(f"{at}[{index}]", each) for index, each in enumerate(value)]
        sections = [(where, each) for where, each in members if isinstance(each, BaseModel)]
        for where, each in sections:
            yield from _of_fields(each, where)
        if not sections and not field.is_required():
            default = field.get_default(call_default_factory=True)
            yield at, to_jsonable_python(default)


def _settings(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Every single setting below `value` with its path; empty and unset ones are left out."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _settings(each, f"{path}.{key(name)}" if path else key(name))
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        for index, each in enumerate(value):
            yield from _settings(each, f"{path}[{index}]")
    elif value is not None:
        yield path, value
