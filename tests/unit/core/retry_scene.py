"""Backends that hold the model "m", and calls to them that come to nothing."""

from __future__ import annotations

from dataclasses import replace

from broker.core.effects import Effect
from broker.core.errors import BackendBusy, BackendFailed, BackendUnreachable, BrokerError
from broker.core.placement import BackendPolicy
from broker.core.requests import OnInterruption
from broker.core.retry import RetryPolicy
from broker.core.stimuli import Arrived, AttemptEnded, FirstToken
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, Scene, arrived, model, request, resident

BROKEN = BackendFailed("500 from the backend", status=500)
UNREACHABLE = BackendUnreachable("connection refused")
POLICY = RetryPolicy()


def scene_of(retry: RetryPolicy = POLICY, *, slots: int = 1, backends: int = 1) -> Scene:
    """Backends that hold the model "m"."""
    names = [f"b{number + 1}" for number in range(backends)]
    scene = Scene(*(BackendPolicy(name=each) for each in names), retry=retry)
    for name in names:
        scene.open(name, model("m", slots=slots))
        scene.seen(name, resident("m"))
    return scene


def come(
    scene: Scene,
    request_id: str = "r1",
    on_interruption: OnInterruption = OnInterruption.FAIL,
    *,
    output_tokens_max: int = 0,
) -> list[Effect]:
    spec = request(request_id, deadline_ns=scene.now_ns + 10 * MINUTE_NS)
    spec = replace(spec, on_interruption=on_interruption, output_tokens_max=output_tokens_max)
    return scene.turn(Arrived(spec))


def stream(scene: Scene, request_id: str = "r1") -> None:
    scene.turn(FirstToken(scene.attempt(request_id)))


def lost(
    scene: Scene,
    request_id: str = "r1",
    *,
    pieces: int = 0,
    error: BrokerError = BROKEN,
    is_continuable: bool = True,
) -> list[Effect]:
    """The attempt comes to nothing after so many pieces."""
    attempt = scene.attempt(request_id)
    return scene.turn(
        AttemptEnded(
            attempt, error, output_tokens=pieces, pieces=pieces, is_continuable=is_continuable
        )
    )


def backing_off() -> Scene:
    """Its request "r1" waits for its second attempt."""
    scene = scene_of()
    scene.turn(arrived("r1", deadline_ns=MINUTE_NS))
    lost(scene, error=BackendBusy("503", status=503, retry_after_ns=30 * SECOND_NS))
    return scene
