"""What an agent asks for after a model, how often and how soon: its own, and those of all."""

from __future__ import annotations

from typing import Final

from broker.core.preload import SECOND_NS

# What an agent asks for later than this is no successor of what it asked for before.
FOLLOW_NS: Final = 300 * SECOND_NS
# Of so many requests older ones count half.
ASKED_MAX: Final = 256.0
# Fewer than so many tell nothing.
ASKED_MIN: Final = 4.0

SUCCESSORS_MAX: Final = 8  # of one model; the rarest makes way
OWN_MODELS_MAX: Final = 4  # of one agent, of which its own successors are kept
# What all agents do counts beside what this one does as if it were so many of its own requests.
ALL_COUNT: Final = 2.0


class Turn:
    """From one model to the next, or to the same again."""

    __slots__ = ("count", "gap_ns")

    def __init__(self, count: float, gap_ns: float) -> None:
        self.count = count
        self.gap_ns = gap_ns


class Turns:
    """What is asked for after one model, which was `asked` for so often."""

    __slots__ = ("asked", "to")

    def __init__(self) -> None:
        self.asked = 0.0
        self.to: dict[str, Turn] = {}

    def add(self, model: str, gap_ns: int) -> None:
        turn = self.to.get(model)
        if turn is None:
            if len(self.to) >= SUCCESSORS_MAX:
                del self.to[min(self.to, key=lambda each: (self.to[each].count, each))]
            turn = self.to[model] = Turn(0.0, float(gap_ns))
        turn.count += 1.0
        turn.gap_ns += (gap_ns - turn.gap_ns) / min(turn.count, ASKED_MAX)
        if self.asked > ASKED_MAX:
            self.asked /= 2.0
            for each in self.to.values():
                each.count /= 2.0


class Last:
    """What an agent asked for last. `need_ns`: when that last counted as a need. `own`: what this
    agent turns to, by the model before."""

    __slots__ = ("at_ns", "model", "need_ns", "own")

    def __init__(self, model: str, now_ns: int) -> None:
        self.model = model
        self.at_ns = self.need_ns = now_ns
        self.own: dict[str, Turns] = {}

    def turns(self, model: str) -> Turns:
        found = self.own.get(model)
        if found is None:
            if len(self.own) >= OWN_MODELS_MAX:
                del self.own[min(self.own, key=lambda each: (self.own[each].asked, each))]
            found = self.own[model] = Turns()
        return found
