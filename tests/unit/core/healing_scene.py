"""Streams that fall silent, and what is told of cures."""

from __future__ import annotations

from broker.core.effects import Effect, TellHealing
from broker.core.stimuli import Arrived, AttemptEnded, FirstToken, Quiet
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, Scene, arrived, model, of, request, serving

MS = 1_000_000
GAP_NS = 40 * MS  # of all streams here, unless another is given


def steps(effects: list[Effect]) -> list[str]:
    """Each word of a cure: "frozen m on b1"."""
    return [
        f"{each.step.value} {each.model.removesuffix(':latest')} on {each.backend}"
        for each in of(effects, TellHealing)
    ]


def evidence(effects: list[Effect]) -> str:
    """What the last word of a cure says."""
    return of(effects, TellHealing)[-1].evidence


def learned(scene: Scene, name: str = "m", *, gap_ns: int = GAP_NS, prefill_ns: int = 0) -> None:
    """One answer of this model is complete: its gap, and what its prompt of 10 kB took."""
    scene.turn(Arrived(request("learned", model=name, size_bytes=10_000)))
    attempt = scene.attempt("learned")
    scene.wait(prefill_ns or MS)
    scene.turn(FirstToken(attempt))
    scene.wait(SECOND_NS)
    scene.turn(AttemptEnded(attempt, None, 100, 25, pieces=25, gap_ns=gap_ns))


def streams(scene: Scene, request_id: str, *, model: str = "m", agent: str = "a") -> None:
    """A request has its first piece."""
    scene.wait(MS)
    scene.turn(arrived(request_id, model=model, agent=agent, deadline_ns=60 * MINUTE_NS))
    scene.turn(FirstToken(scene.attempt(request_id, agent)))


def quiet(
    scene: Scene, request_id: str, silent_ns: int, *, pieces: int = 20, gap_ns: int = GAP_NS
) -> list[Effect]:
    """It has been silent for so long."""
    attempt = scene.attempt(request_id)
    return scene.turn(Quiet(attempt, scene.now_ns - silent_ns, pieces, gap_ns))


def two_slots(*, prefill_ns: int = 0) -> Scene:
    """A model with two slots that has given one answer."""
    scene = serving(model("m", slots=2), model("n"))
    scene.wait(100 * SECOND_NS)
    learned(scene, prefill_ns=prefill_ns)
    return scene
