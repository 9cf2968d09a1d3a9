"""Between the wire and the core: what makes two requests the same, and what each event becomes."""

from __future__ import annotations

import pytest

from broker.api.beginnings import beginnings_of
from broker.api.grpc.codec import (
    WAIT_REASON,
    EventEncoder,
    decode_embed,
    decode_generate,
    fill_timings,
    fill_usage,
    fingerprint,
    whole_ms,
)
from broker.core.content import Completion, Embeddings, FinishReason, GenerateContent, ToolCall
from broker.core.effects import TellQueued, TellSlowDown, WaitReason
from broker.core.level import Level
from broker.core.requests import Criticality
from broker.runtime.pieces import Pieces
from broker.runtime.streams import Done, Requeued, Started, Timings
from broker_client.pb.broker.v1 import common_pb2
from broker_client.pb.broker.v1 import inference_pb2 as pb

KEY = ("a", "r")
TIMINGS = Timings(
    queue_wait_ns=1_500_000,
    load_wait_ns=500_000,
    first_token_ns=2_000_000,
    per_token_ns=250_000,
    total_ns=3_000_000,
)
COMPLETION = Completion(
    finish_reason=FinishReason.LENGTH,
    prompt_tokens=3,
    output_tokens=2,
    prompt_duration_ns=1_000_000,
    output_duration_ns=2_000_000,
)


def generate(**changed: object) -> pb.GenerateRequest:
    request = pb.GenerateRequest(agent_id="a", model="m", prompt=pb.Prompt(text="hi"))
    for name, value in changed.items():
        setattr(request, name, value)
    return request


def test_the_same_content_has_the_same_fingerprint_wherever_it_resumes() -> None:
    digest, size_bytes = fingerprint(generate())
    assert fingerprint(generate()) == (digest, size_bytes)
    assert size_bytes == generate().ByteSize()
    resumed = generate(resume_from_seq=7)
    assert fingerprint(resumed)[0] == digest
    assert resumed.resume_from_seq == 7


def test_any_other_content_has_another_fingerprint() -> None:
    others: list[pb.GenerateRequest | pb.EmbedRequest] = [
        generate(priority=6),
        generate(model="n"),
        generate(session_id="s"),
        generate(preemptible=False),
        pb.GenerateRequest(agent_id="a", model="m", chat=pb.Chat()),
        pb.EmbedRequest(agent_id="a", model="m"),
    ]
    digests = {fingerprint(each)[0] for each in (generate(), *others)}
    assert len(digests) == len(others) + 1


def test_an_embedding_never_has_the_fingerprint_of_a_generation() -> None:
    """Not even where it carries the very bytes of one, in fields that it does not know."""
    data = generate(request_id="r").SerializeToString()
    assert (
        fingerprint(pb.EmbedRequest.FromString(data))[0]
        != fingerprint(pb.GenerateRequest.FromString(data))[0]
    )


@pytest.mark.parametrize(
    ("priority", "said", "is_preemptible"),
    [(0, None, False), (7, None, False), (8, None, True), (10, False, False), (1, True, True)],
)
def test_work_may_be_set_aside_from_priority_eight_on_unless_it_says(
    priority: int, said: bool | None, is_preemptible: bool
) -> None:
    request = generate(priority=priority)
    if said is not None:
        request.preemptible = said
    call = decode_generate(request, b"", 0, 0, None)
    assert call.preemptible is is_preemptible
    assert call.priority == (priority or 5)


@pytest.mark.parametrize(
    ("way", "said", "is_preemptible"),
    [
        (pb.ON_INTERRUPTION_UNSPECIFIED, None, True),
        (pb.ON_INTERRUPTION_FAIL, None, False),
        (pb.ON_INTERRUPTION_FAIL, True, True),
        (pb.ON_INTERRUPTION_RESTART, None, True),
    ],
)
def test_what_must_not_begin_anew_is_not_set_aside_unless_it_says_so(
    way: pb.OnInterruption, said: bool | None, is_preemptible: bool
) -> None:
    request = generate(priority=9, on_interruption=way)
    if said is not None:
        request.preemptible = said
    assert decode_generate(request, b"", 0, 0, None).preemptible is is_preemptible


