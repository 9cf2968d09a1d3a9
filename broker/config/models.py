"""The settings of what is known of models, and of what is done with them.

The rules of `schema.py` hold.
"""

from __future__ import annotations

from pydantic import Field

from broker.config.section import Section

WEEK_H = 7 * 24


class ModelListConfig(Section):
    """[model_list]: where the list of models is kept over a restart, and when it is too old."""

    # False: nothing is kept, and after a start nothing is known until backends have answered.
    cache: bool = True
    # "": in the platform's cache folder, for each address apart. The seeds keep theirs in
    # ~/.cli-agent/model_cache.json.
    cache_file: str = Field(default="", max_length=4_096)
    # Younger than this the library is not asked again. The seeds'.
    fresh_h: float = Field(default=6, ge=0.1, le=WEEK_H)
    # Older than this what is known of it is no more than a hint. The seeds'.
    expired_h: float = Field(default=24, ge=0.1, le=WEEK_H)
    # The connection to the library costs by what it carries: it is asked once a week.
    metered: bool = False
    # How much of the time fetching the library may take: a slow connection is used less often, yet
    # once in expired_h.
    busy_percent_max: float = Field(default=1.0, ge=0.01, le=100)
    # The first wait after a refresh that failed, doubled each time up to the other.
    retry_s: int = Field(default=30, ge=1, le=86_400)
    retry_max_s: int = Field(default=3_600, ge=1, le=86_400)
    # How many may watch the list at once, each with a call that stays open.
    watchers_max: int = Field(default=500, ge=1, le=100_000)
    # While somebody watches, backends are asked so often for what they have: a short answer each
    # time, of a server on the same host some milliseconds.
    watch_interval_ms: int = Field(default=500, ge=50, le=60_000)


class UsageConfig(Section):
    """[usage]: who used which models, by the hour, and for how long that is kept."""

    enabled: bool = True
    # "": a file for each broker in server.state_dir.
    file: str = Field(default="", max_length=4_096)
    # A season: enough to see what changed, and of which weekday it was.
    keep_days: int = Field(default=90, ge=1, le=3_650)
    # Some 30 MB. Beyond, the hours of the oldest days are summed up by the day; when all are, the
    # oldest days are dropped.
    rows_max: int = Field(default=200_000, ge=1_000, le=50_000_000)
    # Agents told apart in one hour, beside whom the others are counted together: seven times the
    # seeds' fleet.
    agents_max: int = Field(default=1_000, ge=1, le=100_000)
    # What a broker that is killed has not kept.
    flush_interval_s: float = Field(default=10.0, ge=0.1, le=3_600)
