"""Asks for less while the broker is degraded, so that what is asked for can be borne.

The broker cuts what is too much by itself. Who lowers it before sends a request that is made for
the cut: a shorter task, a drier answer. Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from broker_client.machine import NORMAL
from broker_client.pb.broker.v1 import inference_pb2

# Ollama's own, where neither the request nor the model's file says another.
TEMPERATURE_DEFAULT: Final = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceAwareness:
    """What a request may ask for while the broker's level is above "normal".

    What asks for more is lowered, nothing is ever raised. A request that does not say how long its
    answer may be is without a bound, and gets this one; one that does not say its temperature
    counts as 0.8, Ollama's own. None leaves that option as it is.
    """

    max_tokens: int | None = 512
    temperature: float | None = 0.5

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise ValueError("temperature must not be negative")

    def lower(self, options: inference_pb2.Options) -> tuple[str, ...]:
        """Lowers the options in place; what was changed, in words."""
        changes = []
        asked = options.max_tokens if options.HasField("max_tokens") else None
        if self.max_tokens is not None and (asked is None or asked > self.max_tokens):
            options.max_tokens = self.max_tokens
            was = "no bound" if asked is None else asked
            changes.append(f"max_tokens lowered from {was} to {self.max_tokens}")
        warmth = options.temperature if options.HasField("temperature") else TEMPERATURE_DEFAULT
        if self.temperature is not None and warmth > self.temperature:
            options.temperature = self.temperature
            changes.append(f"temperature lowered from {warmth:g} to {self.temperature:g}")
        return tuple(changes)


class LevelMemory:
    """The broker's level as it was last heard of, believed for `age_ns_max`."""

    def __init__(self, age_ns_max: int) -> None:
        if age_ns_max < 0:
            raise ValueError("level_age_s_max must not be negative")
        self._age_ns_max = age_ns_max
        self._level = ""
        self._heard_ns = 0

    def recall(self, now_ns: int) -> str:
        """The level; empty where none was heard of, or too long ago."""
        return self._level if now_ns - self._heard_ns < self._age_ns_max else ""

    def learn(self, level: str, now_ns: int) -> str:
        """Remembers the level that an answer told which was asked for at `now_ns`."""
        self._level, self._heard_ns = level, now_ns
        return level


def is_degraded(level: str) -> bool:
    """Does the machine bear less than everything?"""
    return level != NORMAL
