"""The servers of a workload: simulated Ollamas with its models, and what the broker plans of them.

Rules: a model takes the memory that the workload says, 1.2 times its file where it says nothing,
whatever the context: contexts are part of that figure here. Nothing is resident in the beginning,
and no file lies in the page cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from broker.core.placement import MEMORY_PER_FILE_BYTE, BackendPolicy
from broker.core.stimuli import ModelSpec
from broker.sim.ollama_catalogue import Catalogue, default_catalogue, parse_name
from broker.sim.ollama_machine import GIB, Quirks, ServerSettings
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_model_card import SimModel, Speed
from broker.sim.ollama_models import hash_of
from broker.sim.workload_spec import BackendDraft, ModelDraft
from broker.sim.world import Site

GB: Final = 1_000_000_000
CONTEXT_TOKENS: Final = 8192
# llama-server's 8 GiB at the 64 KiB of a token that a model of eight billion parameters takes.
PROMPT_CACHE_TOKENS: Final = 131_072
_UNLIMITED_BYTES: Final = 4096 * GIB
_CACHED_LOAD_SHARE: Final = 1 / 3  # as the bundled models have it
_BATCH_SLOWDOWN: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One server. `slots_of` are those of single models, by name, where they differ.
    `loaded_max`: what it holds while it changes models, None: `resident_max`."""

    name: str
    slots: int
    resident_max: int
    memory_bytes: int | None
    page_cache_bytes: int
    slots_of: Mapping[str, int]
    loaded_max: int | None = None

    def policy(self) -> BackendPolicy:
        return BackendPolicy(
            name=self.name,
            resident_max=self.resident_max,
            loaded_max=self.loaded_max,
            memory_bytes=self.memory_bytes,
            exclusive=True,
        )

    def slots_for(self, model: str) -> int:
        return self.slots_of.get(model, self.slots)

    def residents_of(self, models: Sequence[SimModel]) -> int:
        """How many of these surely fit together."""
        most = min(self.resident_max, len(models))
        if self.memory_bytes is None:
            return most
        largest = max(memory_bytes(each) for each in models)
        return max(1, min(most, self.memory_bytes // largest))


def models_of(drafts: Iterable[ModelDraft]) -> tuple[SimModel, ...]:
    """The models as the simulated servers hold them. The drafts are free of contradictions."""
    return tuple(_model(each) for each in drafts)


def memory_bytes(model: SimModel) -> int:
    return model.size_bytes + model.compute_bytes


def _model(draft: ModelDraft) -> SimModel:
    bundled = default_catalogue().find(draft.name)
    parsed = parse_name(draft.name)
    if parsed is None:
        raise ValueError(f"no model name: {draft.name!r}")
    size_bytes = _bytes(draft.size_gb, bundled.size_bytes if bundled else 0)
    planned = int(size_bytes * MEMORY_PER_FILE_BYTE)
    return SimModel(
        name=parsed.short,
        blob=hash_of(f"blob {parsed.short}"),
        digest=hash_of(f"manifest {parsed.short}"),
        size_bytes=size_bytes,
        parameter_count=size_bytes,
        architecture="llama",
        # Keys and values of a context are in the model's memory already: as few as can be here.
        layers=1,
        kv_heads=1,
        head_dim=1,
        context_length_train=CONTEXT_TOKENS,
        compute_bytes=max(0, _bytes(draft.memory_gb, planned) - size_bytes),
        speed=_speed(draft, size_bytes, bundled),
    )


def _speed(draft: ModelDraft, size_bytes: int, bundled: SimModel | None) -> Speed:
    base = bundled.speed if bundled is not None else None
    if base is None and (draft.prefill_tokens_per_s is None or draft.decode_tokens_per_s is None):
        raise ValueError(f"{draft.name} has no rates")
    speed = base or Speed(
        prefill_tokens_per_s=draft.prefill_tokens_per_s or 1.0,
        decode_tokens_per_s=draft.decode_tokens_per_s or 1.0,
        batch_slowdown=_BATCH_SLOWDOWN,
    )
    if draft.load_s is not None:
        cached_s = draft.load_cached_s or draft.load_s * _CACHED_LOAD_SHARE
        speed = replace(
            speed,
            spawn_ms=0.0,
            load_bytes_per_s=size_bytes / draft.load_s,
            load_cached_bytes_per_s=size_bytes / cached_s,
        )
    elif draft.load_cached_s is not None:
        speed = replace(speed, load_cached_bytes_per_s=size_bytes / draft.load_cached_s)
    given = {
        name: value
        for name in ("prefill_tokens_per_s", "decode_tokens_per_s", "batch_slowdown")
        if (value := getattr(draft, name)) is not None
    }
    return replace(speed, **given)


def _bytes(gigabytes: float | None, otherwise: int) -> int:
    return otherwise if gigabytes is None else int(gigabytes * GB)


def backends_of(drafts: Iterable[BackendDraft], models: Sequence[SimModel]) -> tuple[Backend, ...]:
    """The servers, those of a count numbered. Where memory alone decides, all models may fit."""
    found = []
    for draft in drafts:
        by_memory = 1 if draft.memory_gb is None else len(models)
        for number in range(draft.count):
            found.append(
                Backend(
                    name=draft.name if draft.count == 1 else f"{draft.name}-{number}",
                    slots=draft.slots,
                    resident_max=draft.resident_max or by_memory,
                    memory_bytes=None if draft.memory_gb is None else int(draft.memory_gb * GB),
                    page_cache_bytes=int(draft.page_cache_gb * GB),
                    slots_of={},
                    loaded_max=draft.loaded_max,
                )
            )
    return tuple(found)


def site_of(backend: Backend, models: Sequence[SimModel]) -> Site:
    """A server as a world has it."""
    slots = max([backend.slots, *backend.slots_of.values()])
    settings = ServerSettings(
        num_parallel=slots,
        max_loaded_models=backend.loaded_max or backend.resident_max,
        context_length=CONTEXT_TOKENS,
        memory_bytes=backend.memory_bytes or _UNLIMITED_BYTES,
        page_cache_bytes=backend.page_cache_bytes,
        prompt_cache_bytes=PROMPT_CACHE_TOKENS * models[0].kv_bytes_per_token,
        quirks=Quirks(slot_leak_chance=0.0),
    )
    specs = tuple(
        ModelSpec(
            name=each.name,
            runner=each.blob,
            size_bytes=each.size_bytes,
            slots=backend.slots_for(each.name),
        )
        for each in models
    )
    start = partial(OllamaModel, Catalogue(models), settings, tokens="first_and_last")
    return Site(start=start, specs=specs)
