"""Models that nobody has: a library of some size, as its pages would tell it, and what of it is on
backends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from broker.core.library import LibraryModel, LibraryVariant
from broker.core.ports import ModelFacts

_FAMILIES = ("llama", "qwen", "gemma", "phi", "mistral", "deepseek", "granite", "command", "yi")
_WORDS = ("fast", "small", "coder", "vision", "chat", "math", "multilingual", "long", "tool", "MoE")
_SIZES = ("1b", "3b", "4b", "7b", "8b", "13b", "14b", "30b", "70b", "405b")
_KINDS = ("", "-instruct", "-text", "-chat")
_QUANTIZATIONS = ("", "-q4_0", "-q4_K_M", "-q5_K_M", "-q8_0", "-fp16")
_CAPABILITIES = ("completion", "tools", "thinking", "vision", "embedding", "insert")


def library_models(models: int, variants: int, seed: int = 0) -> list[LibraryModel]:
    """So many, each with so many variants; the same for the same seed."""
    random = Random(seed)
    tags = [f"{a}{b}{c}" for a in _SIZES for b in _KINDS for c in _QUANTIZATIONS]
    return [_model(random, index, tags, variants) for index in range(models)]


def facts_of(models: Sequence[LibraryModel], count: int, seed: int = 0) -> tuple[ModelFacts, ...]:
    """So many of their variants as a backend tells of them, and a tenth more that only it has."""
    random = Random(seed)
    variants = [(model, each) for model in models for each in model.variants]
    found = [
        ModelFacts(
            name=each.name,
            runner=f"{random.getrandbits(256):064x}",
            digest=f"{random.getrandbits(256):064x}",
            size_bytes=each.size_bytes or 4_700_000_000,
            capabilities=model.capabilities,
            parameter_size="8.0B",
            quantization="Q4_K_M",
            family=model.name.partition("-")[0],
            context_length_train=each.context_window or 8_192,
            modified_at=each.modified_at,
            kv_bytes_per_token=131_072,
        )
        for model, each in random.sample(variants, min(count, len(variants)))
    ]
    own = found[: count // 10]
    return (*found, *(replace(each, name=f"own-{n}:latest") for n, each in enumerate(own)))


def _model(random: Random, index: int, tags: list[str], variants: int) -> LibraryModel:
    words = random.sample(_WORDS, 3)
    kind = "guard" if random.random() < 0.03 else words[0].lower()
    name = f"{random.choice(_FAMILIES)}{random.randint(1, 9)}-{kind}-{index}"
    if random.random() < 0.05:
        name = f"someone/{name}"
    chosen = ["latest", *random.sample(tags, min(variants, len(tags)))][:variants]
    return LibraryModel(
        name=name,
        variants=tuple(
            LibraryVariant(
                name=f"{name}:{tag}",
                size_bytes=random.choice((0, random.randint(1, 400))) * 100_000_000,
                context_window=random.choice((0, 2_048, 8_192, 32_768, 131_072)),
                modified_at=f"2025-{random.randint(1, 12):02}-01T00:00:00Z",
                digest=f"{random.getrandbits(48):012x}",
            )
            for tag in chosen
        ),
        capabilities=frozenset(random.sample(_CAPABILITIES, random.randint(0, 3))),
        description=f"A {' '.join(words)} model of {random.randint(2019, 2026)}.",
    )