def test_what_belongs_together_reaches_the_engine_as_numbers() -> None:
    request = generate(session_id="s", expected_calls=7)
    request.prompt.text = "x" * 5_000
    call = decode_generate(request, b"", 0, 5_000, None)
    assert (call.session_id, call.expected_calls) == ("s", 7)
    assert isinstance(call.content, GenerateContent)
    assert call.prefixes == beginnings_of(call.content, 5_000)
    assert len(call.prefixes) == 2


@pytest.mark.parametrize(
    ("number", "criticality"),
    [
        (common_pb2.CRITICALITY_UNSPECIFIED, Criticality.NORMAL),
        (common_pb2.CRITICALITY_NORMAL, Criticality.NORMAL),
        (common_pb2.CRITICALITY_CRITICAL, Criticality.CRITICAL),
        (common_pb2.CRITICALITY_BATCH, Criticality.BATCH),
    ],
)
def test_criticality(number: common_pb2.Criticality.ValueType, criticality: Criticality) -> None:
    assert decode_generate(generate(criticality=number), b"", 0, 0, None).criticality is criticality
    embed = pb.EmbedRequest(inputs=["x"], criticality=number)
    assert decode_embed(embed, b"", 0, 0, None).criticality is criticality


def test_what_a_request_needs_of_a_model() -> None:
    def needs(request: pb.GenerateRequest) -> set[str]:
        return set(decode_generate(request, b"", 0, 0, None).needs)

    plain = generate()
    assert needs(plain) == {"completion"}
    plain.prompt.suffix = "x"
    assert needs(plain) == {"completion", "insert"}
    chat = pb.GenerateRequest(chat=pb.Chat(messages=[pb.Message(role="user")]))
    chat.think.enabled = False
    assert needs(chat) == {"completion"}
    chat.think.level = "low"
    chat.tools.add(name="f")
    assert needs(chat) == {"completion", "thinking", "tools"}
    assert decode_embed(pb.EmbedRequest(), b"", 0, 0, None).needs == {"embedding"}


def test_the_context_belongs_to_the_model_and_is_no_option() -> None:
    request = generate()
    request.options.num_ctx = 8192
    request.options.max_tokens = 5
    call = decode_generate(request, b"", 0, 0, None)
    assert call.num_ctx_needed == 8192
    assert call.content.options == {"num_predict": 5}  # type: ignore[union-attr]  # a generation


def test_what_waits() -> None:
    encode = EventEncoder("r").encode
    event = encode(TellQueued(KEY, 3, 1_999_999, WaitReason.SWAP, "to make room"))
    assert event.queued == pb.Queued(
        position=3,
        eta_ms=1,
        reason=common_pb2.WAIT_REASON_SWAP,
        detail="to make room",
        request_id="r",
    )
    told = TellQueued(KEY, 3, 1_999_999, WaitReason.SLOT, "", 0, 2_000_001)
    told_event = encode(told).queued
    assert told_event.HasField("eta_low_ms")
    assert (told_event.eta_low_ms, told_event.eta_ms, told_event.eta_high_ms) == (0, 1, 3)
    unknown = encode(TellQueued(KEY, 1, None, WaitReason.SLOT, ""))
    assert not unknown.queued.HasField("eta_ms")
    assert not unknown.queued.HasField("eta_low_ms")
    assert not unknown.queued.HasField("eta_high_ms")
    assert set(WAIT_REASON) == set(WaitReason)


@pytest.mark.parametrize(
    ("duration_ns", "milliseconds"), [(0, 0), (1, 1), (1_000_000, 1), (1_000_001, 2)]
)
def test_a_time_to_wait_is_never_told_too_short(duration_ns: int, milliseconds: int) -> None:
    assert whole_ms(duration_ns) == milliseconds
    event = EventEncoder("r").encode(TellSlowDown(KEY, duration_ns))
    assert event.WhichOneof("event") == "slow_down"
    assert event.slow_down.retry_after_ms == milliseconds


