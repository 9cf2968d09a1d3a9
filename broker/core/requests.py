"""A request as the engine sees it: numbers and names, never words."""

from __future__ import annotations

from enum import Enum
from typing import Final, NewType

from broker.core.requirements import Requirements
from broker.core.state_machine import Symbol
from broker.core.time_outs import NO_TIME_OUTS, TimeOuts
from broker.core.value import value

PRIORITY_HIGHEST: Final = 1
PRIORITY_LOWEST: Final = 10
PRIORITY_DEFAULT: Final = 5
# From here on running work may be set aside for urgent work, where its owner says nothing of that.
PRIORITY_PREEMPTIBLE: Final = 8

# Between capabilities of which one is enough, in a name of RequestSpec.needs: "vision|audio".
ANY_OF: Final = "|"

RequestKey = tuple[str, str]  # (agent_id, request_id)
AttemptId = NewType("AttemptId", int)


class RequestKind(Enum):
    GENERATE = "generate"
    EMBED = "embed"


class Criticality(Enum):
    CRITICAL = "critical"
    NORMAL = "normal"
    BATCH = "batch"


class Substitution(Enum):
    """Which models may answer beside the one that was asked for."""

    ANY = "any"  # the fallbacks; where the level allows small models only, any small one
    FALLBACKS = "fallbacks"
    NEVER = "never"


class OnInterruption(Enum):
    """What may be done when an attempt is lost after a piece of it has reached the client."""

    FAIL = "fail"
    RESTART = "restart"  # anew; the client is told which pieces are void
    CONTINUE = "continue"  # from the prompt plus the text so far, where that can be; else anew


class Outcome(Symbol):
    """How a request ended. Exactly one per request; metrics count by it."""

    COMPLETED = "completed"  # the terminator came
    FAILED = "failed"  # the backend, or the broker, failed it
    REFUSED = "refused"  # before it was queued
    CANCELLED = "cancelled"  # by its agent, its connection, or an operator
    EXPIRED = "expired"  # its deadline passed
    SHED = "shed"  # given up for the sake of the machine
    DISPLACED = "displaced"  # given up for another agent's request


@value(kw_only=True)
class RequestSpec:
    """What the engine decides by.

    `model` is a name ("tiny:latest"), or an alias; empty where `wants` alone say which.
    `fingerprint` identifies the content: the same key with the same fingerprint is the same
    request. `num_ctx_needed` is 0 where any will do. `deadline_ns` is on the engine's clock.
    `size_bytes` is what it holds in memory; `text_bytes` of that are text, which is what tokens are
    made of (-1: all of it). `output_tokens_max` is what it asks for at most; 0: no limit is known.
    """

    key: RequestKey
    fingerprint: bytes
    kind: RequestKind
    model: str
    priority: int
    criticality: Criticality
    deadline_ns: int
    size_bytes: int
    num_ctx_needed: int = 0
    needs: frozenset[str] = frozenset()  # capabilities that the content calls for
    preemptible: bool = False
    fallback_models: tuple[str, ...] = ()
    prefer_loaded: bool = False  # of all these models, one that is loaded rather than wait for one
    text_bytes: int = -1
    output_tokens_max: int = 0
    substitution: Substitution = Substitution.ANY
    accepts_default: bool = False  # will the operator's default answer do, if it must wait long?
    prompt_type: str = ""  # which of the default answers; "" is the general one
    on_interruption: OnInterruption = OnInterruption.FAIL
    time_outs: TimeOuts = NO_TIME_OUTS  # the caller's own
    soft_deadline_ns: int = 0  # on the same clock: it would like its answer by then; 0: any time
    session_id: str = ""  # of one agent: its requests had better meet one prompt cache
    prefixes: tuple[int, ...] = ()  # hashes of its beginning, at the lengths of `prefixes.py`
    expected_calls: int = 0  # that its session will have, as its caller says; 0: it does not
    wants: Requirements | None = None  # what its model must be, beside what the content calls for

    @property
    def prompt_bytes(self) -> int:
        """Bytes of text, by which lengths and costs are estimated."""
        return self.size_bytes if self.text_bytes < 0 else self.text_bytes
