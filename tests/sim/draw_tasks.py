"""What agents ask of the world of a seed: when, of which model, and how patiently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final

from broker.core.requests import Criticality, OnInterruption
from broker.sim.workload import Task

SECOND_NS: Final = 1_000_000_000
PATIENT_NS: Final = 24 * 3600 * SECOND_NS  # longer than any world lasts
GHOST: Final = "ghost:latest"  # a model that nobody has


# What an agent sends: moments of its requests.
_Moments = Callable[[Random, int], list[int]]


def _idler(chance: Random, horizon_ns: int) -> list[int]:
    return [chance.randrange(horizon_ns) for _ in range(chance.randint(1, 4))]


def _flood(chance: Random, horizon_ns: int) -> list[int]:
    start_ns = chance.randrange(horizon_ns)
    return [start_ns + number * 1000 for number in range(chance.randint(30, 80))]


def _bursts(chance: Random, horizon_ns: int) -> list[int]:
    starts = [chance.randrange(horizon_ns) for _ in range(chance.randint(1, 3))]
    return [start + number for start in starts for number in range(chance.randint(4, 12))]


_AGENTS: Final[dict[str, tuple[_Moments, int]]] = {
    "idler": (_idler, 25),
    "flood": (_flood, 1),
    "burster": (_bursts, 4),
}


def draw_tasks(
    chance: Random, names: list[str], horizon_ns: int, *, has_large: bool
) -> tuple[Task, ...]:
    kinds = [each for each in _AGENTS if chance.random() < 0.6] or ["idler"]
    traits = frozenset(
        each
        for each in (
            *("tiny", "huge", "leaves", "again", "ghost", "impatient", "critical", "batch"),
            "interruptible",
        )
        if chance.random() < 0.4
    ) | (frozenset({"large"}) if has_large else frozenset())
    tasks = []
    for kind in kinds:
        moments, agents = _AGENTS[kind]
        for agent in range(agents):
            favourite = chance.choice(names)
            for number, at_ns in enumerate(moments(chance, horizon_ns)):
                model = favourite if chance.random() < 0.6 else chance.choice(names)
                key = f"{kind}-{agent}", f"r{number}"
                at_ns = min(at_ns, horizon_ns) + SECOND_NS
                tasks.append(_draw_task(chance, key, at_ns, model, traits))
    return tuple(tasks)


def _draw_task(
    chance: Random, key: tuple[str, str], at_ns: int, model: str, traits: frozenset[str]
) -> Task:
    def has(trait: str, share: float) -> bool:
        return trait in traits and chance.random() < share

    task = Task(
        at_ns=at_ns,
        agent_id=key[0],
        request_id=key[1],
        model=GHOST if has("ghost", 0.05) else model,
        priority=chance.randint(1, 10),
        prompt_tokens=chance.randint(10, 800),
        output_tokens=chance.randint(10, 200),
        patience_ns=PATIENT_NS,
    )
    if has("tiny", 0.5):
        task = replace(task, prompt_tokens=1, output_tokens=chance.randint(1, 3))
    elif has("huge", 0.1):
        task = replace(task, prompt_tokens=3900, output_tokens=chance.randint(500, 2000))
    if has("critical", 0.1):
        task = replace(task, criticality=Criticality.CRITICAL)
    elif has("batch", 0.2):
        task = replace(task, criticality=Criticality.BATCH)
    if has("interruptible", 0.5):
        on = chance.choice((OnInterruption.RESTART, OnInterruption.CONTINUE))
        task = replace(task, on_interruption=on)
    if has("large", 0.1):
        task = replace(task, num_ctx_needed=chance.choice((5000, 8192, 16_000, 40_000)))
    if has("impatient", 0.5):
        task = replace(task, patience_ns=chance.randint(1, 60_000) * (SECOND_NS // 1000))
    if has("leaves", 0.3):
        task = replace(task, leaves_after_ns=chance.randint(1, 30 * SECOND_NS))
    if has("again", 0.2):
        task = replace(
            task,
            again_after_ns=chance.randint(1, 20 * SECOND_NS),
            again_differs=chance.random() < 0.3,
        )
    return task


def mark_preemptible(chance: Random, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    """What may be set aside for urgent work, in some worlds; and how much is urgent there."""
    if chance.random() < 0.4:
        return tasks
    best, urgent = chance.choice((3, 8)), chance.choice((0.0, 0.1, 0.3))
    return tuple(
        replace(
            task,
            priority=chance.choice((1, 2)) if chance.random() < urgent else task.priority,
            preemptible=task.priority >= best,
        )
        for task in tasks
    )


def make_flexible(chance: Random, tasks: tuple[Task, ...], names: list[str]) -> tuple[Task, ...]:
    """In some worlds about half take one or two other models, most of those if they are loaded. Who
    needs a large context takes none."""
    if len(names) < 2 or chance.random() < 0.7:
        return tasks
    return tuple(
        task
        if task.num_ctx_needed or chance.random() < 0.5
        else replace(
            task,
            fallback_models=_others(chance, task.model, names),
            prefer_loaded=chance.random() < 0.8,
        )
        for task in tasks
    )


def make_sessions(chance: Random, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    """In some worlds agents call in sessions of a few, and some would like their answers soon."""
    if chance.random() < 0.7:
        return tasks
    calls, share = chance.choice((2, 4, 9)), chance.choice((0.0, 0.3))
    counts: Counter[str] = Counter()
    made = []
    for task in tasks:
        number = counts[task.agent_id]
        counts[task.agent_id] += 1
        soft_ns = chance.randint(1, 60) * SECOND_NS if chance.random() < share else 0
        made.append(
            replace(
                task,
                session_id=f"s{number // calls}",
                expected_calls=chance.choice((0, 0, calls, 2 * calls)),
                soft_deadline_ns=soft_ns,
            )
        )
    return tuple(made)


def _others(chance: Random, model: str, names: list[str]) -> tuple[str, ...]:
    others = [name for name in names if name != model]
    return tuple(chance.sample(others, min(len(others), chance.choice((1, 1, 2)))))
