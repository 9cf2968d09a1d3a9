"""What `core.ports.Backend` promises when something goes wrong, held by every adapter before a
server of its dialect. What it promises when all is well is in test_backend_contract.py.
"""

from __future__ import annotations

import asyncio
import socket

import pytest

from broker.core.content import (
    EmbedContent,
    GenerateContent,
    Message,
    Prompt,
    ToolCall,
)
from broker.core.errors import (
    BackendBusy,
    BackendFailed,
    BackendRefused,
    BackendUnreachable,
    BrokerError,
    ModelUnknown,
)
from tests.contract.backend_stages import QUESTION, TOOL, Stage, short
from tests.integration.served_backend import Heard


async def test_an_unknown_model_is_named(stage: Stage) -> None:
    with pytest.raises(ModelUnknown) as unknown:
        await stage.generate(short(), model="nope")
    assert unknown.value.model == "nope"
    with pytest.raises(ModelUnknown):
        await stage.backend.embed("nope", EmbedContent(inputs=("a",)), num_ctx=None)


async def test_what_a_model_cannot_do_is_refused(stage: Stage) -> None:
    with pytest.raises(BackendRefused):
        await stage.generate(short(), model=stage.dialect.embedder)
    content = EmbedContent(inputs=("a",))
    with pytest.raises(BackendRefused):
        await stage.backend.embed(stage.dialect.speaker, content, num_ctx=None)


async def test_what_is_too_long_to_embed_is_refused(stage: Stage) -> None:
    content = EmbedContent(inputs=("short", "word " * 40_000), refuse_too_long=True)
    with pytest.raises(BackendRefused):
        await stage.backend.embed(stage.dialect.embedder, content, num_ctx=None)


@pytest.mark.parametrize(
    "content",
    [
        GenerateContent(input=Prompt(text="x"), tools=(TOOL,)),
        GenerateContent(input=QUESTION, format_json="{no json"),
        GenerateContent(
            input=(
                *QUESTION,
                Message(role="assistant", content="", tool_calls=(ToolCall("", "f", "{no"),)),
            )
        ),
    ],
    ids=["tools with a prompt", "format", "arguments"],
)
async def test_what_cannot_be_said_is_refused_before_it_is_sent(
    stage: Stage, content: GenerateContent
) -> None:
    await stage.simulator.set_fault(kind="refuse", count=1)
    with pytest.raises(BackendRefused):
        await stage.generate(content)
    (fault,) = (await stage.simulator.state())["faults"]
    assert fault["count"] == 1, "no request met it"


async def test_a_busy_server_is_busy_and_then_well(stage: Stage) -> None:
    await stage.simulator.set_fault(kind="refuse", status=503, text="please try again.")
    with pytest.raises(BackendBusy, match="please try again") as busy:
        await stage.generate(short())
    assert busy.value.status == 503
    assert (await stage.generate(short(2))).output_tokens == 2


async def test_a_server_that_breaks_is_a_failure(stage: Stage) -> None:
    await stage.simulator.set_fault(kind="refuse", status=500, text="it broke")
    with pytest.raises(BackendFailed, match="it broke") as failed:
        await stage.generate(short())
    assert type(failed.value) is BackendFailed
    assert failed.value.status == 500


async def test_an_idle_connection_that_was_given_up_costs_nothing(stage: Stage) -> None:
    await stage.simulator.set_fault(kind="refuse", count=1)
    assert (await stage.generate(short(2))).output_tokens == 2
    assert (await stage.simulator.state())["faults"] == []


async def test_a_call_closed_without_a_word_has_failed_alone(stage: Stage) -> None:
    """Somebody listens there, so that whoever else calls goes on."""
    await stage.simulator.set_fault(kind="refuse", count=2)  # one is met by an idle connection
    with pytest.raises(BackendFailed, match="closed before it answered") as failed:
        await stage.generate(short())
    assert type(failed.value) is BackendFailed
    assert (await stage.generate(short(2))).output_tokens == 2


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("cut", "broke off"),
        ("end_without_done", "without its terminator"),
        ("garbage", "cannot be read"),
        ("bad_utf8", "cannot be read"),
        ("bad_chunk", "HTTP"),  # an answer that has begun, or no answer, as it was read
        ("oversize", "is over"),
        ("error_line", "something broke"),
    ],
)
async def test_a_stream_that_breaks_says_how(stage: Stage, fault: str, problem: str) -> None:
    text = {"text": "something broke"} if fault == "error_line" else {}
    await stage.simulator.set_fault(kind=fault, after=3, **text)
    whole, heard = Heard(), Heard()
    with pytest.raises(BackendFailed, match=problem) as failed:
        await stage.generate(short(50), heard)
    assert type(failed.value) is BackendFailed
    # What was not read yet when the connection ended is lost with it.
    assert len(heard) <= 3 if fault in ("cut", "bad_chunk") else len(heard) == 3
    await stage.generate(short(50), whole)
    assert whole[: len(heard)] == heard, "what came before it is as it should be"


async def test_a_frozen_stream_is_left_in_one_step(stage: Stage) -> None:
    await stage.simulator.set_fault(kind="freeze", model=stage.dialect.speaker, after=3)
    heard = Heard()
    running = stage.start(short(50), heard)
    while len(heard) < 3:
        heard.something.clear()
        await heard.something.wait()
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(heard) == 3
    await stage.simulator.reset()


async def test_a_server_that_is_away(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    away = stage.dialect.adapter(f"127.0.0.1:{port}")
    try:
        calls = (
            away.version(),
            away.models(),
            away.residents(),
            away.generate("m", short(), num_ctx=None, on_pieces=Heard().hear),
            away.embed("m", EmbedContent(inputs=("a",)), num_ctx=None),
            away.load("m", num_ctx=None, keep_alive_s=600),
        )
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, BrokerError)
            assert type(outcome) is BackendUnreachable
    finally:
        await away.close()
