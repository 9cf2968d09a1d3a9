"""Bad input from the wire down: each broken field is named with its limit, and goes no further.

A field that is added to a request without a case in `bad_fields.py` fails here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from broker.config.schema import (
    AgentsConfig,
    AgentTypeConfig,
    Config,
    LimitsConfig,
    ServerConfig,
)
from broker_client.pb.broker.v1 import admin_pb2, inference_pb2, models_pb2
from tests.integration import bad_fields
from tests.integration.bad_fields import BAD_FIELDS, BadField
from tests.integration.bad_operations import OPUS
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    Refusal,
    RunningDaemon,
    finish,
    kinds,
    read_until,
    refused,
    running_daemon,
)
from tests.integration.wire_requests import (
    called,
    chat,
    embed,
    generate,
    limited_fields,
    request_types,
    said,
    tool,
)

pb = inference_pb2
# HTTP/2 clients take this much of trailers; Java's and gRPC's own limit alike.
TRAILERS_BYTES_MAX = 8 * 1024
LIMITS = LimitsConfig(
    prompt_bytes_max=bad_fields.PROMPT_BYTES_MAX,
    request_bytes_max=bad_fields.REQUEST_BYTES_MAX,
    messages_max=10,
    tools_max=4,
    embed_inputs_max=8,
)
CONFIG = Config(
    server=ServerConfig(**{**FREE_PORTS.model_dump(), "message_bytes_max": 400_000}),
    limits=LIMITS,
    backends=(BACKEND,),
    # No rates: what is asked here comes in no time.
    agents=AgentsConfig(types=(AgentTypeConfig(name="any", match=("*",)),), default_type="any"),
)
METHOD_OF = {message.name: method for method, message in request_types()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def daemon() -> AsyncIterator[RunningDaemon]:
    async with running_daemon(CONFIG) as running:
        yield running


pytestmark = pytest.mark.asyncio(loop_scope="module")


def call(daemon: RunningDaemon, request: Any, **options: Any) -> Any:
    """The call that takes such a request."""
    method = METHOD_OF[type(request).__name__]
    stub: Any = daemon.admin
    if method.startswith("/broker.v1.Inference/"):
        stub = daemon.inference
    elif method.startswith("/broker.v1.Models/"):
        stub = daemon.models
    elif method.startswith("/broker.v1.PubSub/"):
        stub = daemon.pubsub
    return getattr(stub, method.rpartition("/")[2])(request, **options)


async def test_every_field_that_has_a_limit_has_a_case() -> None:
    covered = {each.covers for each in BAD_FIELDS}
    assert limited_fields() - covered == set()


async def test_every_call_takes_a_request_of_its_own() -> None:
    assert len(METHOD_OF) == len(list(request_types()))


@pytest.mark.parametrize("bad", BAD_FIELDS, ids=str)
async def test_a_broken_field_is_named_with_its_limit(daemon: RunningDaemon, bad: BadField) -> None:
    refusal = await refused(call(daemon, bad.request))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT, refusal
    assert refusal.reason == "INVALID_FIELD"
    assert list(refusal.violations) == [bad.field], refusal.violations
    assert bad.says in refusal.violations[bad.field]
    assert refusal.message.startswith(f"{bad.field}: ")
    assert refusal.retry_after_s is None
    assert not daemon.backend.was_reached


GENERATE_EDGES = (
    generate(options=pb.Options(temperature=0, top_p=1, min_p=0, repeat_last_n=-1, seed=2**63 - 1)),
    generate(
        options=pb.Options(max_tokens=131_072, top_k=1000, num_ctx=8192, stop=["x" * 256] * 16)
    ),
    generate(options=pb.Options(presence_penalty=-2, frequency_penalty=2, repeat_penalty=10)),
    generate(session_id="s" * 128, request_id="r" * 128, fallback_models=["m" * 512] * 8),
    generate(prompt=pb.Prompt(text="x" * bad_fields.PROMPT_BYTES_MAX)),
    generate(prompt=pb.Prompt(text="nul \0 and \U0001f600 and \u202e"), priority=10),
    generate(format=pb.Format(json_schema='{"a":' * 200 + "1" + "}" * 200)),
    said(content="", images=[b"x"] * 256, tool_name="t" * 128),
    called(id="", name="n" * 128, arguments_json='{"z":1,"a":2}'),
    tool(description="d" * 65_536),
    said(role="tool", content="", tool_call_id="i" * 128),
    generate(prompt_type="p" * 64, on_interruption=pb.ON_INTERRUPTION_CONTINUE),
    generate(timeouts=pb.Timeouts(queue_ms=86_400_000, token_gap_ms=86_400_000)),
)


@pytest.mark.parametrize("request_", GENERATE_EDGES)
async def test_a_value_at_its_limit_is_taken(
    daemon: RunningDaemon, request_: pb.GenerateRequest
) -> None:
    stream = call(daemon, request_)
    await read_until(stream, "started")
    fake = await daemon.backend.calls.get()
    fake.complete()
    assert kinds(await read_until(stream, "done"))[-1] == "done"


async def test_several_problems_are_reported_together(daemon: RunningDaemon) -> None:
    request = pb.GenerateRequest(agent_id="", priority=99, options=pb.Options(top_p=7))
    refusal = await refused(call(daemon, request))
    assert list(refusal.violations) == ["agent_id", "priority", "input", "options.top_p"]
    assert all(field in refusal.message for field in refusal.violations)


@pytest.mark.parametrize(
    "request_",
    [
        generate(),
        embed(),
        models_pb2.GetRequest(name="talk"),
        admin_pb2.GetStatusRequest(),
        pb.CancelRequest(agent_id="a", request_id="r"),
        models_pb2.ListRequest(),
        admin_pb2.DrainRequest(),
        pb.GetQuotaRequest(agent_id="a"),
        admin_pb2.ExplainRequest(request_id="r"),
        admin_pb2.CancelRequestRequest(request_id="r"),
        admin_pb2.ListAgentsRequest(),
        admin_pb2.BoostRequest(scope=OPUS, priority_best=1),
        admin_pb2.BlockRequest(scope=OPUS),
        admin_pb2.PauseRequest(),
        admin_pb2.ResumeRequest(),
        admin_pb2.ReloadRequest(),
    ],
    ids=lambda each: type(each).__name__,
)
@pytest.mark.parametrize("value", ["python", "", "python/", "a b/1", "x" * 65 + "/1", "a/1/2"])
async def test_malformed_metadata_is_a_broken_field(
    daemon: RunningDaemon, request_: Any, value: str
) -> None:
    refusal = await refused(call(daemon, request_, metadata=(("broker-client", value),)))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "name/version" in refusal.violations["metadata.broker-client"]
    assert not daemon.backend.was_reached
    assert daemon.drains == []


async def test_metadata_of_others_is_not_looked_at(daemon: RunningDaemon) -> None:
    metadata = (("broker-client", "python/0.1.0"), ("x-trace-bin", b"\0\xff"), ("x-else", "a b"))
    answer = await call(daemon, models_pb2.GetRequest(name="talk"), metadata=metadata)
    assert answer.model.name == "talk:latest"


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("", None),
        ("talc", "talk:latest"),
        ("lama3:8b", "llama3:8b"),
        ("no such model!", None),
        ("nul\0", None),
        ("\U0001f600" * 512, None),
        ("../../etc/passwd", None),
    ],
)
@pytest.mark.parametrize("kind", ["generate", "embed", "get"])
async def test_a_model_that_is_not_there_is_told_with_three_near_names(
    daemon: RunningDaemon, name: str, first: str | None, kind: str
) -> None:
    request: Any = models_pb2.GetRequest(name=name)
    if kind == "generate":
        request = generate()
        request.model = name
    elif kind == "embed":
        request = embed()
        request.model = name
    refusal = await refused(call(daemon, request))
    assert refusal.code is grpc.StatusCode.NOT_FOUND
    assert refusal.reason == "MODEL_UNKNOWN"
    nearest = refusal.about["nearest"].split(",")
    assert len(nearest) == 3
    assert all(each in refusal.message for each in nearest)
    assert first in (None, nearest[0])
    assert not daemon.backend.was_reached


async def test_what_a_model_cannot_do_is_said_before_it_is_loaded(daemon: RunningDaemon) -> None:
    asked = chat(pb.Message(role="user"), model="llama3:8b")
    asked.tools.add(name="f", parameters_json="{}")
    asked.think.enabled = True
    refusal = await refused(call(daemon, asked))
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refusal.reason == "CAPABILITY_MISSING"
    assert "thinking, tools" in refusal.message
    refusal = await refused(call(daemon, embed(model="talk")))
    assert refusal.reason == "CAPABILITY_MISSING"
    assert not daemon.backend.was_reached


async def test_a_request_id_in_use_with_other_content_harms_nothing(daemon: RunningDaemon) -> None:
    stream = call(daemon, generate(request_id="mine"))
    await read_until(stream, "started")
    fake = await daemon.backend.calls.get()
    for other in (
        generate(request_id="mine", priority=6),
        generate(request_id="mine", prompt=pb.Prompt(text="other")),
        embed(request_id="mine"),
    ):
        refusal = await refused(call(daemon, other))
        assert refusal.code is grpc.StatusCode.ALREADY_EXISTS
        assert refusal.reason == "REQUEST_ID_IN_USE"
        assert refusal.about["outcome"] == "refused"
    assert not daemon.backend.was_reached
    fake.complete()
    assert kinds(await read_until(stream, "done")) == ["done"]


async def test_the_same_id_of_another_agent_is_another_request(daemon: RunningDaemon) -> None:
    requests = [generate(request_id="same", agent_id=name) for name in ("opus-1", "opus-2")]
    for request in requests:
        stream = call(daemon, request)
        await read_until(stream, "started")
        (await daemon.backend.calls.get()).complete()
        assert kinds(await read_until(stream, "done")) == ["done"]


async def test_nothing_can_be_resumed_where_nothing_runs(daemon: RunningDaemon) -> None:
    refusal = await refused(call(daemon, generate(request_id="gone", resume_from_seq=2**63 - 1)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "REQUEST_UNKNOWN")
    refusal = await refused(call(daemon, pb.CancelRequest(agent_id="a", request_id="gone")))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "REQUEST_UNKNOWN")


async def test_a_resume_beyond_what_there_is_names_what_there_is(daemon: RunningDaemon) -> None:
    stream = call(daemon, generate(request_id="short"))
    await read_until(stream, "started")
    fake = await daemon.backend.calls.get()
    fake.say("a", "b")
    refusal = await refused(call(daemon, generate(request_id="short", resume_from_seq=3)))
    assert "pieces 0 to 2 can be resumed" in refusal.violations["resume_from_seq"]
    fake.complete()
    assert kinds(await read_until(stream, "done"))[-1] == "done"


NO_UTF8 = b"\x02\xff\xff"  # after the tag of a field of text: its length, and what it holds
SURROGATE = b"\x03\xed\xa0\x80"


@pytest.mark.parametrize(
    ("message", "data"),
    [
        *((message, b"\xff\xff\xff") for message in sorted(METHOD_OF)),
        *((message, b"\x0a\x7f\x0a") for message in sorted(METHOD_OF)),
        *((message, b"\x08") for message in sorted(METHOD_OF)),
        ("GenerateRequest", b"\x0a" + NO_UTF8),
        ("GenerateRequest", b"\x0a" + SURROGATE),
        ("EmbedRequest", b"\x22" + NO_UTF8),
        ("CancelRequest", b"\x0a" + SURROGATE),
        ("GetRequest", b"\x0a" + NO_UTF8),
        ("ListRequest", b"\x12" + SURROGATE),
        ("ExplainRequest", b"\x12" + NO_UTF8),
        ("BlockRequest", b"\x0a\x04\x0a" + NO_UTF8),
        ("GetQuotaRequest", b"\x0a" + SURROGATE),
    ],
)
async def test_bytes_that_are_no_message_are_the_callers_mistake(
    daemon: RunningDaemon, message: str, data: bytes
) -> None:
    opened: Any = daemon.channel.unary_unary
    if message == "GenerateRequest":
        opened = daemon.channel.unary_stream
    refusal = await refused(opened(METHOD_OF[message])(data))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "Error parsing message" in refusal.violations["request"]
    assert daemon.drains == []


async def test_a_request_over_the_limit_is_answered_by_the_broker(daemon: RunningDaemon) -> None:
    text = "x" * (bad_fields.REQUEST_BYTES_MAX + 10)
    refusal = await refused(call(daemon, generate(prompt=pb.Prompt(text=text))))
    assert set(refusal.violations) == {"request", "prompt"}
    refusal = await refused(call(daemon, embed(inputs=[text])))
    assert set(refusal.violations) == {"request", "inputs"}


async def test_a_message_over_the_transports_limit_loses_nothing_else(
    daemon: RunningDaemon,
) -> None:
    stream = call(daemon, generate())
    await read_until(stream, "started")
    fake = await daemon.backend.calls.get()
    fake.say("before")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await finish(call(daemon, generate(prompt=pb.Prompt(text="x" * 500_000))))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    fake.say("after")
    fake.complete()
    events = await read_until(stream, "done")
    assert "".join(each.chunk.text for each in events) == "beforeafter"
    assert not daemon.backend.was_reached


@pytest.mark.parametrize(
    "request_",
    [
        chat(*[pb.Message(role="\U0001f600" * 900)] * 10),
        chat(*[pb.Message(role="user", images=[b""] * 256)] * 10),
        chat(
            *[pb.Message(role="user", tool_calls=[pb.ToolCall(arguments_json="\x01")] * 128)] * 10
        ),
        embed(inputs=[""] * 10_000),
        generate(fallback_models=["\U0001f600" * 513] * 9, session_id="ü" * 500),
        generate(model="\U0001f600" * 512),
        generate(agent_id="\n%" * 500, think=pb.Think(level="%" * 5000)),
    ],
)
async def test_an_answer_fits_into_the_trailers_whatever_was_sent(
    daemon: RunningDaemon, request_: Any
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await finish(call(daemon, request_))
    error: Any = caught.value
    size = sum(len(key) + _encoded_size(value) for key, value in error.trailing_metadata())
    assert size + 3 * len(error.details().encode()) < TRAILERS_BYTES_MAX
    assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


def _encoded_size(value: str | bytes) -> int:
    return len(value) * 4 // 3 + 4 if isinstance(value, bytes) else len(value)


async def test_more_problems_than_can_be_named_are_counted(daemon: RunningDaemon) -> None:
    refusal = await refused(call(daemon, chat(*[pb.Message(role="x", images=[b""])] * 10)))
    assert len(refusal.violations) == 13
    assert refusal.violations["request"] == "has 8 more such problems"


async def test_an_agent_of_no_type_is_refused_where_there_is_no_default() -> None:
    config = Config(server=FREE_PORTS, backends=(BACKEND,), agents=AgentsConfig(default_type=""))
    async with running_daemon(config) as daemon:
        for request in (generate(agent_id="robot-1"), embed(agent_id="robot-1")):
            refusal: Refusal = await refused(call(daemon, request))
            assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
            assert refusal.reason == "AGENT_UNKNOWN"
            assert "opus-*" in refusal.violations["agent_id"]
        assert not daemon.backend.was_reached
        stream = call(daemon, generate(agent_id="opus-7"))
        await read_until(stream, "started")
        (await daemon.backend.calls.get()).complete()
        await read_until(stream, "done")
