"""What agents ask of a world, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass

from broker.core.errors import BrokerError
from broker.core.requests import Criticality, OnInterruption, Outcome, RequestKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One request that an agent will make. Its deadline is `patience_ns` after its arrival.

    `leaves_after_ns`: its client goes away then. `again_after_ns`: the same call comes once more
    then, if it is still under way; `again_differs`, with other words in it. 0 means never.
    `num_ctx_needed` is 0 where any context will do.
    """

    at_ns: int
    agent_id: str
    request_id: str
    model: str
    priority: int
    prompt_tokens: int
    output_tokens: int
    patience_ns: int
    criticality: Criticality = Criticality.NORMAL
    num_ctx_needed: int = 0
    leaves_after_ns: int = 0
    again_after_ns: int = 0
    again_differs: bool = False
    on_interruption: OnInterruption = OnInterruption.FAIL

    @property
    def key(self) -> RequestKey:
        return self.agent_id, self.request_id

    @property
    def prompt(self) -> tuple[int, ...]:
        """Token ids that no two tasks share, so that no prefix is found in a cache."""
        seed = hash_of(self.agent_id, self.request_id)
        return tuple((seed + index) & 0x7FFFFFFF for index in range(self.prompt_tokens))


@dataclass(slots=True, kw_only=True)
class Story:
    """What became of a task. Times are 0 where it never came so far."""

    task: Task
    started_ns: int = 0
    first_token_ns: int = 0
    tokens_heard: int = 0  # of its last attempt; a server may be told to send the first and last
    heard_ns: int = 0  # when the last of them came
    attempts: int = 0
    ended_ns: int = 0
    outcome: Outcome | None = None
    error: BrokerError | None = None
    endings: int = 0  # exactly one, or the engine is wrong


def hash_of(*words: str) -> int:
    """A number from words, the same in every process (unlike hash())."""
    value = 0xCBF29CE484222325  # FNV-1a
    for byte in "\0".join(words).encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value
