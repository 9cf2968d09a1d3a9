"""Scenes in which calls fail: two failures open a breaker for 10 s, and nothing is tried again."""

from __future__ import annotations

from dataclasses import replace

from broker.core.breaker import BreakerPolicy
from broker.core.effects import Effect, StartAttempt, TellQueued
from broker.core.errors import BackendFailed
from broker.core.placement import BackendPolicy
from broker.core.requests import RequestSpec, Substitution
from broker.core.retry import RetryPolicy
from broker.core.stimuli import Arrived, ModelSpec, PolicyChanged
from tests.unit.core.scene import SECOND_NS, Scene, arrived, of, request, started

BROKE = BackendFailed("it broke")
OPEN_NS = 10 * SECOND_NS
BREAKER = BreakerPolicy(failures=2, open_ns=OPEN_NS, open_ns_max=4 * OPEN_NS)


def ready(scene: Scene) -> Scene:
    """With these rules."""
    policy = replace(scene.engine.policy, breaker=BREAKER, retry=RetryPolicy(tries_max=1))
    scene.turn(PolicyChanged(policy))
    return scene


def serving_m(*others: ModelSpec, resident_max: int = 2) -> Scene:
    """One backend with "m", which is loaded, and others, which are not."""
    scene = ready(Scene(BackendPolicy(name="b1", resident_max=resident_max)))
    scene.open("b1", replace(M), *others)
    served(scene, "m", "b1")
    return scene


def served(scene: Scene, name: str, backend: str) -> None:
    """A request for this model leads to its load there, and is served."""
    scene.turn(arrived(f"first-{name}", model=name))
    scene.loaded(name, backend)
    scene.ends(f"first-{name}")


def fails(scene: Scene, *names: str, model: str = "m") -> list[Effect]:
    """Requests for this model that start at once and fail, one after the other. What came of the
    last failure."""
    effects = list[Effect]()
    for name in names:
        assert started(scene.turn(arrived(name, model=model))) == [name]
        effects = scene.ends(name, BROKE)
    return effects


def with_fallbacks(
    name: str, *fallbacks: str, substitution: Substitution = Substitution.ANY, model: str = "m"
) -> Arrived:
    return Arrived(spec_with(name, *fallbacks, substitution=substitution, model=model))


def spec_with(
    name: str, *fallbacks: str, substitution: Substitution = Substitution.ANY, model: str = "m"
) -> RequestSpec:
    spec = request(name, model=model, fallback_models=fallbacks)
    return replace(spec, substitution=substitution)


def on_what(effects: list[Effect]) -> list[tuple[str, str, str]]:
    """(request id, model, backend) of each start."""
    return [(each.key[1], each.model, each.backend) for each in of(effects, StartAttempt)]


def words_to(effects: list[Effect], name: str) -> tuple[str, str]:
    """(reason, detail) of the last word to a request that waits."""
    word = [each for each in of(effects, TellQueued) if each.key[1] == name][-1]
    return word.reason.value, word.detail


M = ModelSpec(name="m:latest", runner="blob-m", size_bytes=1000)
