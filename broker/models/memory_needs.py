"""What models take of memory when they are loaded: measured where they were, else estimated.

Backends tell with each model that they hold how many bytes it takes and with which context. These
pairs are kept, so that a person sees before a load what it will take. The engine has a memory of
its own (`placement.memory_seen`): it needs only what was last so, and this is for all contexts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from broker.core.model_sizes import MemoryNeed, needs_of
from broker.core.placement import MEMORY_PER_FILE_BYTE
from broker.core.ports import ModelFacts
from broker.core.stimuli import ModelSpec
from broker.core.targets import NUM_CTX_ASSUMED

# Runners, over all backends, of which measurements are kept; the one that was not held for longest
# goes. And contexts of each.
RUNNERS_MAX: Final = 4_096
CONTEXTS_MAX: Final = 6
# Answers that are kept until something they depend on changes: as many as one large fleet lists.
_ANSWERS_MAX: Final = 4_096

_Held = tuple[str, str]  # a backend and a runner


class MemoryNeeds:
    """Measurements of all backends, and what follows from them."""

    def __init__(self) -> None:
        self._measured: OrderedDict[_Held, OrderedDict[int, int]] = OrderedDict()
        self._answers: OrderedDict[
            str, tuple[ModelFacts, tuple[ModelSpec, ...], int, tuple[MemoryNeed, ...]]
        ] = OrderedDict()
        self._changes = 0

    def __len__(self) -> int:
        return len(self._measured)

    @property
    def changes(self) -> int:
        """It grows whenever something else is measured than before."""
        return self._changes

    def saw(self, backend: str, runner: str, num_ctx: int, memory_bytes: int) -> None:
        """It is held there with this context, and takes so much."""
        if num_ctx <= 0 or memory_bytes <= 0:
            return  # not told: a server without the figure, or one that is not done loading
        by_context = self._measured.setdefault((backend, runner), OrderedDict())
        self._changes += by_context.get(num_ctx) != memory_bytes
        by_context[num_ctx] = memory_bytes
        by_context.move_to_end(num_ctx)
        if len(by_context) > CONTEXTS_MAX:
            by_context.popitem(last=False)
        self._measured.move_to_end((backend, runner))
        if len(self._measured) > RUNNERS_MAX:
            self._measured.popitem(last=False)

    def forget(self, backend: str) -> None:
        """It was taken out of the configuration."""
        for held in [each for each in self._measured if each[0] == backend]:
            del self._measured[held]
        self._changes += 1

    def measured(self, runners: Mapping[str, str]) -> dict[int, int]:
        """Bytes by context, of a model with these runners by backend: where several measured the
        same context, the most; the context that was measured last on any of them comes last."""
        found: dict[int, int] = {}
        for held in runners.items():
            for num_ctx, memory_bytes in self._measured.get(held, {}).items():
                found[num_ctx] = max(memory_bytes, found.pop(num_ctx, 0))
        return found

    def needs(
        self, facts: ModelFacts, runners: Mapping[str, str], specs: Sequence[ModelSpec]
    ) -> tuple[MemoryNeed, ...]:
        """What this model takes by context, its usual one first. `specs` are what the engine plans
        with on the backends that have it: of different numbers of slots the most counts."""
        plans = tuple(specs)
        kept = self._answers.get(facts.name)
        if kept is not None and kept[0] is facts and kept[1] == plans and kept[2] == self._changes:
            return kept[3]
        measured = self.measured(runners)
        usual = next((each.num_ctx for each in plans if each.num_ctx), None)
        if usual is None:  # the server decides: as it last did, as far as that was seen
            usual = next(reversed(measured), NUM_CTX_ASSUMED)
        slots = max((each.slots for each in plans), default=1)
        answer = needs_of(facts, slots, measured, usual=usual)
        self._answers[facts.name] = (facts, plans, self._changes, answer)
        self._answers.move_to_end(facts.name)
        if len(self._answers) > _ANSWERS_MAX:
            self._answers.popitem(last=False)
        return answer


def needs_by_size(size_bytes: int, context_window: int) -> tuple[MemoryNeed, ...]:
    """What a model takes of which no more is known than its file, as of the library's."""
    if size_bytes <= 0:
        return ()
    num_ctx = min(context_window, NUM_CTX_ASSUMED) if context_window else NUM_CTX_ASSUMED
    memory_bytes = int(size_bytes * MEMORY_PER_FILE_BYTE)
    return (MemoryNeed(num_ctx=num_ctx, memory_bytes=memory_bytes, measured=False),)
