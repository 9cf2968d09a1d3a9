"""Sizes of models: how they are written, how they are read, and what memory a loaded one takes.

Bytes on disk are written in decimal units, as Ollama does ("5.2 GB" is 5.2e9 bytes). A number of
parameters ("8b", "70B") looks like a size and is none: nothing here ever takes one for the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from broker.core.placement import MEMORY_PER_FILE_BYTE
from broker.core.ports import ModelFacts
from broker.core.targets import NUM_CTX_ASSUMED

_UNITS: Final = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "KB": 10**3}
_SIZE: Final = re.compile(r"\s*([0-9]{1,7}(?:\.[0-9]{1,6})?)\s*([KMGT])B\s*", re.IGNORECASE)
# Below a kilobyte the unit would be "B", which stands for billions of parameters as well.
_BYTES_TOLD_MIN: Final = 1_000
# Of a number with so many digits before the point none behind it is told: "13 GB", "5.2 GB".
_WHOLE_FROM: Final = 10
_PETABYTE: Final = 10**15

DOWNLOADED: Final = "✓ Downloaded"
DOWNLOADABLE: Final = "⬇ Downloadable"


def size_str(size_bytes: int) -> str:
    """As Ollama's library writes it: "5.2GB", "13GB", "274MB"; "" where nothing is known."""
    if not _BYTES_TOLD_MIN <= size_bytes < _PETABYTE:
        return ""
    # 999.5 MB are "1GB", not "1000MB".
    unit, scale = next(each for each in _UNITS.items() if size_bytes * 2_000 >= each[1] * 1_999)
    number = size_bytes / scale
    if number < _WHOLE_FROM:
        # 9.96 is "10", not "10.0", which has a digit more than any other.
        written = f"{number:.1f}"
        return f"{written.removesuffix('.0')}{unit}" if written != "10.0" else f"10{unit}"
    return f"{number:.0f}{unit}"


def bytes_of(written: str) -> int | None:
    """Bytes of "5.2GB" or "5.2 GB"; None for what is no size, as a number of parameters."""
    found = _SIZE.fullmatch(written)
    if found is None:
        return None
    # Digits and a point, few of both: a product of floats would be off by one byte in some.
    whole, _, part = found[1].partition(".")
    scale = _UNITS[f"{found[2].upper()}B"]
    return int(whole) * scale + (int(part) * scale // 10 ** len(part) if part else 0)


def spaced(size: str) -> str:
    """With a space before its unit, as people read it: "5.2 GB". "" for what is no size."""
    found = _SIZE.fullmatch(size)
    return f"{found[1]} {found[2].upper()}B" if found else ""


def status_text(downloaded: bool, size: str) -> str:
    """What a person reads of a model: is it here, and how big is it?"""
    status = DOWNLOADED if downloaded else DOWNLOADABLE
    told = spaced(size)
    return f"{status} ({told})" if told else status


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """What a model takes of memory when it is loaded with this context in each of its slots.
    `measured`: a backend said so itself, where it was loaded so."""

    num_ctx: int
    memory_bytes: int
    measured: bool


# Contexts that needs are told for, beside the usual one and that of the training.
TOLD_CONTEXTS: Final = (4_096, 16_384, 65_536)
NEEDS_TOLD_MAX: Final = 12


def memory_needed(
    facts: ModelFacts, num_ctx: int, slots: int, measured: Mapping[int, int] | None = None
) -> int:
    """Bytes that it takes when loaded with this context in each of its slots; 0 where nothing is
    known. `measured` are bytes by context, as backends told them with as many slots.

    Best is what was measured with this very context. Next, what was measured with the nearest one
    and the cache that each token more or less takes. Else its file and its cache.
    """
    by_context = measured or {}
    if facts.context_length_train:  # a server gives no more
        num_ctx = min(num_ctx, facts.context_length_train)
    if num_ctx in by_context:
        return by_context[num_ctx]
    per_token = facts.kv_bytes_per_token * max(1, slots)
    if by_context and per_token:
        nearest = min(by_context, key=lambda each: (abs(each - num_ctx), each))
        return max(facts.size_bytes, by_context[nearest] + per_token * (num_ctx - nearest))
    larger = [each for each in by_context if each > num_ctx]
    if larger:  # it takes no more than with a larger context
        return by_context[min(larger)]
    guess = int(facts.size_bytes * MEMORY_PER_FILE_BYTE)
    if not per_token:
        return max([guess, *by_context.values()])
    # The rule by the file alone counts a usual cache in; with a known cache, take what is more.
    return max(guess, facts.size_bytes + per_token * num_ctx) if facts.size_bytes else 0


def needs_of(
    facts: ModelFacts,
    slots: int,
    measured: Mapping[int, int] | None = None,
    *,
    usual: int = 0,
) -> tuple[MemoryNeed, ...]:
    """What it takes with its usual context, first, and then with others that people ask for and
    those it was measured with, the smallest first; empty where nothing is known of it. `usual` 0:
    what its own file asks for, else what servers give."""
    train = facts.context_length_train
    by_context = {
        num_ctx: each for num_ctx, each in (measured or {}).items() if not train or num_ctx <= train
    }
    usual = usual or facts.num_ctx_default or NUM_CTX_ASSUMED
    usual = min(usual, train) if train else usual
    others = set(by_context)
    if facts.kv_bytes_per_token:  # without it, no more is known than a bound
        others.update(each for each in (*TOLD_CONTEXTS, train) if not train or each <= train)
    told = [usual, *sorted(each for each in others if 0 < each != usual)]
    needs = (
        MemoryNeed(
            num_ctx=each,
            memory_bytes=memory_needed(facts, each, slots, by_context),
            measured=each in by_context,
        )
        for each in told[:NEEDS_TOLD_MAX]
    )
    return tuple(each for each in needs if each.memory_bytes > 0)
