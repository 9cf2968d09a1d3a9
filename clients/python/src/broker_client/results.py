"""What a call gives in the end: one generation put together, or vectors.

`Answer` gathers the pieces of a generation and takes back those that the broker declares void; it
never guesses: what cannot be taken apart is an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from broker_client.errors import StreamBroken, local_details
from broker_client.events import (
    UNSPECIFIED,
    Chunk,
    Done,
    Event,
    Lowered,
    Requeued,
    Started,
    Timings,
    ToolCall,
    Usage,
    soft_deadline_met_of,
    timings_of,
    usage_of,
)
from broker_client.machine import level_word
from broker_client.pb.broker.v1 import inference_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateResult:
    """A whole answer. `model` is the one that answered, `substituted_for` the one asked for where
    that is another. `level` is the broker's when it began, `changes` what the broker altered,
    `lowered` what this client did before, both in words. `soft_deadline_met` is None where it had
    none. `chosen_because` says why this model, where an alias or requirements were asked for."""

    request_id: str
    model: str
    text: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    cached: bool
    substituted_for: str
    changes: tuple[str, ...]
    level: str
    lowered: tuple[str, ...]
    usage: Usage
    timings: Timings
    soft_deadline_met: bool | None = None
    chosen_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult:
    """Vectors of length 1 (L2), in the order of the inputs. `level` is the broker's when it began,
    `changes` what it altered, `chosen_because` why this model, where that was not named."""

    model: str
    vectors: tuple[tuple[float, ...], ...]
    level: str
    changes: tuple[str, ...]
    usage: Usage
    timings: Timings
    soft_deadline_met: bool | None = None
    chosen_because: str = ""


class Answer:
    """Gathers the events of one generation."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._chunks: list[Chunk] = []
        self._started: Started | None = None
        self._lowered: tuple[str, ...] = ()
        self._done: Done | None = None

    def add(self, event: Event) -> None:
        """Takes the next event."""
        match event:
            case Chunk():
                self._chunks.append(event)
            case Requeued():
                self._chunks = kept_from(self._chunks, event.discard_before_seq)
            case Lowered():
                self._lowered = event.changes
            case Started():
                self._started = event
            case Done():
                self._done = event
            case _:
                pass

    def result(self) -> GenerateResult:
        """The whole answer; StreamBroken before `Done` has come."""
        if self._done is None:
            raise StreamBroken(
                local_details(grpc.StatusCode.UNKNOWN, "the stream gave no done event")
            )
        started = self._started
        return GenerateResult(
            request_id=self._request_id,
            model=self._done.model,
            text="".join(each.text for each in self._chunks),
            thinking="".join(each.thinking for each in self._chunks),
            tool_calls=tuple(call for each in self._chunks for call in each.tool_calls),
            finish_reason=self._done.finish_reason,
            cached=self._done.cached,
            substituted_for=started.substituted_for if started else "",
            changes=started.changes if started else (),
            level=started.level if started else UNSPECIFIED,
            lowered=self._lowered,
            usage=self._done.usage,
            timings=self._done.timings,
            soft_deadline_met=self._done.soft_deadline_met,
            chosen_because=started.chosen_because if started else "",
        )


def kept_from(chunks: list[Chunk], seq: int) -> list[Chunk]:
    """The chunks whose pieces are all numbered `seq` or more; StreamBroken where it falls inside
    one."""
    void = [each for each in chunks if each.seq < seq]
    if void and void[-1].seq + void[-1].tokens > seq:
        raise StreamBroken(
            local_details(
                grpc.StatusCode.UNKNOWN,
                f"pieces before {seq} are void, but came in one message with later ones",
            )
        )
    return chunks[len(void) :]


def embed_result_of(message: inference_pb2.EmbedResponse) -> EmbedResult:
    """The wire's answer, typed."""
    return EmbedResult(
        model=message.model,
        vectors=tuple(tuple(each.values) for each in message.embeddings),
        level=level_word(message.level),
        changes=tuple(message.changes),
        usage=usage_of(message.usage),
        timings=timings_of(message.timings),
        soft_deadline_met=soft_deadline_met_of(message),
        chosen_because=message.chosen_because,
    )