def test_what_starts_and_what_goes_back() -> None:
    encode = EventEncoder("r").encode
    started = encode(Started("m", "b", "other", ("num_ctx raised",), Level.LEVEL_2)).started
    assert started.level == common_pb2.DEGRADATION_LEVEL_2
    assert (started.model, started.backend, started.substituted_for) == ("m", "b", "other")
    assert list(started.changes) == ["num_ctx raised"]
    usual = encode(Started("m", "b", "", ())).started
    assert usual.level == common_pb2.DEGRADATION_LEVEL_NORMAL
    assert usual.attempt == 1
    assert encode(Started("m", "b", "", (), attempt=3)).started.attempt == 3
    requeued = encode(Requeued("lost")).requeued
    assert (requeued.reason, requeued.discard_before_seq) == ("lost", 0)
    assert encode(Requeued("lost", 7)).requeued.discard_before_seq == 7


def test_one_message_serves_all_chunks_and_keeps_nothing_of_the_last() -> None:
    encode = EventEncoder("r").encode
    call = ToolCall("c", "f", '{"z":1}')
    first = encode(Pieces(0, "a", "thought", (call,), 3)).SerializeToString()
    second = encode(Pieces(3, "b", "", (), 1)).SerializeToString()
    third = encode(Pieces(4, "", "more", (), 1)).SerializeToString()
    read = [pb.GenerateEvent.FromString(each).chunk for each in (first, second, third)]
    tool = pb.ToolCall(id="c", name="f", arguments_json='{"z":1}')
    assert read == [
        pb.Chunk(seq=0, text="a", thinking="thought", tool_calls=[tool], tokens=3),
        pb.Chunk(seq=3, text="b", tokens=1),
        pb.Chunk(seq=4, thinking="more", tokens=1),
    ]


@pytest.mark.parametrize(
    ("reason", "number"),
    [
        (FinishReason.STOP, pb.FINISH_REASON_STOP),
        (FinishReason.LENGTH, pb.FINISH_REASON_LENGTH),
        (FinishReason.TOOL_CALLS, pb.FINISH_REASON_TOOL_CALLS),
        (FinishReason.UNSAID, pb.FINISH_REASON_UNSPECIFIED),
    ],
)
def test_the_end(reason: FinishReason, number: int) -> None:
    result = Completion(finish_reason=reason, prompt_tokens=3, output_tokens=2)
    done = EventEncoder("r").encode(Done("m", result, TIMINGS)).done
    assert (done.model, done.finish_reason, done.cached) == ("m", number, False)
    given = EventEncoder("r").encode(Done("", result, TIMINGS, is_cached=True)).done
    assert given.cached
    assert done.usage == common_pb2.Usage(prompt_tokens=3, output_tokens=2)


def test_times_are_milliseconds_with_their_fractions() -> None:
    timings = common_pb2.Timings()
    fill_timings(timings, TIMINGS, COMPLETION)
    assert timings == common_pb2.Timings(
        queue_wait_ms=1.5,
        load_ms=0.5,
        first_token_ms=2.0,
        per_token_ms=0.25,
        total_ms=3.0,
        backend_prompt_ms=1.0,
        backend_output_ms=2.0,
    )


def test_an_embedding_has_no_output() -> None:
    vectors = Embeddings(vectors=((1.0,),), prompt_tokens=4)
    timings, usage = common_pb2.Timings(), common_pb2.Usage()
    fill_timings(timings, TIMINGS, vectors)
    fill_usage(usage, vectors)
    assert (timings.total_ms, timings.backend_prompt_ms) == (3.0, 0)
    assert usage == common_pb2.Usage(prompt_tokens=4, output_tokens=0)


@pytest.mark.parametrize(
    ("options", "output_tokens_max"),
    [(None, 0), (pb.Options(seed=1), 0), (pb.Options(max_tokens=9), 9)],
)
def test_what_is_asked_for_at_most_is_known_where_it_is_said(
    options: pb.Options | None, output_tokens_max: int
) -> None:
    request = pb.GenerateRequest(agent_id="a", prompt=pb.Prompt(text="hi"), options=options)
    call = decode_generate(request, b"", 100, 2, None)
    assert call.output_tokens_max == output_tokens_max
    assert (call.size_bytes, call.text_bytes) == (100, 2)
    embed = decode_embed(pb.EmbedRequest(inputs=["hi"]), b"", 100, 2, None)
    assert (embed.text_bytes, embed.output_tokens_max) == (2, 0)
