"""What a caller writes becomes what the wire carries."""

from __future__ import annotations

import pytest

from broker_client import Message, Timeouts, Tool, ToolCall
from broker_client.pb.broker.v1 import common_pb2, inference_pb2
from broker_client.requests import Ask, Options, embed_request, generate_request

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}


def build(ask: Ask) -> inference_pb2.GenerateRequest:
    return generate_request(ask, agent_id="opus-1")


def test_a_plain_prompt_and_nothing_else() -> None:
    request = build({"model": "tiny", "prompt": "hello"})
    assert (request.agent_id, request.model, request.prompt.text) == ("opus-1", "tiny", "hello")
    assert len(request.request_id) == 32
    assert request.priority == 0
    assert not request.HasField("preemptible")
    assert not request.HasField("format")
    assert not request.HasField("think")
    assert not request.options.ListFields()


def test_every_request_gets_a_name_of_its_own_unless_it_has_one() -> None:
    first, second = (build({"model": "m", "prompt": "p"}).request_id for _ in range(2))
    assert first != second
    assert build({"model": "m", "prompt": "p", "request_id": "mine"}).request_id == "mine"


def test_all_parts_of_a_prompt() -> None:
    request = build(
        {
            "model": "m",
            "prompt": "p",
            "system": "s",
            "suffix": "x",
            "images": [b"\x89PNG"],
            "raw": True,
            "fallback_models": ["a", "b"],
            "priority": 2,
            "criticality": "batch",
            "session_id": "talk",
            "expected_calls": 7,
            "cache_policy": "bypass",
            "preemptible": False,
            "think": "high",
            "format": "json",
        }
    )
    assert request.prompt == inference_pb2.Prompt(
        text="p", system="s", suffix="x", images=[b"\x89PNG"], raw=True
    )
    assert list(request.fallback_models) == ["a", "b"]
    assert request.priority == 2
    assert request.criticality == common_pb2.CRITICALITY_BATCH
    assert (request.session_id, request.expected_calls) == ("talk", 7)
    assert request.cache_policy == inference_pb2.CACHE_POLICY_BYPASS
    assert request.HasField("preemptible")
    assert not request.preemptible
    assert request.think.level == "high"
    assert request.format.json


def test_options_that_are_given_are_set_even_where_they_are_zero() -> None:
    request = build({"model": "m", "prompt": "p", "temperature": 0.0, "seed": 0, "stop": ["\n"]})
    assert request.options.HasField("temperature")
    assert request.options.HasField("seed")
    assert not request.options.HasField("top_p")
    assert list(request.options.stop) == ["\n"]


def test_every_option_of_the_wire_can_be_given() -> None:
    on_the_wire = {field.name for field in inference_pb2.Options.DESCRIPTOR.fields}
    assert set(Options.__annotations__) == on_the_wire


def test_a_conversation_typed_and_as_ollama_writes_it_is_the_same() -> None:
    typed = build(
        {
            "model": "m",
            "request_id": "r",
            "messages": [
                Message(role="user", content="rain?", images=(b"x",)),
                Message(
                    role="assistant",
                    thinking="hm",
                    tool_calls=(ToolCall(id="1", name="w", arguments_json='{"city": "Köln"}'),),
                ),
                Message(role="tool", content="yes", tool_name="w", tool_call_id="1"),
            ],
            "tools": [Tool(name="w", description="weather", parameters=WEATHER)],
        }
    )
    as_ollama = build(
        {
            "model": "m",
            "request_id": "r",
            "messages": [
                {"role": "user", "content": "rain?", "images": [b"x"]},
                {
                    "role": "assistant",
                    "thinking": "hm",
                    "tool_calls": [
                        {"id": "1", "function": {"name": "w", "arguments": {"city": "Köln"}}}
                    ],
                },
                {"role": "tool", "content": "yes", "tool_name": "w", "tool_call_id": "1"},
            ],
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "w", "description": "weather", "parameters": WEATHER},
                }
            ],
        }
    )
    assert typed == as_ollama
    assert typed.chat.messages[1].tool_calls[0].arguments_json == '{"city": "Köln"}'


def test_a_schema_is_sent_as_json() -> None:
    request = build({"model": "m", "prompt": "p", "format": {"type": "object"}})
    assert request.format.json_schema == '{"type": "object"}'


def test_thinking_off_is_not_the_same_as_not_said() -> None:
    request = build({"model": "m", "prompt": "p", "think": False})
    assert request.think.WhichOneof("mode") == "enabled"
    assert not request.think.enabled


def test_neither_prompt_nor_messages_is_left_to_the_broker() -> None:
    assert build({"model": "m"}).WhichOneof("input") is None


def test_what_the_wire_cannot_carry_is_an_error_here() -> None:
    # What the type checker would forbid is called on purpose.
    with pytest.raises(ValueError, match="prompt, system cannot go with messages"):
        build({"model": "m", "prompt": "p", "system": "s", "messages": []})
    with pytest.raises(ValueError, match="a message has no rôle"):
        build({"model": "m", "messages": [{"rôle": "user"}]})
    with pytest.raises(ValueError, match="JSON Schema"):
        build({"model": "m", "prompt": "p", "format": "xml"})  # type: ignore[typeddict-item]
    with pytest.raises(TypeError, match="unknown arguments: temprature"):
        build({"model": "m", "temprature": 1})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(TypeError, match="stop is a sequence"):
        build({"model": "m", "prompt": "p", "stop": "\n"})
    with pytest.raises(ValueError, match="criticality is one of batch, critical, normal, not"):
        build({"model": "m", "criticality": "urgent"})  # type: ignore[typeddict-item]


def test_what_may_happen_and_how_long() -> None:
    request = build(
        {
            "model": "m",
            "prompt": "p",
            "on_interruption": "continue",
            "timeouts": Timeouts(queue_s=30, first_token_s=0.25),
            "prompt_type": "summary",
            "soft_deadline_s": 1.5,
        }
    )
    assert request.soft_deadline_ms == 1_500
    assert request.on_interruption == inference_pb2.ON_INTERRUPTION_CONTINUE
    assert request.timeouts == inference_pb2.Timeouts(queue_ms=30_000, first_token_ms=250)
    assert request.prompt_type == "summary"
    silent = build({"model": "m", "prompt": "p"})
    assert silent.on_interruption == inference_pb2.ON_INTERRUPTION_UNSPECIFIED
    assert not silent.HasField("timeouts")
    assert not silent.HasField("soft_deadline_ms")
    embed = embed_request(
        {
            "model": "e",
            "inputs": ["a"],
            "timeouts": Timeouts(total_s=2),
            "soft_deadline_s": 30,
        },
        agent_id="a",
    )
    assert embed.soft_deadline_ms == 30_000
    assert embed.timeouts == inference_pb2.Timeouts(total_ms=2_000)


def test_texts_to_embed() -> None:
    request = embed_request(
        {
            "model": "e",
            "inputs": ["a", "b"],
            "dimensions": 8,
            "refuse_too_long": True,
            "priority": 9,
            "criticality": "critical",
        },
        agent_id="system-1",
    )
    assert (request.agent_id, request.model, list(request.inputs)) == ("system-1", "e", ["a", "b"])
    assert (request.dimensions, request.refuse_too_long, request.priority) == (8, True, 9)
    assert request.criticality == common_pb2.CRITICALITY_CRITICAL
    assert len(request.request_id) == 32


def test_one_text_is_not_taken_for_its_letters() -> None:
    with pytest.raises(TypeError, match="sequence of texts"):
        embed_request({"model": "e", "inputs": "hello"}, agent_id="a")
