"""Between the wire and the words of the core: requests in, events out. Nothing is decided here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

from broker.api.beginnings import beginnings_of
from broker.api.grpc.level_codec import LEVEL
from broker.api.grpc.requirements_codec import decode_requirements
from broker.core.content import (
    Completion,
    EmbedContent,
    Embeddings,
    FinishReason,
    GenerateContent,
    Message,
    Prompt,
    Tool,
    ToolCall,
)
from broker.core.effects import TellQueued, TellSlowDown, WaitReason
from broker.core.requests import (
    ANY_OF,
    PRIORITY_DEFAULT,
    PRIORITY_PREEMPTIBLE,
    Criticality,
    OnInterruption,
    Substitution,
)
from broker.core.requirements import Requirements
from broker.core.time_outs import NO_TIME_OUTS, TimeOuts
from broker.runtime.pieces import Pieces
from broker.runtime.streams import Done, Requeued, Started, StreamEvent, Timings
from broker.services.inference import Submission
from broker_client.pb.broker.v1 import common_pb2
from broker_client.pb.broker.v1 import inference_pb2 as pb

# The options under Ollama's names. num_ctx goes another way: it belongs to the model, not to the
# request.
_OPTION_NAMES: Final = {
    "max_tokens": "num_predict",
    **{
        name: name
        for name in (
            *("temperature", "top_p", "top_k", "min_p", "seed", "stop"),
            *("repeat_penalty", "presence_penalty", "frequency_penalty", "repeat_last_n"),
        )
    },
}
_CRITICALITY: Final = {
    common_pb2.CRITICALITY_UNSPECIFIED: Criticality.NORMAL,
    common_pb2.CRITICALITY_CRITICAL: Criticality.CRITICAL,
    common_pb2.CRITICALITY_NORMAL: Criticality.NORMAL,
    common_pb2.CRITICALITY_BATCH: Criticality.BATCH,
}
WAIT_REASON: Final = {
    each: common_pb2.WaitReason.Value(f"WAIT_REASON_{each.value}") for each in WaitReason
}
_FINISH_REASON: Final = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.TOOL_CALLS: pb.FINISH_REASON_TOOL_CALLS,
    FinishReason.UNSAID: pb.FINISH_REASON_UNSPECIFIED,
}
_SUBSTITUTION: Final = {
    pb.SUBSTITUTION_UNSPECIFIED: Substitution.ANY,
    pb.SUBSTITUTION_ANY: Substitution.ANY,
    pb.SUBSTITUTION_FALLBACKS: Substitution.FALLBACKS,
    pb.SUBSTITUTION_NEVER: Substitution.NEVER,
}
_ON_INTERRUPTION: Final = {
    pb.ON_INTERRUPTION_UNSPECIFIED: OnInterruption.FAIL,
    pb.ON_INTERRUPTION_FAIL: OnInterruption.FAIL,
    pb.ON_INTERRUPTION_RESTART: OnInterruption.RESTART,
    pb.ON_INTERRUPTION_CONTINUE: OnInterruption.CONTINUE,
}
_COMPLETION_ALONE: Final = frozenset({"completion"})
_NS_PER_MS: Final = 1_000_000


def fingerprint(request: pb.GenerateRequest | pb.EmbedRequest) -> tuple[bytes, int]:
    """(digest of the content, size in bytes): equal digests mean the same request. The bytes of a
    request include fields that this version does not know, so the kind is part of the digest."""
    content, kind = request, b"embed"
    if isinstance(request, pb.GenerateRequest):
        kind = b"generate"
        if request.resume_from_seq:
            content = pb.GenerateRequest()
            content.CopyFrom(request)
            content.resume_from_seq = 0
    serialized = content.SerializeToString(deterministic=True)
    return hashlib.blake2b(serialized, digest_size=16, person=kind).digest(), len(serialized)


def decode_generate(
    request: pb.GenerateRequest,
    digest: bytes,
    size_bytes: int,
    text_bytes: int,
    remaining_s: float | None,
) -> Submission:
    """A request whose fields are valid, in the words of the core."""
    options = request.options
    priority = request.priority or PRIORITY_DEFAULT
    content = GenerateContent(
        input=_decode_input(request),
        options=_decode_options(options) if request.HasField("options") else {},
        tools=_decode_tools(request) if request.tools else (),
        format_json=_decode_format(request),
        think=_decode_think(request),
    )
    return Submission(
        request_id=request.request_id,
        agent_id=request.agent_id,
        model=request.model,
        fallback_models=tuple(request.fallback_models),
        prefer_loaded=request.prefer_loaded,
        content=content,
        priority=priority,
        criticality=_CRITICALITY[request.criticality],
        preemptible=_is_preemptible(request, priority),
        fingerprint=digest,
        size_bytes=size_bytes,
        text_bytes=text_bytes,
        output_tokens_max=options.max_tokens,  # 0 where it does not say
        num_ctx_needed=options.num_ctx if options.HasField("num_ctx") else 0,
        needs=_needs(request),
        remaining_s=remaining_s,
        resume_from=request.resume_from_seq,
        substitution=_SUBSTITUTION[request.substitution],
        accepts_default=request.accept_default,
        prompt_type=request.prompt_type,
        on_interruption=_ON_INTERRUPTION[request.on_interruption],
        time_outs=_decode_timeouts(request),
        soft_ns=request.soft_deadline_ms * _NS_PER_MS,
        session_id=request.session_id,
        expected_calls=request.expected_calls,
        prefixes=beginnings_of(content, text_bytes),
        wants=_wants(request),
    )


def _is_preemptible(request: pb.GenerateRequest, priority: int) -> bool:
    """May it be set aside while it runs? Who forbids in so many words that it begins anew does not
    mean that either, unless they say so."""
    if request.HasField("preemptible"):
        return request.preemptible
    is_frail = request.on_interruption == pb.ON_INTERRUPTION_FAIL
    return priority >= PRIORITY_PREEMPTIBLE and not is_frail


def _decode_timeouts(request: pb.GenerateRequest | pb.EmbedRequest) -> TimeOuts:
    if not request.HasField("timeouts"):
        return NO_TIME_OUTS
    given: dict[str, int] = {}
    for field, limit_ms in request.timeouts.ListFields():
        given[field.name.removesuffix("_ms") + "_ns"] = limit_ms * _NS_PER_MS
    return TimeOuts(**given)


def decode_embed(
    request: pb.EmbedRequest,
    digest: bytes,
    size_bytes: int,
    text_bytes: int,
    remaining_s: float | None,
) -> Submission:
    """A request whose fields are valid, in the words of the core."""
    return Submission(
        request_id=request.request_id,
        agent_id=request.agent_id,
        model=request.model,
        fallback_models=(),
        content=EmbedContent(
            inputs=tuple(request.inputs),
            dimensions=request.dimensions,
            refuse_too_long=request.refuse_too_long,
        ),
        priority=request.priority or PRIORITY_DEFAULT,
        criticality=_CRITICALITY[request.criticality],
        preemptible=False,
        fingerprint=digest,
        size_bytes=size_bytes,
        text_bytes=text_bytes,
        num_ctx_needed=0,
        needs=frozenset({"embedding"}),
        remaining_s=remaining_s,
        time_outs=_decode_timeouts(request),
        soft_ns=request.soft_deadline_ms * _NS_PER_MS,
        wants=_wants(request),
    )


def _wants(request: pb.GenerateRequest | pb.EmbedRequest) -> Requirements | None:
    given = request.HasField("requirements")
    return decode_requirements(request.requirements) if given else None


def _decode_input(request: pb.GenerateRequest) -> Prompt | tuple[Message, ...]:
    if request.WhichOneof("input") == "prompt":
        prompt = request.prompt
        return Prompt(
            text=prompt.text,
            system=prompt.system,
            suffix=prompt.suffix,
            images=tuple(prompt.images),
            raw=prompt.raw,
        )
    return tuple(
        Message(
            role=each.role,
            content=each.content,
            thinking=each.thinking,
            images=tuple(each.images),
            tool_calls=tuple(
                ToolCall(call.id, call.name, call.arguments_json) for call in each.tool_calls
            ),
            tool_name=each.tool_name,
            tool_call_id=each.tool_call_id,
        )
        for each in request.chat.messages
    )


def _decode_options(options: pb.Options) -> dict[str, object]:
    found: dict[str, object] = {}
    for descriptor, value in options.ListFields():
        name = _OPTION_NAMES.get(descriptor.name)
        if name is not None:
            found[name] = list(value) if name == "stop" else value
    return found


def _decode_format(request: pb.GenerateRequest) -> str | None:
    if not request.HasField("format"):
        return None
    shape = request.format
    if shape.WhichOneof("shape") == "json_schema":
        return shape.json_schema
    return "json" if shape.json else None


def _decode_think(request: pb.GenerateRequest) -> bool | str | None:
    if not request.HasField("think"):
        return None
    think = request.think
    return think.level if think.WhichOneof("mode") == "level" else think.enabled


def _decode_tools(request: pb.GenerateRequest) -> tuple[Tool, ...]:
    return tuple(
        Tool(name=each.name, description=each.description, parameters_json=each.parameters_json)
        for each in request.tools
    )


def _needs(request: pb.GenerateRequest) -> frozenset[str]:
    is_prompt = request.WhichOneof("input") == "prompt"
    has_suffix = is_prompt and bool(request.prompt.suffix)
    has_images = (
        bool(request.prompt.images)
        if is_prompt
        else any(each.images for each in request.chat.messages)
    )
    if not (request.tools or has_suffix or has_images or request.HasField("think")):
        return _COMPLETION_ALONE
    needs = {"completion"}
    if request.tools:
        needs.add("tools")
    if request.HasField("think") and (request.think.enabled or request.think.level):
        needs.add("thinking")
    if has_suffix:
        needs.add("insert")
    if has_images:
        needs.add(f"vision{ANY_OF}audio")  # images carry sound too
    return frozenset(needs)


class EventEncoder:
    """The events of one stream as messages.

    The message of a chunk is used again for the next one: gRPC serializes a message before it asks
    for another, and making two objects per token would cost more than filling one.
    """

    __slots__ = ("_chunk", "_request_id", "_token")

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._token = pb.GenerateEvent()
        self._chunk = self._token.chunk

    def encode(self, event: StreamEvent) -> pb.GenerateEvent:
        """Valid until the next call."""
        if type(event) is Pieces:
            return self._pieces(event)
        if type(event) is TellQueued:
            return self._queued(event)
        return _ENCODERS[type(event)](event)

    def _pieces(self, event: Pieces) -> pb.GenerateEvent:
        chunk = self._chunk
        chunk.seq, chunk.text, thinking, tool_calls, chunk.tokens = event
        if thinking or chunk.thinking:
            chunk.thinking = thinking
        if chunk.tool_calls:
            del chunk.tool_calls[:]
        for call in tool_calls:
            chunk.tool_calls.add(id=call.id, name=call.name, arguments_json=call.arguments_json)
        return self._token

    def _queued(self, event: TellQueued) -> pb.GenerateEvent:
        encoded = pb.GenerateEvent()
        queued = encoded.queued
        queued.position, queued.reason = event.position, WAIT_REASON[event.reason]
        queued.detail, queued.request_id = event.detail, self._request_id
        if event.eta_ns is not None:
            queued.eta_ms = event.eta_ns // 1_000_000
        if event.eta_low_ns is not None and event.eta_high_ns is not None:
            queued.eta_low_ms = event.eta_low_ns // 1_000_000
            queued.eta_high_ms = whole_ms(event.eta_high_ns)
        return encoded


def _encode_slow_down(event: TellSlowDown) -> pb.GenerateEvent:
    return pb.GenerateEvent(slow_down=pb.SlowDown(retry_after_ms=whole_ms(event.retry_after_ns)))


def whole_ms(duration_ns: int) -> int:
    """Rounded up: who waits so long has waited long enough."""
    return -(-duration_ns // 1_000_000)


def _encode_requeued(event: Requeued) -> pb.GenerateEvent:
    requeued = pb.Requeued(reason=event.reason, discard_before_seq=event.void_before)
    return pb.GenerateEvent(requeued=requeued)


def _encode_started(event: Started) -> pb.GenerateEvent:
    encoded = pb.GenerateEvent()
    started = encoded.started
    started.model, started.backend = event.model, event.backend
    started.level, started.attempt = LEVEL[event.level], event.attempt
    started.substituted_for = event.substituted_for
    started.changes.extend(event.changes)
    started.chosen_because = event.chosen_because
    return encoded


def _encode_done(event: Done) -> pb.GenerateEvent:
    result = event.result
    reason = pb.FINISH_REASON_UNSPECIFIED
    if isinstance(result, Completion):
        reason = _FINISH_REASON[result.finish_reason]
    encoded = pb.GenerateEvent()
    done = encoded.done
    done.model, done.finish_reason, done.cached = event.model, reason, event.is_cached
    if event.is_soft_met is not None:
        done.soft_deadline_met = event.is_soft_met
    fill_usage(done.usage, result)
    fill_timings(done.timings, event.timings, result)
    return encoded


# Of all encoders: one that kept methods of its own in a table would keep itself.
_ENCODERS: Final[dict[type[StreamEvent], Callable[[Any], pb.GenerateEvent]]] = {
    TellSlowDown: _encode_slow_down,
    Requeued: _encode_requeued,
    Started: _encode_started,
    Done: _encode_done,
}


def fill_usage(usage: common_pb2.Usage, result: Completion | Embeddings) -> None:
    """Writes what it cost into a message: filling one costs less than copying one."""
    usage.prompt_tokens = result.prompt_tokens
    if isinstance(result, Completion):
        usage.output_tokens = result.output_tokens


def fill_timings(
    encoded: common_pb2.Timings, timings: Timings, result: Completion | Embeddings
) -> None:
    """Writes where the time went into a message."""
    encoded.queue_wait_ms = timings.queue_wait_ns / 1e6
    encoded.load_ms = timings.load_wait_ns / 1e6
    encoded.first_token_ms = timings.first_token_ns / 1e6
    encoded.per_token_ms = timings.per_token_ns / 1e6
    encoded.total_ms = timings.total_ns / 1e6
    if isinstance(result, Completion):
        encoded.backend_prompt_ms = result.prompt_duration_ns / 1e6
        encoded.backend_output_ms = result.output_duration_ns / 1e6
