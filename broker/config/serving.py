"""The settings of what serves: backends, models, and the times of the switch between them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from broker.config.resilience import ModelTimeoutsConfig
from broker.config.section import (
    DAY_S,
    NUM_CTX_MAX,
    RESIDENT_MAX,
    SLOTS_MAX,
    Array,
    BackendUrl,
    Name,
    Section,
)


class BackendConfig(Section):
    """[[backends]]: one server that runs models."""

    name: Name = "ollama"
    # openai: a server of that dialect (vLLM, llama-server, LM Studio); its models are always there.
    kind: Literal["ollama", "openai"] = "ollama"
    # As OLLAMA_HOST may be written, and that is the default where it is set.
    url: BackendUrl = "127.0.0.1:11434"
    # Names the environment variable that holds the key for its API; "": it wants none.
    api_key_env: str = Field(default="", pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,127})?$")
    # Its part of the work that several backends could do.
    weight: float = Field(default=1.0, ge=0.01, le=100)
    # What models may be confined to, see [models].
    tags: Annotated[tuple[Name, ...], Array, Field(max_length=32)] = ()
    # Run, without a shell, when the server is wedged; empty: the operator is told, no more.
    restart_command: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=4_096)], ...],
        Array,
        Field(max_length=64),
    ] = ()
    # Where it keeps its models, where it runs on this host: so much disk must be free before one is
    # downloaded. "": where Ollama usually does.
    models_folder: str = Field(default="", max_length=4_096)
    # How many requests one model runs at once. Ollama does not tell; 1 is its own default
    # (OLLAMA_NUM_PARALLEL is read where it is set for the broker too).
    slots: int = Field(default=1, ge=1, le=SLOTS_MAX)
    # How many models fit together. 1 is never wrong, only slow (OLLAMA_MAX_LOADED_MODELS likewise).
    resident_max: int = Field(default=1, ge=1, le=RESIDENT_MAX)
    # How many models the server itself holds before it evicts one; left out: resident_max. One more
    # than that is room to load the next model while another still works, where memory_gb holds it.
    loaded_max: int | None = Field(default=None, ge=1, le=RESIDENT_MAX)
    # Memory for models in 10^9 bytes, where the operator wants to say it.
    memory_gb: float | None = Field(default=None, gt=0, le=100_000)
    # True: the whole server is the broker's, which may then unload what others loaded.
    exclusive: bool = False
    # Does it run on this host, so that the sensors here speak of it? Left out: its url says so.
    local: bool | None = None
    # /api/ps costs a server little; a change made behind the broker's back is seen this late.
    poll_interval_ms: int = Field(default=5_000, ge=100, le=600_000)
    # /api/tags and /api/show; what is on disk changes seldom.
    catalogue_interval_s: int = Field(default=60, ge=1, le=DAY_S)
    # A connection to a server that lives takes milliseconds, three lost SYN packets 7 s.
    connect_timeout_ms: int = Field(default=5_000, ge=10, le=120_000)
    # How often a server that does not answer is tried again.
    retry_interval_ms: int = Field(default=2_000, ge=100, le=600_000)


class ModelConfig(Section):
    """[models."NAME"]: what the operator says of one model; the backend decides the rest."""

    num_ctx: int | None = Field(default=None, ge=1, le=NUM_CTX_MAX)
    # A request may ask for a context up to this, which restarts the runner once.
    num_ctx_max: int | None = Field(default=None, ge=1, le=NUM_CTX_MAX)
    slots: int | None = Field(default=None, ge=1, le=SLOTS_MAX)
    # Only backends with one of these tags run it; empty: all that have it.
    backend_tags: Annotated[tuple[Name, ...], Array, Field(max_length=32)] = ()
    timeouts: ModelTimeoutsConfig = Field(default_factory=ModelTimeoutsConfig)


class PlacementConfig(Section):
    """[placement]: times of the switch from one model to another."""

    # Renewed at half of it, so that a dead broker pins nothing for longer.
    keep_alive_s: int = Field(default=600, ge=10, le=DAY_S)
    # Twice Ollama's own stall limit, as a load may follow another.
    load_timeout_s: int = Field(default=600, ge=1, le=DAY_S)
    unload_timeout_s: int = Field(default=60, ge=1, le=3_600)
    # A model that is to leave and still works then serves on for as long again, and another leaves.
    drain_timeout_s: int = Field(default=600, ge=1, le=DAY_S)
    # Since it was told to leave, how long a model's GPU memory may take to come back; Ollama itself
    # waits 5 s.
    memory_wait_ms: int = Field(default=5_000, ge=0, le=60_000)
    # A load that failed is not tried again before this, doubled each time up to 16 times: each try
    # may cost a good model its place.
    failed_load_hold_s: int = Field(default=15, ge=1, le=DAY_S)
    # A context made larger on request is let down again after this.
    num_ctx_hold_s: int = Field(default=600, ge=1, le=DAY_S)
    # Cancelled work may still run for one more token; its slot is returned after this.
    slot_grace_ms: int = Field(default=300, ge=0, le=60_000)
