"""The degradation levels, and what the operator decides about them.

Source: the seed "Degraded Mode Flow": up at 60, 80 and 95 % load, down at 50, 70 and 90 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Final


class Level(IntEnum):
    """How much the machine can bear; effects add up from level to level."""

    NORMAL = 0  # everything is offered
    LEVEL_1 = 1  # fewer tokens
    LEVEL_2 = 2  # small models only, non-critical work refused
    CRITICAL = 3  # priority work first and alone

    @property
    def word(self) -> str:
        return WORDS[self]


WORDS: Final[Mapping[Level, str]] = MappingProxyType(
    {Level.NORMAL: "normal", Level.LEVEL_1: "1", Level.LEVEL_2: "2", Level.CRITICAL: "critical"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A level is entered above `up` and left below `down`, both parts of the load's limit."""

    up: float
    down: float


SEED_THRESHOLDS: Final[Mapping[Level, Threshold]] = MappingProxyType(
    {
        Level.LEVEL_1: Threshold(up=0.60, down=0.50),
        Level.LEVEL_2: Threshold(up=0.80, down=0.70),
        Level.CRITICAL: Threshold(up=0.95, down=0.90),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradationPolicy:
    """What the operator decides about levels.

    `is_automatic` False leaves the level NORMAL unless it is set by hand. A level is left for the
    next lower one when the load has been below its `down` for `dwell_ns`, longer where it had to be
    entered again soon after it was left, up to `dwell_ns_max`. A sensor that has not answered for
    `stale_ns` is not believed. Memory that others use counts when they have used it for
    `settle_ns` without a break (0: at once). `wait_target_ns`: a predicted wait of this length is a
    load of 1. `output_tokens_max` is what level 1 cuts answers to. A model is small if its file has
    at most `small_model_bytes_max`, or if it is one of `small_models` (names), of which the first
    that exists is the last resort of level 2. `has_default_answer`: there is a text to give
    where a request may be answered so, at CRITICAL or where it would fail; `default_kinds`: there
    is one of their own for these types of prompts.
    """

    is_automatic: bool = True
    thresholds: Mapping[Level, Threshold] = field(default_factory=lambda: SEED_THRESHOLDS)
    dwell_ns: int = 15_000_000_000
    dwell_ns_max: int = 240_000_000_000
    stale_ns: int = 10_000_000_000
    settle_ns: int = 6_000_000_000
    wait_target_ns: int = 600_000_000_000
    output_tokens_max: int = 512
    small_model_bytes_max: int = 2_000_000_000
    small_models: tuple[str, ...] = ("tinyllama",)
    default_kinds: frozenset[str] = frozenset()  # prompt types with a default answer of their own
    has_default_answer: bool = False

    def has_answer_for(self, prompt_type: str) -> bool:
        """Is there a default answer for this kind of prompt, its own or the general one?"""
        return self.has_default_answer or prompt_type in self.default_kinds

    def __post_init__(self) -> None:
        if set(self.thresholds) != set(Level) - {Level.NORMAL}:
            raise ValueError("each level above normal needs its threshold")
        before = 0.0
        for level in sorted(self.thresholds):
            each = self.thresholds[level]
            if not 0 < each.down < each.up or each.up <= before:
                raise ValueError(f"level {level.word}: down must be below up, and up must rise")
            before = each.up
        if not 0 < self.dwell_ns <= self.dwell_ns_max:
            raise ValueError("dwell_ns must be positive and at most dwell_ns_max")
        if min(self.stale_ns, self.wait_target_ns, self.output_tokens_max) <= 0:
            raise ValueError("stale_ns, wait_target_ns and output_tokens_max must be positive")
        if self.settle_ns < 0:
            raise ValueError("settle_ns must not be negative")
