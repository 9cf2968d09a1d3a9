"""What agents ask of a world, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker.core.errors import BrokerError
from broker.core.prefixes import PREFIX_BYTES
from broker.core.requests import (
    Criticality,
    OnInterruption,
    Outcome,
    RequestKey,
    RequestKind,
    RequestSpec,
)
from broker.core.requirements import Requirements
from broker.core.time_outs import NO_TIME_OUTS, TimeOuts

# Of the prompts of a trace that tells of them: how many tokens share one hash (Mooncake's traces).
BLOCK_TOKENS: Final = 512
_BYTES_PER_TOKEN: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One request that an agent will make. Its deadline is `patience_ns` after its arrival.

    `leaves_after_ns`: its client goes away then. `again_after_ns`: the same call comes once more
    then, if it is still under way; `again_differs`, with other words in it. `gives_up_after_ns`:
    its client goes away then if nothing has been started for it. 0 means never.
    `num_ctx_needed` is 0 where any context will do. `output_tokens_max` is what it asks for at
    most, 0 where it does not say. Calls of one session begin with the same tokens. `blocks` names
    the prompt's tokens, BLOCK_TOKENS each, where a trace tells which prompts share them. The first
    `shared_tokens` are those of all tasks that share `shares`.
    `queue_limit_ns` is how long it says that it may wait to be started, 0 where it does not say.
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
    output_tokens_max: int = 0
    fallback_models: tuple[str, ...] = ()
    prefer_loaded: bool = False  # one of these that is loaded, rather than wait for a load
    preemptible: bool = False
    session_id: str = ""
    expected_calls: int = 0  # of its session, as its client says; 0: it does not
    blocks: tuple[int, ...] = ()
    shares: str = ""
    shared_tokens: int = 0
    soft_deadline_ns: int = 0  # by then, after it comes, it would like its answer; 0: any time
    queue_limit_ns: int = 0
    gives_up_after_ns: int = 0
    leaves_after_ns: int = 0
    again_after_ns: int = 0
    again_differs: bool = False
    on_interruption: OnInterruption = OnInterruption.FAIL
    wants: Requirements | None = None  # what its model must be; it need not name one then

    @property
    def key(self) -> RequestKey:
        return self.agent_id, self.request_id

    @property
    def prompt(self) -> tuple[int, ...]:
        """Token ids. Two tasks share none, so that no prefix is found in a cache, but where they
        are of one session, share a beginning, or name the same blocks."""
        if self.blocks:
            return self._prompt_of_blocks()
        shared = min(self.shared_tokens, self.prompt_tokens)
        own = ("session", self.session_id) if self.session_id else (self.request_id,)
        begins = _tokens_of(hash_of("shared", self.shares), shared) if shared else ()
        return begins + _tokens_of(hash_of(self.agent_id, *own), self.prompt_tokens - shared)

    @property
    def prefixes(self) -> tuple[int, ...]:
        """What its beginning is known by, if it may be like another's."""
        if not (self.blocks or self.session_id or self.shared_tokens):
            return ()
        prompt = self.prompt
        lengths = (each // _BYTES_PER_TOKEN for each in PREFIX_BYTES)
        return tuple(hash(prompt[:each]) for each in lengths if each <= len(prompt))

    def _prompt_of_blocks(self) -> tuple[int, ...]:
        ids: list[int] = []
        for place in range(-(-self.prompt_tokens // BLOCK_TOKENS)):
            named = place < len(self.blocks)
            words = (str(self.blocks[place]),) if named else (*self.key, str(place))
            seed = hash_of("block", *words)
            ids.extend((seed + index) & 0x7FFFFFFF for index in range(BLOCK_TOKENS))
        return tuple(ids[: self.prompt_tokens])

    def spec(self, words: str, now_ns: int) -> RequestSpec:
        """What the engine is told of it when it comes now; `words` stand for its content."""
        limit_ns = self.queue_limit_ns
        return RequestSpec(
            key=self.key,
            fingerprint=words.encode(),
            kind=RequestKind.GENERATE,
            model=self.model,
            priority=self.priority,
            criticality=self.criticality,
            deadline_ns=now_ns + self.patience_ns,
            soft_deadline_ns=now_ns + self.soft_deadline_ns if self.soft_deadline_ns else 0,
            size_bytes=self.prompt_tokens * _BYTES_PER_TOKEN,
            num_ctx_needed=self.num_ctx_needed,
            output_tokens_max=self.output_tokens_max,
            fallback_models=self.fallback_models,
            prefer_loaded=self.prefer_loaded,
            preemptible=self.preemptible,
            session_id=self.session_id,
            expected_calls=self.expected_calls,
            prefixes=self.prefixes,
            on_interruption=self.on_interruption,
            wants=self.wants,
            time_outs=TimeOuts(queue_ns=limit_ns) if limit_ns else NO_TIME_OUTS,
        )


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


def _tokens_of(seed: int, count: int) -> tuple[int, ...]:
    return tuple((seed + index) & 0x7FFFFFFF for index in range(count))


def hash_of(*words: str) -> int:
    """A number from words, the same in every process (unlike hash())."""
    value = 0xCBF29CE484222325  # FNV-1a
    for byte in "\0".join(words).encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value
