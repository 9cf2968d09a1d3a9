"""What goes wrong in the world of a seed: a few kinds of faults, each a few times."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from broker.sim.world_faults import GENTLE, Fault, FaultKind

SECOND_NS: Final = 1_000_000_000
KINDS_MAX: Final = 5  # of faults in one world
# Somebody else loads one model, and uses it a while.
BY_STRANGERS: Final = frozenset({FaultKind.STRANGER_LOADS, FaultKind.STRANGERS})

Place = tuple[str, Sequence[str]]  # a server, and its models


def draw_faults(chance: Random, places: Sequence[Place], horizon_ns: int) -> tuple[Fault, ...]:
    """None, some of those that are gentle, or a few of all."""
    gentle = sorted(GENTLE, key=lambda each: each.value)
    kinds = chance.choice(
        (
            [],
            [each for each in gentle if chance.random() < 0.5],
            chance.sample(list(FaultKind), chance.randint(1, KINDS_MAX)),
        )
    )
    return tuple(
        _draw_fault(chance, kind, chance.choice(places), horizon_ns)
        for kind in kinds
        for _ in range(chance.randint(1, 4))
    )


def _draw_fault(chance: Random, kind: FaultKind, place: Place, horizon_ns: int) -> Fault:
    server, models = place
    model = chance.choice(models)
    is_stranger = kind in BY_STRANGERS
    lasts_s = chance.choice(_LASTS_S.get(kind, (1, 10, 60)))
    every = not is_stranger and chance.random() < 0.5
    return Fault(
        kind=kind,
        server=server,
        at_ns=chance.randrange(horizon_ns),
        for_ns=lasts_s * SECOND_NS,
        model="" if every else model,
        delay_ns=chance.randint(1, 6000) * (SECOND_NS // 1000),
    )


_LASTS_S: Final = {
    FaultKind.STRANGER_LOADS: (30, 120),
    FaultKind.STRANGERS: (30, 120),
    FaultKind.SLOW: (10, 60, 200),
    # The longest lasts until several loads have hung, and the server counts as wedged.
    FaultKind.LOADS_HANG: (1, 10, 60, 60, 400),
}
