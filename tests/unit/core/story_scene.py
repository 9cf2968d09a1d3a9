"""A scene for stories: a slot that is held, and requests that come one after the other."""

from __future__ import annotations

from broker.core.agent_policy import AgentsPolicy
from broker.core.queueing import QueuePolicy
from broker.core.requests import Criticality
from broker.core.story import explain
from broker.core.views import Explanation
from tests.unit.core.gate_words import is_let_in, kind
from tests.unit.core.scene import MINUTE_NS, Scene, arrived, model, serving


def house(
    *, slots: int = 1, queue: QueuePolicy | None = None, agents: AgentsPolicy | None = None
) -> Scene:
    """m is loaded; its slot is held by "running" of agent x."""
    types = (kind("lowly", "low*", priority_best=6), kind("any", "*"))
    policy = agents or AgentsPolicy(types=types, bulkheads={"batch": 1})
    served = model("m", slots=slots, num_ctx_max=16_384)
    scene = serving(served, model("n"), queue=queue, agents=policy, first_agent="x")
    scene.turn(arrived("running", agent="x", deadline_ns=60 * MINUTE_NS))
    return scene


def comes(
    scene: Scene,
    name: str,
    agent: str = "a",
    *,
    priority: int = 5,
    of_model: str = "m",
    criticality: Criticality = Criticality.NORMAL,
    deadline_ns: int = 60 * MINUTE_NS,
    num_ctx_needed: int = 0,
) -> bool:
    """A request arrives, a nanosecond after the one before."""
    scene.wait(1)
    word = arrived(
        name,
        agent=agent,
        priority=priority,
        model=of_model,
        criticality=criticality,
        deadline_ns=deadline_ns,
        num_ctx_needed=num_ctx_needed,
    )
    return is_let_in(scene.turn(word))


def story(scene: Scene, name: str, agent: str = "a") -> Explanation:
    return explain(scene.engine, (agent, name), scene.now_ns)
