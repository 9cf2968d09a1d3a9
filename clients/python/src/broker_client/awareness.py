"""Asks for less while the broker is degraded, so that what is asked for can be borne.

The broker cuts what is too much by itself. Who lowers it before sends a request that is made for
the cut: a shorter task, a drier answer. Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import grpc

from broker_client.errors import BrokerError, DeadlineExpired, local_details
from broker_client.machine import NORMAL
from broker_client.pb.broker.v1 import inference_pb2
from broker_client.retry import NS_PER_S

# Ollama's own, where neither the request nor the model's file says another.
TEMPERATURE_DEFAULT: Final = 0.8

# What a look at the level may take. A request that waits for more has lost more than it can save.
LOOK_S_MAX: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceAwareness:
    """What a request may ask for while the broker's level is above "normal".

    What says that it wants more is lowered; what a request says is never raised. One that does not
    say how long its answer may be is without a bound, and gets this one. One that does not say its
    temperature counts as 0.8, Ollama's own: the client cannot see what a model's file sets, and so
    where that is colder than `temperature` here, the answer becomes warmer. For such models say
    the temperature in the request, or None here: None leaves that option as it is.
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


@dataclass(frozen=True, slots=True)
class Heard:
    """What a look came to, as of `at_ns`: a level, or the error that there was instead."""

    at_ns: int
    level: str = ""
    error: BrokerError | None = None


class LevelMemory:
    """The broker's level as it was last heard of, believed for `age_ns_max`.

    That it could not be had is remembered as long, so that a broker which does not answer is not
    waited for anew by each who asks. To be written to by one at a time; anybody may read.
    """

    def __init__(self, age_ns_max: int) -> None:
        if age_ns_max < 0:
            raise ValueError("level_age_s_max must not be negative")
        self._age_ns_max = age_ns_max
        self._heard: Heard | None = None

    def recall(self, now_ns: int, *, since_ns: int | None = None) -> str:
        """The level; empty where it must be asked for. Raises the error where it could not be had,
        lately or since `since_ns`, when the one who asks began to wait for another's look."""
        heard = self._heard
        if heard is None:
            return ""
        is_fresh = now_ns - heard.at_ns < self._age_ns_max
        if heard.error is None:
            return heard.level if is_fresh else ""
        if is_fresh or (since_ns is not None and heard.at_ns >= since_ns):
            raise type(heard.error)(heard.error.details)  # its own for each: it gets a traceback
        return ""

    def learn(self, level: str, asked_ns: int) -> str:
        """Remembers the level that an answer told which was asked for at `asked_ns`; the one that
        holds. Of two answers that cross, the one which was asked for later counts."""
        heard = self._heard
        if heard is not None and heard.level and heard.at_ns > asked_ns:
            return heard.level
        self._heard = Heard(asked_ns, level=level)
        return level

    def fail(self, error: BrokerError, now_ns: int) -> None:
        """Remembers that it could not be had."""
        self._heard = Heard(now_ns, error=error)


class Look:
    """One who asks for the level from `now_ns` on: how long it may wait, for another's look and
    for its own. `left_s` is what is left of its request's deadline, None: there is none."""

    def __init__(
        self, memory: LevelMemory, now_ns: int, *, call_timeout_s: float, left_s: float | None
    ) -> None:
        most_s = min(call_timeout_s, LOOK_S_MAX)
        self._is_hurried = left_s is not None and left_s < most_s
        self.patience_s = most_s if left_s is None else min(most_s, left_s)
        self._memory = memory
        self._since_ns = now_ns

    def recall(self, now_ns: int) -> str:
        """The level as others found it meanwhile; empty where it is this one's turn to ask."""
        return self._memory.recall(now_ns, since_ns=self._since_ns)

    def timeout_s(self, now_ns: int) -> float:
        """What is left of its patience; DeadlineExpired where nothing is."""
        left_s = self.patience_s - (now_ns - self._since_ns) / NS_PER_S
        if left_s <= 0:
            raise self.too_late()
        return left_s

    def fail(self, error: BrokerError, now_ns: int) -> None:
        """Its own look failed. That a request in a hurry could not wait tells others nothing."""
        if not (self._is_hurried and isinstance(error, DeadlineExpired)):
            self._memory.fail(error, now_ns)

    def too_late(self) -> DeadlineExpired:
        """The error where another's look took all its patience."""
        words = f"the broker did not tell its level within {self.patience_s:.3g} s"
        return DeadlineExpired(local_details(grpc.StatusCode.DEADLINE_EXCEEDED, words))


def is_degraded(level: str) -> bool:
    """Does the machine bear less than everything?"""
    return level != NORMAL
