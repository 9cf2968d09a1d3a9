"""What a request may want of a model that it does not name, and what an operator's aliases mean.

An alias is a word for models: a list of names, the best first, or what a model must be. It never
stands for another alias: what it lists are names of models, so that there are no circles. The bare
word is the alias, whatever models there are; a model that is called the same is named with its tag
("fast:latest").
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from broker.core.state_machine import Symbol
from broker.core.value import value

CAPABILITIES_MAX: Final = 16
ALIASES_MAX: Final = 64
ALIAS_MODELS_MAX: Final = 32


class Preference(Symbol):
    """Which of the models that fit."""

    FAST = "fast"  # that which answers soonest, as far as can be told
    SMALL = "small"
    LARGE = "large"


@value(kw_only=True)
class Requirements:
    """All that is set must hold; numbers of 0 ask nothing. `size_bytes_max` is of the file,
    `memory_bytes_max` while loaded. `prefer` None: nobody said, which means FAST."""

    capabilities: frozenset[str] = frozenset()
    context_min: int = 0
    size_bytes_max: int = 0
    memory_bytes_max: int = 0
    prefer: Preference | None = None

    def joined(self, other: Requirements | None) -> Requirements:
        """What holds where both do; where both prefer something, as `other` does."""
        if other is None:
            return self
        return Requirements(
            capabilities=self.capabilities | other.capabilities,
            context_min=max(self.context_min, other.context_min),
            size_bytes_max=_tighter(self.size_bytes_max, other.size_bytes_max),
            memory_bytes_max=_tighter(self.memory_bytes_max, other.memory_bytes_max),
            prefer=other.prefer or self.prefer,
        )


def _tighter(one: int, other: int) -> int:
    return min(one, other) if one and other else one or other


ANYTHING: Final = Requirements()


@value(kw_only=True)
class Alias:
    """What one alias means: one of `models`, the first that can, or where there are none what is
    as `wants` says."""

    models: tuple[str, ...] = ()
    wants: Requirements = ANYTHING


# What is there unless the operator says otherwise.
BUILT_IN_ALIASES: Final[Mapping[str, Alias]] = MappingProxyType(
    {
        "fast": Alias(wants=Requirements(prefer=Preference.FAST)),
        "small": Alias(wants=Requirements(prefer=Preference.SMALL)),
    }
)
