"""The settings of aliases: words that may be named in place of a model.

The rules of `schema.py` hold.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from broker.config.section import NUM_CTX_MAX, Array, Name, Section
from broker.core.requirements import (
    ALIAS_MODELS_MAX,
    ALIASES_MAX,
    BUILT_IN_ALIASES,
    CAPABILITIES_MAX,
)

# What a model can be able to do, in the words of Ollama.
Capability = Literal["completion", "embedding", "tools", "thinking", "vision", "insert", "audio"]


class AliasConfig(Section):
    """[aliases.NAME]: models in order of preference, or what a model must be."""

    # Names of models, the best first: the first that can answers. An alias is none of them.
    models: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=512)], ...],
        Array,
        Field(max_length=ALIAS_MODELS_MAX),
    ] = ()
    capabilities: Annotated[tuple[Capability, ...], Array, Field(max_length=CAPABILITIES_MAX)] = ()
    context_min: int | None = Field(default=None, ge=1, le=NUM_CTX_MAX)
    # Of its file, and of the memory that it takes while loaded, in 10^9 bytes.
    size_gb_max: float | None = Field(default=None, gt=0, le=100_000)
    memory_gb_max: float | None = Field(default=None, gt=0, le=100_000)
    # Of those that fit; left out: fast, the soonest answer.
    prefer: Literal["fast", "small", "large"] | None = None


def built_in() -> dict[str, AliasConfig]:
    """Those that are there unless they are written otherwise."""
    return {
        name: AliasConfig(prefer=each.wants.prefer.value if each.wants.prefer else None)
        for name, each in BUILT_IN_ALIASES.items()
    }


def _with_built_in(written: dict[str, AliasConfig]) -> dict[str, AliasConfig]:
    return {**built_in(), **written}


Aliases = Annotated[
    dict[Name, AliasConfig], Field(max_length=ALIASES_MAX), AfterValidator(_with_built_in)
]
