"""Slots that are full of work which urgent requests may have set aside."""

from __future__ import annotations

from dataclasses import replace

from broker.core.agent_policy import OPEN_HOUSE, AgentsPolicy
from broker.core.effects import AbortAttempt, Effect
from broker.core.errors import Cancelled
from broker.core.placement import BackendPolicy
from broker.core.preemption import PreemptionPolicy
from broker.core.requests import OnInterruption
from broker.core.stimuli import Arrived, AttemptEnded, FirstToken
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, Scene, model, of, request, resident

POLICY = PreemptionPolicy()
GRACE_NS = 300_000_000


def scene_of(
    policy: PreemptionPolicy = POLICY,
    *,
    slots: int = 1,
    backends: int = 1,
    agents: AgentsPolicy = OPEN_HOUSE,
) -> Scene:
    """Backends that hold the model "m" and have a model "n" on disk."""
    names = [f"b{number + 1}" for number in range(backends)]
    policies = (BackendPolicy(name=each) for each in names)
    scene = Scene(*policies, preemption=policy, agents=agents)
    for name in names:
        scene.open(name, model("m", slots=slots), model("n", slots=slots))
        scene.seen(name, resident("m"))
        scene.engine.backends[name].residents["blob-m"].managed = True
    return scene


def come(
    scene: Scene,
    request_id: str,
    priority: int,
    *,
    agent: str = "a",
    model: str = "m",
    is_preemptible: bool | None = None,
    on_interruption: OnInterruption = OnInterruption.FAIL,
    output_tokens_max: int = 0,
    session: str = "",
    prefixes: tuple[int, ...] = (),
) -> list[Effect]:
    """By default it may be set aside from priority 8 on."""
    spec = request(
        request_id,
        agent=agent,
        model=model,
        priority=priority,
        deadline_ns=scene.now_ns + 60 * MINUTE_NS,
    )
    preemptible = priority >= 8 if is_preemptible is None else is_preemptible
    spec = replace(
        spec,
        preemptible=preemptible,
        on_interruption=on_interruption,
        output_tokens_max=output_tokens_max,
        session_id=session,
        prefixes=prefixes,
    )
    return scene.turn(Arrived(spec))


def stream(scene: Scene, request_id: str, agent: str = "a") -> None:
    scene.turn(FirstToken(scene.attempt(request_id, agent)))


def closed(
    scene: Scene,
    request_id: str,
    *,
    agent: str = "a",
    pieces: int = 0,
    is_continuable: bool = True,
) -> list[Effect]:
    """Its call ends as it was told to."""
    attempt = scene.attempt(request_id, agent)
    return scene.turn(
        AttemptEnded(
            attempt,
            Cancelled("aborted"),
            output_tokens=pieces,
            pieces=pieces,
            is_continuable=is_continuable,
        )
    )


def set_aside(scene: Scene, effects: list[Effect]) -> list[str]:
    """The ids of the requests that were told to make way."""
    attempts = scene.engine.attempts
    return [
        attempts[each.attempt].record.spec.key[1]
        for each in of(effects, AbortAttempt)
        if each.is_for_urgent
    ]


def busy(
    policy: PreemptionPolicy = POLICY, *, ran_ns: int = 5 * SECOND_NS, priority: int = 9
) -> Scene:
    """Its only slot is held by "low", for so long."""
    scene = scene_of(policy)
    come(scene, "low", priority)
    scene.wait(ran_ns)
    return scene
