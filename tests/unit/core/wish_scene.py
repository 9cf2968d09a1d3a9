"""Words to wish with: that a model is loaded, or leaves, without a request."""

from __future__ import annotations

from typing import Any

from broker.core.effects import Effect, WishEnded
from broker.core.errors import BrokerError
from broker.core.stimuli import LoadAsked, UnloadAsked
from tests.unit.core.scene import MINUTE_NS, Scene, model, of

M, N = model("m"), model("n")


def load(
    scene: Scene, name: str = "n", *, wish: int = 1, backend: str = "", for_ns: int = MINUTE_NS
) -> list[Effect]:
    until_ns = scene.now_ns + for_ns
    return scene.turn(LoadAsked(wish=wish, model=name, backend=backend, until_ns=until_ns))


def unload(
    scene: Scene, name: str = "m", *, wish: int = 1, backend: str = "", **more: Any
) -> list[Effect]:
    until_ns = scene.now_ns + more.pop("for_ns", MINUTE_NS)
    asked = UnloadAsked(wish=wish, model=name, backend=backend, until_ns=until_ns, **more)
    return scene.turn(asked)


def answers(effects: list[Effect]) -> list[tuple[int, str]]:
    """(wish, where or why not) of each answer."""
    return [
        (each.wish, type(each.error).__name__ if each.error else " ".join(each.backends))
        for each in of(effects, WishEnded)
    ]


def error_of(effects: list[Effect]) -> BrokerError:
    (answer,) = of(effects, WishEnded)
    assert answer.error is not None
    return answer.error
