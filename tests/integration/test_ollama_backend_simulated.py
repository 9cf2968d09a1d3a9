"""The Ollama backend before `ollama-sim`, which behaves as the recordings of a real server do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from broker.backends.ollama import OllamaBackend
from broker.core.content import (
    Completion,
    EmbedContent,
    FinishReason,
    GenerateContent,
    Message,
    Prompt,
    Tool,
)
from broker.core.errors import (
    BackendBusy,
    BackendFailed,
    BackendRefused,
    ModelUnknown,
)
from tests.integration.ollama_sim_process import PATIENCE_S, Simulator, start_simulator
from tests.integration.served_backend import Heard

ASKS_MAX = 20_000  # of a condition that holds after a few
TOOL = Tool(
    name="get_weather",
    description="Weather now",
    parameters_json='{"type":"object","properties":{"city":{"type":"string"}}}',
)


@pytest.fixture(scope="module")
def process() -> Iterator[Simulator]:
    simulator = start_simulator("--models", "recorded", "--cpu", "--speed", "40", "--seed", "7")
    yield simulator
    simulator.stop()


@pytest_asyncio.fixture
async def simulator(process: Simulator) -> AsyncIterator[Simulator]:
    await process.reset()
    yield process
    await process.wait_until("active", 0)


@pytest_asyncio.fixture
async def backend(simulator: Simulator) -> AsyncIterator[OllamaBackend]:
    backend = OllamaBackend(name="one", host=f"127.0.0.1:{simulator.port}")
    async with asyncio.timeout(PATIENCE_S):
        yield backend
    await backend.close()


def prompt(tokens: int = 6) -> GenerateContent:
    return GenerateContent(input=Prompt(text="go"), options={"num_predict": tokens, "seed": 1})


async def generate(
    backend: OllamaBackend, model: str, content: GenerateContent, heard: Heard
) -> Completion:
    return await backend.generate(model, content, num_ctx=None, on_pieces=heard.hear)


async def names_of_residents(backend: OllamaBackend) -> set[str]:
    return {resident.name for resident in await backend.residents()}


async def wait_gone(backend: OllamaBackend, name: str) -> None:
    for _ in range(ASKS_MAX):
        if name not in await names_of_residents(backend):
            return
    raise AssertionError(f"{name} stays")


async def test_what_is_there_and_what_it_is(backend: OllamaBackend) -> None:
    assert await backend.version()
    models = {model.name: model for model in await backend.models()}
    assert models["tiny-e:latest"].capabilities == {"embedding"}
    assert {"completion", "tools", "thinking"} <= models["plain:latest"].capabilities
    for model in models.values():
        assert len(model.runner) == len(model.digest) == 64
        assert model.runner != model.digest, "show tells the blob"
        assert model.context_length_train > 0
    # A variant of a model is another manifest over the same weights.
    variant, base = models["tiny-s-variant:v2"], models["tiny-s:latest"]
    assert variant.runner == base.runner
    assert variant.digest != base.digest


@pytest.mark.parametrize("model", ["tiny-s", "tiny-e"])
async def test_a_model_comes_and_goes(backend: OllamaBackend, model: str) -> None:
    """With nothing known of it, and again when the listing has told what it can do."""
    name = f"{model}:latest"
    for _ in range(2):
        await backend.load(model, num_ctx=512, keep_alive_s=600)
        (resident,) = [each for each in await backend.residents() if each.name == name]
        assert resident.num_ctx == 512
        assert resident.memory_bytes > 0
        await backend.unload(model)
        await wait_gone(backend, name)
        await backend.models()
    await backend.unload(model)  # gone already: no error, as Ollama says none


async def test_a_generation_streams_and_ends(backend: OllamaBackend) -> None:
    heard = Heard()
    completion = await generate(backend, "tiny-s", prompt(6), heard)
    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.output_tokens == 6
    assert completion.prompt_tokens > 0
    assert completion.load_duration_ns > 0
    assert len(heard) == 6
    assert await names_of_residents(backend) == {"tiny-s:latest"}


async def test_a_chat_thinks_and_calls_a_tool(backend: OllamaBackend) -> None:
    ask = (Message(role="user", content="weather?"),)
    heard = Heard()
    content = GenerateContent(input=ask, tools=(TOOL,))
    completion = await generate(backend, "tools", content, heard)
    (call,) = [call for piece in heard for call in piece.tool_calls]
    assert (call.name, call.arguments_json) == ("get_weather", '{"city":"Paris"}')
    assert completion.finish_reason is FinishReason.TOOL_CALLS
    heard = Heard()
    completion = await generate(backend, "think", GenerateContent(input=ask, think=True), heard)
    assert completion.finish_reason is FinishReason.STOP
    assert "".join(piece.thinking for piece in heard).strip()
    assert "".join(piece.text for piece in heard).strip()


async def test_texts_become_vectors(backend: OllamaBackend) -> None:
    content = EmbedContent(inputs=("a b", "c", "a b"), dimensions=16)
    answer = await backend.embed("tiny-e", content, num_ctx=None)
    assert [len(vector) for vector in answer.vectors] == [16] * 3
    assert answer.vectors[0] == answer.vectors[2] != answer.vectors[1]
    assert answer.prompt_tokens > 0
    too_long = EmbedContent(inputs=("a " * 2000,), refuse_too_long=True)
    with pytest.raises(BackendRefused, match="exceeds the context length"):
        await backend.embed("tiny-e", too_long, num_ctx=None)


async def test_refusals_are_typed(backend: OllamaBackend, simulator: Simulator) -> None:
    with pytest.raises(ModelUnknown):
        await generate(backend, "nope", prompt(), Heard())
    with pytest.raises(ModelUnknown):
        await backend.load("nope", num_ctx=None, keep_alive_s=600)
    with pytest.raises(ModelUnknown):
        await backend.unload("nope")
    with pytest.raises(BackendRefused, match="does not support generate"):
        await generate(backend, "tiny-e", prompt(), Heard())
    wrong = GenerateContent(input=Prompt(text="x"), options={"seed": "one"})
    with pytest.raises(BackendRefused, match="must be of type integer"):
        await generate(backend, "tiny-s", wrong, Heard())
    with pytest.raises(BackendRefused, match="does not support embeddings"):
        await backend.embed("tiny-s", EmbedContent(inputs=("a",)), num_ctx=None)
    await simulator.set_fault(kind="refuse", status=503, text="server busy, please try again.")
    with pytest.raises(BackendBusy, match="server busy"):
        await generate(backend, "tiny-s", prompt(), Heard())
    await simulator.set_fault(kind="refuse", count=2)  # of which one is met by an idle connection
    with pytest.raises(BackendFailed, match="closed before it answered"):
        await generate(backend, "tiny-s", prompt(), Heard())


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("die_mid_stream", "unexpected EOF"),
        ("end_without_done", "without its terminator"),
        ("garbage", "cannot be read"),
        ("cut", "broke off"),
    ],
)
async def test_a_stream_that_fails_says_how(
    backend: OllamaBackend, simulator: Simulator, fault: str, problem: str
) -> None:
    await simulator.set_fault(kind=fault, model="tiny-s", after=3)
    heard = Heard()
    with pytest.raises(BackendFailed, match=problem):
        await generate(backend, "tiny-s", prompt(50), heard)
    # What a cut left unread with the end of the connection is lost with it.
    assert len(heard) == 3 if fault != "cut" else len(heard) <= 3
    assert (await generate(backend, "tiny-s", prompt(4), Heard())).output_tokens == 4


async def test_a_load_that_fails_says_how(backend: OllamaBackend, simulator: Simulator) -> None:
    await simulator.set_fault(kind="fail_load", model="tiny-m", text="exit status 1: no room")
    with pytest.raises(BackendFailed, match="no room") as failure:
        await backend.load("tiny-m", num_ctx=None, keep_alive_s=600)
    assert failure.value.status == 500


async def test_cancelling_gives_the_slot_back(backend: OllamaBackend, simulator: Simulator) -> None:
    heard = Heard()
    running = asyncio.create_task(generate(backend, "tiny-s", prompt(5_000), heard))
    await heard.something.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await simulator.wait_until("active", 0)
    assert (await generate(backend, "tiny-s", prompt(2), Heard())).output_tokens == 2


async def test_cancelling_a_load_ends_it(backend: OllamaBackend, simulator: Simulator) -> None:
    await simulator.set_fault(kind="hang_load", model="tiny-l")
    loading = asyncio.create_task(backend.load("tiny-l", num_ctx=None, keep_alive_s=600))
    await simulator.wait_until("active", 1)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    await simulator.wait_until("active", 0)
    assert await names_of_residents(backend) == set()
