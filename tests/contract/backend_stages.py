"""Servers of every dialect with an adapter before each, for the suite that all adapters pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from broker.backends.ollama import OllamaBackend
from broker.backends.openai_compatible import OpenAiBackend
from broker.core.content import Completion, GenerateContent, Message, Prompt, Tool
from broker.core.ports import Backend
from tests.integration.ollama_sim_process import Simulator, start_simulator
from tests.integration.openai_sim_process import start_openai_simulator
from tests.integration.served_backend import Heard

SLOTS = 2  # of each simulated server
TOOL = Tool(
    name="get_weather",
    description="Weather now",
    parameters_json='{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}',
)
QUESTION = (Message(role="user", content="weather?"),)


def short(tokens: int = 6, text: str = "go") -> GenerateContent:
    options = {"num_predict": tokens, "seed": 1, "temperature": 0.0}
    return GenerateContent(input=Prompt(text=text), options=options)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How to get a server that speaks it, an adapter before it, and which of its models do what."""

    name: str
    start: Callable[[], Simulator]
    adapter: Callable[[str], Backend]
    speaker: str
    thinker: str
    caller: str
    embedder: str


def _ollama() -> Simulator:
    flags = ("--models", "recorded", "--cpu", "--speed", "40", "--seed", "7")
    return start_simulator(*flags, "--num-parallel", str(SLOTS))


def _openai(flavour: str) -> Simulator:
    flags = ("--flavour", flavour, "--speed", "40", "--seed", "7")
    return start_openai_simulator(*flags, "--slots", str(SLOTS))


OLLAMA = Dialect(
    name="ollama",
    start=_ollama,
    adapter=lambda host: OllamaBackend(name="one", host=host),
    speaker="tiny-s",
    thinker="think",
    caller="tools",
    embedder="tiny-e",
)
VLLM, LLAMA_SERVER = (
    Dialect(
        name=flavour,
        start=lambda flavour=flavour: _openai(flavour),  # type: ignore[misc]
        adapter=lambda host: OpenAiBackend(name="one", host=host),
        speaker="Qwen/Qwen2.5-7B-Instruct",
        thinker="qwen3-8b",
        caller="Qwen/Qwen2.5-7B-Instruct",
        embedder="bge-small",
    )
    for flavour in ("vllm", "llama-server")
)
DIALECTS = (OLLAMA, VLLM, LLAMA_SERVER)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One dialect on stage: its server runs, its adapter is open and has listed the models."""

    dialect: Dialect
    simulator: Simulator
    backend: Backend

    async def generate(
        self, content: GenerateContent, heard: Heard | None = None, model: str = ""
    ) -> Completion:
        on_pieces = (heard if heard is not None else Heard()).hear
        return await self.backend.generate(
            model or self.dialect.speaker, content, num_ctx=None, on_pieces=on_pieces
        )

    def start(self, content: GenerateContent, heard: Heard) -> asyncio.Task[Completion]:
        """A generation under way, for whoever wants to look or to end it."""
        return asyncio.create_task(self.generate(content, heard))
