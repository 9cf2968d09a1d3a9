"""The configuration of what the broker does when something fails.

The rules of `schema.py` hold.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from broker.config.section import DAY_S, Percent, Section

Seconds = Annotated[float, Field(ge=0.001, le=DAY_S)]


class ModelTimeoutsConfig(Section):
    """[models."NAME".timeouts]: how long each phase of a request for one model may take. The
    tightest counts of these, the general ones and the caller's own."""

    # From arrival until a backend has it.
    queue_s: Seconds | None = None
    # While its model is being loaded, of that wait.
    load_s: Seconds | None = None
    # From the start of an attempt to its first piece.
    first_token_s: Seconds | None = None
    # Between two pieces.
    token_gap_s: Seconds | None = None
    # From arrival to the end, as a deadline.
    total_s: Seconds | None = None


class TimeoutsConfig(Section):
    """[timeouts]: the same for every model."""

    # Left out: the deadline bounds it.
    queue_s: Seconds | None = None
    # Left out: placement.load_timeout_s bounds it.
    load_s: Seconds | None = None
    # The longest prompt of the largest context on a busy card.
    first_token_s: Seconds | None = 300.0
    # A long tool call is silent while it is written. A frozen stream without tools is found much
    # earlier, by its own usual gap; see [healing].
    token_gap_s: Seconds | None = 300.0
    # Left out: the deadline bounds it.
    total_s: Seconds | None = None


class RetriesConfig(Section):
    """[retries]: how the broker tries a backend again. All but the budget are the seeds'."""

    # Attempts of one request, the first included.
    tries_max: int = Field(default=3, ge=1, le=16)
    # Before the second attempt a time from 0 to this is waited, before the next one from 0 to
    # backoff_base times it, and so on up to backoff_s_max.
    backoff_s: float = Field(default=1.0, ge=0, le=3_600)
    backoff_base: float = Field(default=2.0, ge=1, le=10)
    backoff_s_max: float = Field(default=30.0, ge=0, le=3_600)
    # Retries per hundred first attempts on one backend, so that one that fails much is not called
    # much more; and how many may be saved up.
    budget_percent: float = Field(default=8.0, ge=0, le=100)
    budget_max: float = Field(default=5.0, ge=0, le=10_000)


class BreakerConfig(Section):
    """[breaker]: when no more calls of a model are sent to a backend that fails them."""

    # So many failures within so long, the seeds'...
    failures: int = Field(default=5, ge=1, le=10_000)
    window_s: float = Field(default=60.0, ge=0.1, le=DAY_S)
    # ... which are at least this part of all calls: a busy backend may fail one in a hundred.
    failure_percent: Percent = 50
    # A call whose first piece took so long counts as one that failed.
    slow_s: Seconds = 120.0
    # How long nothing is sent before one call is let through as a probe: the seeds'. Doubled with
    # each probe that fails, up to the second.
    open_s: Seconds = 60.0
    open_s_max: Seconds = 600.0


class HealingConfig(Section):
    """[healing]: what the broker does about models and servers that wedge."""

    # A stream is frozen that gave nothing for gap_factor times its usual gap and gap_extra_s.
    gap_factor: float = Field(default=2.5, ge=1, le=1_000)
    gap_extra_s: float = Field(default=1.25, ge=0.1, le=3_600)
    # How long an unload that cures may take: Ollama itself needs 20 s with a frozen runner.
    cure_timeout_s: int = Field(default=25, ge=1, le=3_600)
    # A server that takes connections and has said nothing of what it is asked for so long does not
    # serve: one with a frozen runner, the slowest known to work, needs 20 s.
    mute_s: int = Field(default=22, ge=1, le=3_600)
    # Restarts by a backend's restart_command: at least so far apart, twice as far each time, and
    # so many at most until the backend has served for an hour.
    restart_backoff_s: int = Field(default=60, ge=1, le=DAY_S)
    restarts_max: int = Field(default=5, ge=0, le=1_000)
    restart_timeout_s: int = Field(default=120, ge=1, le=3_600)
    # A server where nobody listens for so long is restarted by that command too. 0: never, as
    # whoever runs it may have meant that.
    restart_away_s: int = Field(default=0, ge=0, le=DAY_S)
    # The broker's own loop: from which standstill on it is said where it stood.
    loop_stall_ms: int = Field(default=1_000, ge=50, le=600_000)


class FloodsConfig(Section):
    """[floods]: what one connection, or one agent, may have open or send."""

    # Calls of one agent at once, and of one connection (its transport refuses more).
    calls_per_agent_max: int = Field(default=1_000, ge=1, le=1_000_000)
    calls_per_connection_max: int = Field(default=2_000, ge=1, le=1_000_000)
    # New calls of one connection, bad ones too: far above what any agent's rate lets in.
    calls_per_s: float = Field(default=200.0, ge=0.1, le=1_000_000)
    calls_burst: float = Field(default=1_000.0, ge=1, le=10_000_000)
    # Bytes of one agent's requests that wait. Left out: as many as queued_bytes_max.
    queued_bytes_per_agent_max: int | None = Field(default=None, ge=4_096, le=64 * 1024**3)
    # A client that takes nothing of a running answer for so long loses its slot.
    client_stall_timeout_s: int = Field(default=30, ge=1, le=3_600)
    # Pings of a connection without calls more often than this are abuse.
    ping_interval_ms_min: int = Field(default=5_000, ge=100, le=3_600_000)
