"""Scenes in which requests name aliases, or only say what their model must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from broker.core.effects import Effect, StartAttempt
from broker.core.placement import BackendPolicy
from broker.core.requests import RequestKind, RequestSpec, Substitution
from broker.core.requirements import BUILT_IN_ALIASES, Alias, Preference, Requirements
from broker.core.stimuli import Arrived, ModelSpec, PolicyChanged
from tests.unit.core.scene import Scene, model, of, request

COMPLETION = frozenset({"completion"})
EMBEDDING = frozenset({"embedding"})
CODER = Alias(models=("a", "b", "c"))
TOOLS = Alias(wants=Requirements(capabilities=frozenset({"tools"}), prefer=Preference.SMALL))
ALIASES: Mapping[str, Alias] = {**BUILT_IN_ALIASES, "coder": CODER, "tools": TOOLS}


def llm(name: str, *can: str, size_bytes: int = 1000, slots: int = 1) -> ModelSpec:
    """A model that answers, and may be able to do more."""
    return model(name, size_bytes=size_bytes, slots=slots, capabilities=COMPLETION | {*can})


def embedder(name: str, *, size_bytes: int = 1000) -> ModelSpec:
    return model(name, size_bytes=size_bytes, capabilities=EMBEDDING)


def with_aliases(scene: Scene, aliases: Mapping[str, Alias] = ALIASES) -> Scene:
    scene.turn(PolicyChanged(replace(scene.engine.policy, aliases=aliases)))
    return scene


def having(*models: ModelSpec, resident_max: int = 1) -> Scene:
    """One backend that has these and none of them loaded."""
    scene = with_aliases(Scene(BackendPolicy(name="b1", resident_max=resident_max)))
    scene.open("b1", *models)
    return scene


def holding(first: ModelSpec, *others: ModelSpec) -> Scene:
    """The same, with the first of them loaded and free."""
    scene = having(first, *others)
    name = first.name.removesuffix(":latest")
    is_embedding = first.capabilities == EMBEDDING
    scene.turn(Arrived(embeds("first", name) if is_embedding else asks("first", name)))
    scene.loaded(name)
    scene.ends("first")
    return scene


def asks(
    name: str,
    model: str = "",
    *,
    wants: Requirements | None = None,
    needs: frozenset[str] = COMPLETION,
    fallbacks: tuple[str, ...] = (),
    substitution: Substitution = Substitution.ANY,
    agent: str = "a",
) -> RequestSpec:
    spec = request(name, model=model, needs=needs, fallback_models=fallbacks, agent=agent)
    return replace(spec, wants=wants, substitution=substitution)


def embeds(name: str, model: str = "", *, wants: Requirements | None = None) -> RequestSpec:
    spec = request(name, model=model, needs=EMBEDDING)
    return replace(spec, kind=RequestKind.EMBED, wants=wants)


def starts(effects: list[Effect]) -> dict[str, str]:
    """The model on which each request started."""
    return {each.key[1]: each.model.removesuffix(":latest") for each in of(effects, StartAttempt)}


def waits_for(scene: Scene, name: str, agent: str = "a") -> str:
    """The model that a request waits for, or that answers it."""
    return scene.engine.records[agent, name].model.removesuffix(":latest")
