"""The catalogue: facts of the backends joined with what the operator configured.

The engine plans with `ModelSpec`s made here; people and clients read `CatalogEntry`s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from broker.core.model_name import comparison_key, nearest
from broker.core.model_sizes import MemoryNeed
from broker.core.ports import ModelFacts, Resident
from broker.core.stimuli import ModelSpec
from broker.core.targets import NUM_CTX_ASSUMED
from broker.models.known import KnownModel
from broker.models.memory_needs import MemoryNeeds, needs_by_size

# Embedding runners have one slot, whatever OLLAMA_NUM_PARALLEL says (reference/OLLAMA.md §3.1).
EMBEDDING_SLOTS = 1

# The ceiling of a context that is neither configured nor limited by the model's training: enough
# for long tasks, small enough that one request cannot fill the card with its cache.
NUM_CTX_MAX_DEFAULT = 32_768


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """What the operator says of one model. None: the backend's setting, or the default.
    `backend_tags`, where there are any, confine it to the backends that have one of them."""

    num_ctx: int | None = None
    num_ctx_max: int | None = None
    slots: int | None = None
    backend_tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One model, and the backends that have it with the runner that answers for it there: one name
    may mean other weights on another server. `facts` are those of the first backend."""

    facts: ModelFacts
    runners: Mapping[str, str]


def model_spec(facts: ModelFacts, settings: ModelSettings, slots_default: int) -> ModelSpec:
    """What the engine plans with for this model."""
    is_embedding = facts.capabilities == frozenset({"embedding"})
    ceiling = settings.num_ctx_max or max(NUM_CTX_MAX_DEFAULT, settings.num_ctx or 0)
    if facts.context_length_train:
        ceiling = min(ceiling, facts.context_length_train)
    return ModelSpec(
        name=facts.name,
        runner=facts.runner,
        size_bytes=facts.size_bytes,
        slots=EMBEDDING_SLOTS if is_embedding else settings.slots or slots_default,
        num_ctx=settings.num_ctx,
        num_ctx_max=ceiling,
        capabilities=facts.capabilities,
    )


def _usual_num_ctx(names: list[ModelFacts]) -> int | None:
    """The context that serves all names of one runner; None where all leave it to the server,
    which then gives all of them the same."""
    if not any(each.num_ctx_default for each in names):
        return None
    wanted = max(each.num_ctx_default or NUM_CTX_ASSUMED for each in names)
    train = names[0].context_length_train
    return min(wanted, train) if train else wanted


class CatalogListener(Protocol):
    """Hears what backends say."""

    def listed(self, backend: str, facts: Sequence[ModelFacts]) -> None:
        """It has these and no others, of which none is confined to other backends."""
        ...

    def same(self, backend: str) -> None:
        """It has what it told last."""
        ...

    def forget(self, backend: str) -> None:
        """It was taken out of the configuration."""
        ...


