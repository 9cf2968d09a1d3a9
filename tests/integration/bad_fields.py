"""Every field of every request message, broken: what a broken one must be answered with.

`covers` names the field by its full proto name; a field of a message that several requests share
needs one case. Messages that only hold others, and booleans, have no value that breaks a limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from broker_client.pb.broker.v1 import admin_pb2, models_pb2
from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.integration.bad_accounts import BAD_ACCOUNTS
from tests.integration.bad_failing import FAILING
from tests.integration.bad_models import BAD_MODELS
from tests.integration.bad_operations import OPERATIONS
from tests.integration.bad_pubsub import PUBSUB
from tests.integration.bad_sessions import SESSIONS
from tests.integration.wire_requests import called, chat, embed, generate, said, tool

PROMPT_BYTES_MAX = 4096  # of the daemon under test
REQUEST_BYTES_MAX = 200_000
LONG = "x" * 129
TEXT = "x" * (PROMPT_BYTES_MAX + 1)
NAME = "x" * 513
HI = pb.Message(role="user", content="hi")
NESTED = '{"a":' + "[" * 1_900 + "]" * 1_900 + "}"  # short, and yet too deep for a parser
DEEP = '{"a":' * 20_000 + "1" + "}" * 20_000  # far deeper than Python's own stack


Table = tuple[tuple[str, Message, str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadField:
    """One request with one broken field; `field` and `says` are what BadRequest must name."""

    covers: str
    request: Message
    field: str
    says: str

    def __str__(self) -> str:
        return f"{type(self.request).__name__}.{self.field}"


def _option(name: str, value: float) -> pb.Options:
    options = pb.Options()
    setattr(options, name, value)
    return options


def _options() -> Iterator[BadField]:
    for name, values, says in (
        ("max_tokens", (0, -1, 131_073), "1 to 131072"),
        ("temperature", (-0.1, 5.1, math.nan, math.inf, -math.inf), "0 to 5"),
        ("top_p", (-0.1, 1.1, math.nan), "0 to 1"),
        ("top_k", (0, 1001), "1 to 1000"),
        ("min_p", (-0.1, 1.1, math.nan), "0 to 1"),
        ("seed", (-1, -(2**63)), "0 to"),
        ("repeat_penalty", (-0.1, 10.1, math.nan), "0 to 10"),
        ("presence_penalty", (-2.1, 2.1, math.nan), "-2 to 2"),
        ("frequency_penalty", (-2.1, 2.1, math.nan), "-2 to 2"),
        ("repeat_last_n", (-2, 131_073), "-1 to 131072"),
        ("num_ctx", (0, 255, -1), "256 to"),
        ("num_ctx", (8193, 2**31 - 1), "at most 8192"),
    ):
        for value in values:
            yield BadField(
                covers=f"Options.{name}",
                request=generate(options=_option(name, value)),
                field=f"options.{name}",
                says=says,
            )
    for texts, field, says in (
        (["a"] * 17, "options.stop", "at most 16"),
        (["ok", ""], "options.stop[1]", "1 to 256 bytes"),
        (["é" * 129], "options.stop[0]", "1 to 256 bytes"),
    ):
        request = generate(options=pb.Options(stop=texts))
        yield BadField(covers="Options.stop", request=request, field=field, says=says)


def _ids() -> Iterator[BadField]:
    rule = "1 to 128 characters of [A-Za-z0-9._:/@-]"
    for bad in ("", LONG, "two words", "nul\0", "ü", "line\n"):
        for make, name in ((generate, "GenerateRequest"), (embed, "EmbedRequest")):
            request: Any = make()
            request.agent_id = bad
            yield BadField(covers=f"{name}.agent_id", request=request, field="agent_id", says=rule)
            if bad:
                yield BadField(
                    covers=f"{name}.request_id",
                    request=make(request_id=bad),
                    field="request_id",
                    says=rule,
                )
        for field, other in (("agent_id", "request_id"), ("request_id", "agent_id")):
            cancel = pb.CancelRequest(**{field: bad, other: "fine"})
            yield BadField(covers=f"CancelRequest.{field}", request=cancel, field=field, says=rule)


def _numbers() -> Iterator[BadField]:
    for make, name in ((generate, "GenerateRequest"), (embed, "EmbedRequest")):
        for number in (-1, 11, 2**31 - 1, -(2**31)):
            request = make(priority=number)
            says = f"is {number}; must be 1 (highest) to 10"
            yield BadField(covers=f"{name}.priority", request=request, field="priority", says=says)
        for number in (4, -1, 2**31 - 1):
            yield BadField(
                covers=f"{name}.criticality",
                request=make(criticality=number),
                field="criticality",
                says=f"is {number}, which is none of its values",
            )
    for field, count in (("cache_policy", 3), ("substitution", 4)):
        for number in (count, -1):
            yield BadField(
                covers=f"GenerateRequest.{field}",
                request=generate(**{field: number}),
                field=field,
                says=f"is {number}, which is none of its values",
            )
    never = generate(substitution=pb.SUBSTITUTION_NEVER, fallback_models=["n"])
    for field, request, says in (
        ("substitution", never, "forbids any other model, and fallback_models names some"),
        ("prefer_loaded", generate(prefer_loaded=True), "fallback_models names none"),
    ):
        covers = f"GenerateRequest.{field}"
        yield BadField(covers=covers, request=request, field=field, says=says)
    for number in (-1, 65_537):
        yield BadField(
            covers="EmbedRequest.dimensions",
            request=embed(dimensions=number),
            field="dimensions",
            says="to 65536",
        )


GENERATION: Table = (
    ("GenerateRequest.model", generate(model=NAME), "model", "at most 512"),
    (
        "GenerateRequest.fallback_models",
        generate(fallback_models=["m"] * 9),
        "fallback_models",
        "at most 8",
    ),
    (
        "GenerateRequest.fallback_models",
        generate(fallback_models=["m", NAME]),
        "fallback_models[1]",
        "at most 512",
    ),
    (
        "GenerateRequest.prompt",
        pb.GenerateRequest(agent_id="a", model="talk"),
        "input",
        "a prompt or a chat",
    ),
    ("GenerateRequest.chat", chat(), "chat.messages", "1 to 10"),
    (
        "GenerateRequest.tools",
        generate(tools=[pb.Tool(name="f", parameters_json="{}")]),
        "tools",
        "need a chat",
    ),
    (
        "GenerateRequest.tools",
        chat(pb.Message(role="user"), tools=[pb.Tool(name="f", parameters_json="{}")] * 5),
        "tools",
        "at most 4",
    ),
    ("GenerateRequest.format", generate(format=pb.Format()), "format", "json or json_schema"),
    ("GenerateRequest.think", generate(think=pb.Think()), "think", "enabled or level"),
    (
        "Prompt.text",
        pb.GenerateRequest(agent_id="a", model="talk", prompt=pb.Prompt()),
        "prompt.text",
        "must not be empty",
    ),
    (
        "Prompt.text",
        generate(prompt=pb.Prompt(text=TEXT)),
        "prompt",
        f"at most {PROMPT_BYTES_MAX}",
    ),
    (
        "Prompt.system",
        generate(prompt=pb.Prompt(system=TEXT)),
        "prompt",
        f"at most {PROMPT_BYTES_MAX}",
    ),
    (
        "Prompt.system",
        generate(prompt=pb.Prompt(system="s", raw=True)),
        "prompt.system",
        "raw leaves out",
    ),
    (
        "Prompt.suffix",
        generate(prompt=pb.Prompt(suffix=TEXT)),
        "prompt",
        f"at most {PROMPT_BYTES_MAX}",
    ),
    (
        "Prompt.images",
        generate(prompt=pb.Prompt(images=[b"x"] * 257)),
        "prompt.images",
        "at most 256",
    ),
    (
        "Prompt.images",
        generate(prompt=pb.Prompt(images=[b"x", b""])),
        "prompt.images[1]",
        "must not be empty",
    ),
    (
        "Prompt.images",
        generate(prompt=pb.Prompt(images=[b"x" * REQUEST_BYTES_MAX])),
        "request",
        f"at most {REQUEST_BYTES_MAX}",
    ),
    (
        "Format.json_schema",
        generate(format=pb.Format(json_schema="[]")),
        "format.json_schema",
        "one JSON object",
    ),
    (
        "Format.json_schema",
        generate(format=pb.Format(json_schema="{} {}")),
        "format.json_schema",
        "one JSON object",
    ),
    (
        "Format.json_schema",
        generate(format=pb.Format(json_schema="")),
        "format.json_schema",
        "one JSON object",
    ),
    (
        "Format.json_schema",
        generate(format=pb.Format(json_schema=DEEP[-65_536:])),
        "format.json_schema",
        "one JSON object",
    ),
    (
        "Format.json_schema",
        generate(format=pb.Format(json_schema=DEEP)),
        "format.json_schema",
        "at most 65536",
    ),
    (
        "Think.level",
        generate(think=pb.Think(level="hard")),
        "think.level",
        "one of high, low, max, medium",
    ),
    ("Think.level", generate(think=pb.Think(level="x" * 9999)), "think.level", "one of high"),
)


CONVERSATION: Table = (
    ("Chat.messages", chat(*[HI] * 11), "chat.messages", "has 11 messages; 1 to 10"),
    ("Message.role", said(role="robot"), "chat.messages[0].role", "'robot'; one of assistant"),
    ("Message.role", said(role="r" * 99_999), "chat.messages[0].role", "one of assistant"),
    ("Message.content", said(content=TEXT), "chat", f"at most {PROMPT_BYTES_MAX}"),
    ("Message.thinking", said(thinking=TEXT), "chat", f"at most {PROMPT_BYTES_MAX}"),
    ("Message.images", said(images=[b"x"] * 257), "chat.messages[0].images", "at most 256"),
    ("Message.images", said(images=[b""]), "chat.messages[0].images[0]", "must not be empty"),
    ("Message.tool_name", said(tool_name=LONG), "chat.messages[0].tool_name", "at most 128"),
    (
        "Message.tool_call_id",
        said(tool_call_id=LONG),
        "chat.messages[0].tool_call_id",
        "at most 128",
    ),
    (
        "Message.tool_calls",
        said(tool_calls=[pb.ToolCall()] * 129),
        "chat.messages[0].tool_calls",
        "at most 128",
    ),
    ("ToolCall.id", called(id=LONG), "chat.messages[0].tool_calls[0].id", "at most 128"),
    ("ToolCall.name", called(name=""), "chat.messages[0].tool_calls[0].name", "1 to 128"),
    ("ToolCall.name", called(name=LONG), "chat.messages[0].tool_calls[0].name", "1 to 128"),
    (
        "ToolCall.arguments_json",
        called(arguments_json="1"),
        "chat.messages[0].tool_calls[0].arguments_json",
        "one JSON object",
    ),
    (
        "ToolCall.arguments_json",
        called(arguments_json=NESTED),
        "chat.messages[0].tool_calls[0].arguments_json",
        "one JSON object",
    ),
    (
        "ToolCall.arguments_json",
        called(arguments_json=f'{{"a":"{TEXT}"}}'),
        "chat",
        f"at most {PROMPT_BYTES_MAX}",
    ),
    ("Tool.name", tool(name=""), "tools[0].name", "1 to 128"),
    ("Tool.name", tool(name=LONG), "tools[0].name", "1 to 128"),
    (
        "Tool.description",
        tool(description="é" * 32_769),
        "tools[0].description",
        "at most 65536",
    ),
    (
        "Tool.parameters_json",
        tool(parameters_json='"x"'),
        "tools[0].parameters_json",
        "one JSON object",
    ),
    (
        "Tool.parameters_json",
        tool(parameters_json=NESTED),
        "tools[0].parameters_json",
        "one JSON object",
    ),
    (
        "Tool.parameters_json",
        tool(parameters_json=" " * 65_537),
        "tools[0].parameters_json",
        "at most 65536",
    ),
)


OTHERS: Table = (
    ("EmbedRequest.model", embed(model="x" * 513), "model", "at most 512"),
    ("EmbedRequest.inputs", embed(inputs=[]), "inputs", "has 0 texts; 1 to 8"),
    ("EmbedRequest.inputs", embed(inputs=["x"] * 9), "inputs", "has 9 texts; 1 to 8"),
    ("EmbedRequest.inputs", embed(inputs=["x", ""]), "inputs[1]", "must not be empty"),
    ("EmbedRequest.inputs", embed(inputs=[TEXT]), "inputs", f"at most {PROMPT_BYTES_MAX}"),
    ("ListRequest.page_size", models_pb2.ListRequest(page_size=501), "page_size", "to 500"),
    ("ListRequest.page_size", models_pb2.ListRequest(page_size=-1), "page_size", "to 500"),
    (
        "ListRequest.page_token",
        models_pb2.ListRequest(page_token="x" * 513),
        "page_token",
        "at most 512",
    ),
    ("GetRequest.name", models_pb2.GetRequest(name="x" * 513), "name", "at most 512"),
    (
        "GetStatusRequest.requests_max",
        admin_pb2.GetStatusRequest(requests_max=1001),
        "requests_max",
        "0 to 1000",
    ),
    (
        "GetStatusRequest.requests_max",
        admin_pb2.GetStatusRequest(requests_max=-1),
        "requests_max",
        "0 to 1000",
    ),
    (
        "DrainRequest.timeout_ms",
        admin_pb2.DrainRequest(timeout_ms=3_600_001),
        "timeout_ms",
        "0 to 3600000",
    ),
    (
        "DrainRequest.timeout_ms",
        admin_pb2.DrainRequest(timeout_ms=-1),
        "timeout_ms",
        "0 to 3600000",
    ),
)


BAD_FIELDS = (
    *_options(),
    *_ids(),
    *_numbers(),
    *(
        BadField(covers=covers, request=request, field=field, says=says)
        for covers, request, field, says in (
            *GENERATION,
            *CONVERSATION,
            *OTHERS,
            *FAILING,
            *SESSIONS,
            *BAD_MODELS,
            *BAD_ACCOUNTS,
            *OPERATIONS,
            *PUBSUB,
        )
    ),
)
