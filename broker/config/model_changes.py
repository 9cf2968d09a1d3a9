"""The settings of what is changed of models: downloads, and who may ask for what.

The rules of `schema.py` hold.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from broker.config.section import DAY_S, Array, Glob, Section
from broker.core.pull_hours import Hours


def check_hours(text: str) -> str:
    """A window of the day, as "22:00-06:00"."""
    Hours.parse((text,))
    return text


Globs = Annotated[tuple[Glob, ...], Array, Field(max_length=1_000)]


class PullsConfig(Section):
    """[pulls]: downloads of models."""

    # More share the same line, and each takes longer.
    concurrent_max: int = Field(default=1, ge=1, le=64)
    # What waits and what runs.
    pulls_max: int = Field(default=32, ge=1, le=1_000)
    # How many may listen to downloads at once, each with a call that stays open.
    listeners_max: int = Field(default=200, ge=1, le=100_000)
    # By this host's clock, as "22:00-06:00"; empty: all day. What still runs then rests until the
    # next day.
    hours: Annotated[
        tuple[Annotated[str, AfterValidator(check_hours)], ...], Array, Field(max_length=16)
    ] = ()
    # Where less than this would be left of the disk, in 10^9 bytes, nothing is downloaded. Known
    # only of backends on this host.
    disk_reserve_gb: float = Field(default=5.0, ge=0, le=100_000)
    # The first wait after a download broke, doubled each time up to the other.
    retry_s: float = Field(default=2.0, ge=0.1, le=DAY_S)
    retry_max_s: float = Field(default=300.0, ge=0.1, le=DAY_S)
    # Calls in a row in which nothing came; then it has failed.
    tries_max: int = Field(default=10, ge=1, le=1_000)
    # Ollama itself tries again what stands still for 5 s.
    stall_timeout_s: float = Field(default=120.0, ge=1, le=DAY_S)
    # A checksum over 100 GB of a slow disk takes a quarter of an hour, of which nothing is told.
    verify_timeout_s: float = Field(default=3_600.0, ge=1, le=DAY_S)
    # True: a download that nobody listens to any more is cancelled. It is on a list that survives
    # the broker, so that it need not be.
    stop_when_unheard: bool = False


class ModelAccessConfig(Section):
    """[model_access]: which agents may change models, by their ids as globs, or "type:NAME".

    Operators' tools name no agent, and may. As callers are not identified, that holds for whoever
    reaches the broker and names none.
    """

    pull: Globs = ()
    delete: Globs = ()
    load: Globs = ()
    unload: Globs = ()
