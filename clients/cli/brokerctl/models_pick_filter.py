"""Which models the picker asks for, and what of that it can judge by itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from broker_client import Model, Wanted
from brokerctl.figures import bytes_text
from brokerctl.model_choice import is_resident
from brokerctl.models_wanted import ORDERS

AVAILABILITIES: Final = ("downloaded", "downloadable", "all")
CONTEXTS: Final = (0, 8_192, 32_768, 131_072)

AVAILABILITY_TEXTS: Final[Mapping[str, str]] = {
    "downloaded": "downloaded",
    "downloadable": "downloadable",
    "all": "all models",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PickFilter:
    """Which models are listed, and in which order: the words of `ModelFilter` on the wire."""

    search: str = ""
    availability: str = "downloaded"
    capabilities: frozenset[str] = frozenset()
    fits: bool = False
    resident: bool = False
    context_min: int = 0
    size_bytes_max: int = 0
    memory_bytes_max: int = 0
    exclude_guards: bool = False
    order: str = "name"

    @classmethod
    def of(cls, wanted: Wanted) -> PickFilter:
        """What the options of a command ask for."""
        return cls(
            search=wanted["search"].strip(),
            availability=wanted["availability"],
            capabilities=frozenset(wanted["capabilities"]),
            fits=wanted["fits"],
            resident=wanted["resident"],
            context_min=wanted["context_min"],
            size_bytes_max=wanted["size_bytes_max"],
            memory_bytes_max=wanted["memory_bytes_max"],
            exclude_guards=wanted["exclude_guards"],
            order=wanted["order"],
        )

    def wanted(self) -> Wanted:
        """The same as a client takes it."""
        return Wanted(
            search=self.search,
            availability=self.availability,
            capabilities=sorted(self.capabilities),
            fits=self.fits,
            resident=self.resident,
            context_min=self.context_min,
            size_bytes_max=self.size_bytes_max,
            memory_bytes_max=self.memory_bytes_max,
            exclude_guards=self.exclude_guards,
            order=self.order,
        )

    def with_next_availability(self) -> PickFilter:
        """Downloaded, downloadable, both, and from the start."""
        return replace(self, availability=_after(AVAILABILITIES, self.availability))

    def with_next_order(self) -> PickFilter:
        """By name, size, use, and from the start."""
        return replace(self, order=_after(ORDERS, self.order))

    def with_next_context(self) -> PickFilter:
        """The next larger of a few usual contexts; after the largest any."""
        larger = [each for each in CONTEXTS if each > self.context_min]
        return replace(self, context_min=larger[0] if larger else 0)

    def with_switched(self, name: str) -> PickFilter:
        """The same with `fits` or `resident` on where it was off."""
        if name == "fits":
            return replace(self, fits=not self.fits)
        return replace(self, resident=not self.resident)

    def with_capability(self, capability: str) -> PickFilter:
        """Asks for a capability, or no more."""
        return replace(self, capabilities=self.capabilities ^ {capability})

    def holds_for(self, model: Model) -> bool:
        """Would the broker list it? A list that is narrowed here is right at once and stays so;
        one that is widened gets the rest from the broker."""
        return all(
            (
                self.availability == "all"
                or model.downloaded == (self.availability == "downloaded"),
                self.capabilities <= frozenset(model.capabilities),
                not self.fits or model.fits is True,
                not self.resident or is_resident(model),
                model.context_length_train >= self.context_min,
                not self.size_bytes_max or 0 < model.size_bytes <= self.size_bytes_max,
                not self.memory_bytes_max or 0 < _need_bytes(model) <= self.memory_bytes_max,
                not (self.exclude_guards and model.guard),
                self._is_found(model),
            )
        )

    def _is_found(self, model: Model) -> bool:
        text = "\n".join((model.name, model.family, model.description)).casefold()
        return all(word in text for word in self.search.casefold().split())


def _need_bytes(model: Model) -> int:
    """Bytes of memory at its usual context; 0: not known."""
    return model.memory[0].bytes if model.memory else 0


def _after(choices: tuple[str, ...], chosen: str) -> str:
    return choices[(choices.index(chosen) + 1) % len(choices)]


def filter_text(asked: PickFilter) -> str:
    """What is listed, in one line: 'downloaded, with tools, that fit, "llama"; by size'."""
    parts = [AVAILABILITY_TEXTS[asked.availability]]
    if asked.resident:
        parts.append("in memory")
    if asked.fits:
        parts.append("that fit")
    if asked.capabilities:
        parts.append(f"with {' and '.join(sorted(asked.capabilities))}")
    if asked.context_min:
        parts.append(f"context {context_text(asked.context_min)} or more")
    if asked.size_bytes_max:
        parts.append(f"{bytes_text(asked.size_bytes_max)} or less")
    if asked.memory_bytes_max:
        parts.append(f"{bytes_text(asked.memory_bytes_max)} of memory or less")
    if asked.exclude_guards:
        parts.append("no guards")
    if asked.search:
        parts.append(f'"{asked.search}"')
    return f"{', '.join(parts)}; by {asked.order}"


def context_text(tokens: int) -> str:
    """131072 -> "128k"; what is no whole number of 1024 is written out."""
    return f"{tokens // 1024}k" if tokens >= 1024 and tokens % 1024 == 0 else str(tokens)