class Catalog:
    """All models on all backends. Written by discovery, read by services; `listener`, where there
    is one, hears of it."""

    def __init__(self, settings: Mapping[str, ModelSettings]) -> None:
        self._settings = {comparison_key(name): each for name, each in settings.items()}
        self._facts: dict[str, tuple[ModelFacts, ...]] = {}
        self._on_disk: dict[str, tuple[ModelFacts, ...]] = {}
        self._names: dict[str, dict[str, str]] = {}  # by backend and comparison key
        self._specs: dict[str, dict[str, ModelSpec]] = {}  # likewise
        self._needs = MemoryNeeds()
        self._spec_changes = 0
        self.listener: CatalogListener | None = None

    def learn(
        self,
        backend: str,
        facts: tuple[ModelFacts, ...],
        slots_default: int,
        tags: frozenset[str] = frozenset(),
    ) -> tuple[ModelSpec, ...]:
        """Takes what a backend has now and returns it as the engine plans with it. A model that is
        confined to other `tags` than this backend's is none of its models.

        Names that share one runner get the same settings, those of the first that has any, and the
        same context size: each request carries it, else each name would restart the runner with
        the size of its own Modelfile.
        """
        self._on_disk[backend] = facts
        facts = self._facts[backend] = tuple(each for each in facts if self._may_run(each, tags))
        self._names[backend] = {comparison_key(each.name): each.name for each in facts}
        by_runner: dict[str, list[ModelFacts]] = {}
        for each in sorted(facts, key=lambda fact: fact.name):
            by_runner.setdefault(each.runner, []).append(each)
        settings = {runner: self._settings_of(names) for runner, names in by_runner.items()}
        if self.listener is not None:
            self.listener.listed(backend, facts)
        specs = tuple(model_spec(each, settings[each.runner], slots_default) for each in facts)
        by_key = {comparison_key(each.name): each for each in specs}
        self._spec_changes += by_key != self._specs.get(backend)
        self._specs[backend] = by_key
        return specs

    def same(self, backend: str) -> None:
        """It has what was learned of it last."""
        if self.listener is not None:
            self.listener.same(backend)

    def saw(self, backend: str, residents: Sequence[Resident]) -> None:
        """It holds these: what each of them takes is measured."""
        specs = self._of(backend)
        for each in residents:
            spec = specs.get(comparison_key(each.name))
            if spec is not None:
                self._needs.saw(backend, spec.runner, each.num_ctx, each.memory_bytes)

    @property
    def memory_revision(self) -> int:
        """It grows when `memory_needs` may answer otherwise than before."""
        return self._spec_changes + self._needs.changes

    def memory_needs(self, model: KnownModel) -> tuple[MemoryNeed, ...]:
        """What it takes when it is loaded, by context, its usual one first. Empty: not known."""
        if model.facts is None:
            return needs_by_size(model.size_bytes, model.context_window)
        key = model.key
        plans = (self._of(name).get(key) for name in model.runners)
        specs = [each for each in plans if each is not None]
        return self._needs.needs(model.facts, model.runners, specs)

    def _of(self, backend: str) -> Mapping[str, ModelSpec]:
        return self._specs.get(backend, {})

    def forget(self, backend: str) -> None:
        """It was taken out of the configuration."""
        self._spec_changes += 1
        self._facts.pop(backend, None)
        self._on_disk.pop(backend, None)
        self._names.pop(backend, None)
        self._specs.pop(backend, None)
        self._needs.forget(backend)
        if self.listener is not None:
            self.listener.forget(backend)

    def _may_run(self, facts: ModelFacts, tags: frozenset[str]) -> bool:
        settings = self._settings.get(comparison_key(facts.name))
        confined = settings.backend_tags if settings else frozenset[str]()
        return not confined or not confined.isdisjoint(tags)

    def _settings_of(self, names: list[ModelFacts]) -> ModelSettings:
        """What holds for a runner with these names."""
        configured = [self._settings.get(comparison_key(each.name)) for each in names]
        settings = next((each for each in configured if each is not None), ModelSettings())
        num_ctx = next((each.num_ctx for each in configured if each and each.num_ctx), None)
        return replace(settings, num_ctx=num_ctx or _usual_num_ctx(names))

    def entries(self) -> list[CatalogEntry]:
        """Every model once, in order of the names."""
        found: dict[str, CatalogEntry] = {}
        for backend, facts in self._facts.items():
            for each in facts:
                key = comparison_key(each.name)
                before = found.get(key)
                runners = {**(before.runners if before else {}), backend: each.runner}
                found[key] = CatalogEntry(facts=before.facts if before else each, runners=runners)
        return [found[key] for key in sorted(found)]

    def get(self, name: str) -> CatalogEntry | None:
        """The model of this name, or None."""
        key = comparison_key(name)
        return next(
            (each for each in self.entries() if comparison_key(each.facts.name) == key), None
        )

    def on_disk(self) -> Mapping[str, tuple[ModelFacts, ...]]:
        """All that each backend has, also what is confined to others and so does not run there."""
        return dict(self._on_disk)

    def spelled(self, key: str) -> str | None:
        """How the first backend that has the model of this comparison key writes it; None: none."""
        return next((names[key] for names in self._names.values() if key in names), None)

    def nearest(self, name: str) -> tuple[str, ...]:
        """Up to three names that look most like this one."""
        return nearest(name, [each.facts.name for each in self.entries()])
