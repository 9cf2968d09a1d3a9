"""Which server of OpenAI's dialect is simulated, and the models that it holds.

Rules: nothing here depends on time. What differs between the two is said where it is used.
Source: vllm/entrypoints; llama.cpp tools/server, both as of 2026.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Flavour(Enum):
    VLLM = "vllm"
    LLAMA_SERVER = "llama-server"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimModel:
    """A model that is always there. `dimensions` 0: it speaks; else it embeds and no more."""

    id: str
    num_ctx: int
    dimensions: int = 0
    thinks: bool = False
    calls_tools: bool = False
    parameters: int = 0


DEFAULT_MODELS: Final = (
    SimModel(
        id="Qwen/Qwen2.5-7B-Instruct", num_ctx=32_768, calls_tools=True, parameters=7_615_616_512
    ),
    SimModel(id="qwen3-8b", num_ctx=8_192, thinks=True, parameters=8_190_735_360),
    SimModel(id="bge-small", num_ctx=512, dimensions=384, parameters=33_360_000),
)


def find_model(models: tuple[SimModel, ...], name: str) -> SimModel | None:
    """By its name to the letter, as these servers do."""
    return next((model for model in models if model.id == name), None)
