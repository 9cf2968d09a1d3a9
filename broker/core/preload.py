"""The words of loading ahead of need: the policy, what was learned, what is expected.

`habits.py` learns, `preload_choice.py` chooses, `preloads.py` does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from broker.core.value import value

SECOND_NS: Final = 1_000_000_000
DAY_NS: Final = 86_400 * SECOND_NS
SLOT_NS: Final = 1_800 * SECOND_NS
SLOTS_PER_DAY: Final = DAY_NS // SLOT_NS
KINDS: Final = 2  # of days: working days, weekends
SLOTS: Final = KINDS * SLOTS_PER_DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class PreloadPolicy:
    """What the operator says of loading ahead of need (`preloads.py`).

    Nothing is loaded where its use within `horizon_ns` is less likely than `probability_min`, or
    before nothing has waited for `idle_ns`. What is to leave for it must be worth `margin` times
    less. Habits of `models_max` models are kept; a day counts for `days`.
    """

    is_enabled: bool = False
    horizon_ns: int = 900 * SECOND_NS
    probability_min: float = 0.4
    margin: float = 1.2
    idle_ns: int = 1 * SECOND_NS
    models_max: int = 64
    days: float = 7.0

    def __post_init__(self) -> None:
        if not 0 <= self.probability_min <= 1 or self.margin < 1:
            raise ValueError("a probability is from 0 to 1, a margin at least 1")
        if self.horizon_ns <= 0 or self.idle_ns < 0 or self.models_max < 1 or self.days < 1:
            raise ValueError("times, models and days to remember must be positive")


@value(kw_only=True)
class LearnedSuccessor:
    """`count`: so often; `gap_s`: so long after."""

    model: str
    count: float
    gap_s: float


@value(kw_only=True)
class LearnedModel:
    """`needs`: by slot, those of working days first. `asked`: the latest requests counting most."""

    model: str
    needs: tuple[float, ...]
    asked: float
    successors: tuple[LearnedSuccessor, ...]


@value(kw_only=True)
class Learned:
    """All that was learned, to be kept for the broker after this one. `days`: by slot, how many
    were seen, older ones counting less."""

    days: tuple[float, ...]
    models: tuple[LearnedModel, ...]


NOTHING_LEARNED: Final = Learned(days=(0.0,) * SLOTS, models=())


class Forecast(NamedTuple):
    """What is expected of a model. `per_s`: needs a second, from the moment that was asked about;
    `low_per_s` and `high_per_s` allow for how few were seen. `why` in words."""

    per_s: float
    low_per_s: float
    high_per_s: float
    why: str


UNKNOWN: Final = Forecast(0.0, 0.0, 0.0, "")
