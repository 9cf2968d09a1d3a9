"""What a generation tells its caller while it runs: one typed event per message of the stream.

`Lowered` and `Retrying` are the client's own: that it asks for less than it was told to, and that a
call is about to be tried again, so that nobody waits in silence. Words stand for the wire's enums
("slot", "normal", "stop"); a number that this version does not know becomes "unspecified".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import EnumDescriptor

from broker_client.errors import BrokerError
from broker_client.pb.broker.v1 import common_pb2, inference_pb2

UNSPECIFIED: Final = "unspecified"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the model made. `arguments_json` is one JSON object, order kept."""

    id: str
    name: str
    arguments_json: str

    def arguments(self) -> dict[str, Any]:
        """The arguments; ValueError where the model did not write a JSON object."""
        found = json.loads(self.arguments_json)
        if not isinstance(found, dict):
            raise ValueError(f"arguments of {self.name} are no JSON object")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """The request waits. `eta_ms` is None while there is nothing to judge by; where it is not, four
    of five start between `eta_low_ms` and `eta_high_ms` from now.

    `reason` is "slot", "loading", "swap", "no_room", "backend_down", "bulkhead", "paused",
    "queue_full", "level", "backoff", "breaker", "sick", "healing" or "backend_drains"; `detail`
    says it for people.
    """

    position: int
    eta_ms: int | None
    reason: str
    detail: str
    request_id: str
    eta_low_ms: int | None = None
    eta_high_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A backend has the request. `substituted_for` is empty where the asked model answers.
    `attempt` is 1 for the first, more where earlier ones came to nothing. `chosen_because` says why
    this model, where an alias or requirements were asked for."""

    model: str
    backend: str
    level: str
    substituted_for: str
    changes: tuple[str, ...]
    attempt: int
    chosen_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of the answer. `seq` numbers its first piece, `tokens` counts its pieces. Numbers
    never begin anew: after pieces that became void they count on."""

    seq: int
    text: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowDown:
    """The broker asks for less for a while; nothing is lost."""

    retry_after_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Requeued:
    """Back in the queue. Pieces with a number lower than `discard_before_seq` are void, text,
    thinking and tool calls alike: the answer begins anew with the next piece. 0: none is void."""

    reason: str
    discard_before_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """Before the call: at this level less is asked for than was said; `changes` in words."""

    level: str
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """The call failed in a way that allows another try, which follows after `delay_s`."""

    error: BrokerError
    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that a request cost."""

    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where the time of a request went, in milliseconds; meanings as in common.proto."""

    queue_wait_ms: float
    load_ms: float
    first_token_ms: float
    per_token_ms: float
    total_ms: float
    backend_prompt_ms: float
    backend_output_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Complete; the last event. `finish_reason` is "stop", "length" or "tool_calls".
    `soft_deadline_met` is None where it had none."""

    model: str
    usage: Usage
    timings: Timings
    cached: bool
    finish_reason: str
    soft_deadline_met: bool | None = None


Event = Queued | Started | Chunk | SlowDown | Requeued | Lowered | Retrying | Done


def word_of(enum: EnumDescriptor, number: int, prefix: str) -> str:
    """The enum value's name in small letters without its prefix."""
    value = enum.values_by_number.get(number)
    return value.name.removeprefix(prefix).lower() if value is not None else UNSPECIFIED


def usage_of(message: common_pb2.Usage) -> Usage:
    """The wire's usage, typed."""
    return Usage(prompt_tokens=message.prompt_tokens, output_tokens=message.output_tokens)


def timings_of(message: common_pb2.Timings) -> Timings:
    """The wire's timings, typed."""
    return Timings(
        queue_wait_ms=message.queue_wait_ms,
        load_ms=message.load_ms,
        first_token_ms=message.first_token_ms,
        per_token_ms=message.per_token_ms,
        total_ms=message.total_ms,
        backend_prompt_ms=message.backend_prompt_ms,
        backend_output_ms=message.backend_output_ms,
    )


def event_of(message: inference_pb2.GenerateEvent) -> Event | None:
    """The typed event; None for a kind that this version does not know."""
    match message.WhichOneof("event"):
        case "chunk":
            return chunk_of(message.chunk)
        case "queued":
            return queued_of(message.queued)
        case "started":
            return started_of(message.started)
        case "slow_down":
            return SlowDown(retry_after_ms=message.slow_down.retry_after_ms)
        case "requeued":
            return Requeued(
                reason=message.requeued.reason,
                discard_before_seq=message.requeued.discard_before_seq,
            )
        case "done":
            return done_of(message.done)
        case _:
            return None


def queued_of(message: inference_pb2.Queued) -> Queued:
    """The wire's event, typed."""
    return Queued(
        position=message.position,
        eta_ms=message.eta_ms if message.HasField("eta_ms") else None,
        reason=word_of(common_pb2.WaitReason.DESCRIPTOR, message.reason, "WAIT_REASON_"),
        detail=message.detail,
        request_id=message.request_id,
        eta_low_ms=message.eta_low_ms if message.HasField("eta_low_ms") else None,
        eta_high_ms=message.eta_high_ms if message.HasField("eta_high_ms") else None,
    )


def started_of(message: inference_pb2.Started) -> Started:
    """The wire's event, typed."""
    return Started(
        model=message.model,
        backend=message.backend,
        level=word_of(common_pb2.DegradationLevel.DESCRIPTOR, message.level, "DEGRADATION_LEVEL_"),
        substituted_for=message.substituted_for,
        changes=tuple(message.changes),
        attempt=message.attempt,
        chosen_because=message.chosen_because,
    )


def chunk_of(message: inference_pb2.Chunk) -> Chunk:
    """The wire's event, typed."""
    return Chunk(
        seq=message.seq,
        text=message.text,
        thinking=message.thinking,
        tool_calls=tuple(
            ToolCall(id=each.id, name=each.name, arguments_json=each.arguments_json)
            for each in message.tool_calls
        ),
        tokens=message.tokens,
    )


def soft_deadline_met_of(
    message: inference_pb2.Done | inference_pb2.EmbedResponse,
) -> bool | None:
    """Was it complete by then? None where it had no soft deadline."""
    return message.soft_deadline_met if message.HasField("soft_deadline_met") else None


def done_of(message: inference_pb2.Done) -> Done:
    """The wire's event, typed."""
    return Done(
        model=message.model,
        usage=usage_of(message.usage),
        timings=timings_of(message.timings),
        cached=message.cached,
        finish_reason=word_of(
            inference_pb2.FinishReason.DESCRIPTOR, message.finish_reason, "FINISH_REASON_"
        ),
        soft_deadline_met=soft_deadline_met_of(message),
    )
