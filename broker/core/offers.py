"""What each level offers: how long answers may be, which models run, what goes first, what waits.

The effects add up from level to level. What a level holds back it names as bits of the mask that
the queue is asked with; what it refuses or changes, `admission.py`, `reassignment.py` and
`dispatch.py` ask here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from broker.core.agent_policy import BATCH, COMPARTMENTS_MAX
from broker.core.bulkheads import Bulkheads
from broker.core.errors import Degraded, SmallModelsOnly
from broker.core.failover import line_if_able
from broker.core.guards import is_guard
from broker.core.level import DegradationPolicy, Level
from broker.core.model_name import comparison_key
from broker.core.placement import BackendState
from broker.core.queueing import LineKey
from broker.core.record import Record
from broker.core.requests import (
    PRIORITY_LOWEST,
    Criticality,
    RequestKind,
    RequestSpec,
    Substitution,
)
from broker.core.residency import ResidencyState
from broker.core.stimuli import ModelSpec
from broker.core.targets import may_run

CRITICAL_PRIORITY_WORST: Final = 7  # what is worse, and batch work, is called non-critical
FIRST_PRIORITY_WORST: Final = 3  # goes first and alone at the critical level

EVERYTHING: Final = (1 << 64) - 1  # the mask that closes every class of the queue
NOTHING: Final = 0

BYTES_PER_GB: Final = 1e9


def mask_of_worse(best: int) -> int:
    """The bits of the priorities that are worse than this one."""
    return sum(1 << COMPARTMENTS_MAX + each for each in range(best + 1, PRIORITY_LOWEST + 1))


# What goes after the others, by priority; batch work does so as well from level 2 on.
_AFTER_OTHERS: Final[Mapping[Level, int]] = {
    Level.NORMAL: NOTHING,
    Level.LEVEL_1: NOTHING,
    Level.LEVEL_2: mask_of_worse(CRITICAL_PRIORITY_WORST),
    Level.CRITICAL: mask_of_worse(FIRST_PRIORITY_WORST),
}


class SmallModel:
    """A small model that will answer in place of another, and the line for it."""

    __slots__ = ("key", "line", "model")

    def __init__(self, key: str, model: ModelSpec, line: LineKey) -> None:
        self.key = key
        self.model = model
        self.line = line


class Offers:
    """`level` is what holds now, `held` the mask of what it lets go after the others, whatever
    their model. What `memory_level` alone would let go after the others does not go at all: memory
    is short, and a slot that idles is not."""

    __slots__ = (
        "_backends",
        "_barred",
        "_bulkheads",
        "_small_names",
        "_small_runners",
        "held",
        "level",
        "memory_level",
        "policy",
    )

    def __init__(
        self,
        policy: DegradationPolicy,
        backends: Mapping[str, BackendState],
        bulkheads: Bulkheads,
    ) -> None:
        self._backends = backends
        self._bulkheads = bulkheads
        self.set(policy, Level.NORMAL, Level.NORMAL)

    def set(self, policy: DegradationPolicy, level: Level, memory_level: Level) -> None:
        """From now on this level and this policy hold, and so much of the level for the sake of
        memory."""
        self.policy, self.level = policy, level
        self.memory_level = min(level, memory_level)
        self._small_runners: dict[str, bool] = {}
        self._small_names = tuple(comparison_key(each) for each in policy.small_models)
        self.held = self._after_others(level)
        self._barred = self._after_others(self.memory_level)

    def _after_others(self, level: Level) -> int:
        mask = _AFTER_OTHERS[level]
        return mask | 1 << self._bulkheads.bit(BATCH) if mask else NOTHING

    @property
    def has_small_only(self) -> bool:
        return self.level >= Level.LEVEL_2

    # Length

    def output_tokens_max(self, spec: RequestSpec) -> int | None:
        """To how many tokens the answer is cut; None where it is not."""
        most = self.policy.output_tokens_max
        if self.level < Level.LEVEL_1 or spec.kind is not RequestKind.GENERATE:
            return None
        return most if not 0 < spec.output_tokens_max <= most else None

    # Who goes after the others

    def mask(self, runner: str) -> int:
        """What goes after the others of what waits for this runner."""
        if self.has_small_only and not self.is_small_runner(runner):
            return EVERYTHING
        return self.held

    def mask_barred(self, runner: str) -> int:
        """What of it does not go at all, not even in a slot that would idle."""
        if self.memory_level >= Level.LEVEL_2 and not self.is_small_runner(runner):
            return EVERYTHING
        return self._barred

    def bars(self, runner: str, priority: int, compartment: int) -> bool:
        """Does a request for this runner not go at all?"""
        return self._barred != NOTHING and is_held(self.mask_barred(runner), priority, compartment)

    def holds(self, record: Record) -> bool:
        """Does this request go after the others, or not at all?"""
        return self.held != NOTHING and is_held(
            self.mask(record.line[0]), record.priority, record.compartment
        )

    def why_held(self, record: Record) -> str:
        """What a request that is held waits for, in words."""
        is_barred = self.bars(record.line[0], record.priority, record.compartment)
        level = self.memory_level if is_barred else self.level
        at = "critical" if level is Level.CRITICAL else f"level {level.word}"
        where = "alone" if is_barred else "first"
        if not self.is_small_runner(record.line[0]):
            words = f"small models go {where}, not {record.model}"
        elif record.spec.criticality is Criticality.BATCH:
            words = f"what is not batch work goes {where}"
        else:
            best = FIRST_PRIORITY_WORST if level is Level.CRITICAL else CRITICAL_PRIORITY_WORST
            words = f"priority {best} and better goes {where}"
        why = ", as memory is short" if is_barred else ""
        return f"the level to fall: at {at} {words}{why}"

    # What is refused, or answered at once

    def check_critical(self, spec: RequestSpec, priority: int, retry_after_ns: int) -> None:
        """Degraded for a newcomer that is not critical, from level 2 on."""
        if not self.has_small_only or is_critical_work(spec, priority):
            return
        is_batch = spec.criticality is Criticality.BATCH
        what = "is batch work" if is_batch else f"has priority {priority}"
        raise Degraded(
            f"the level is {self.level.word}: until it falls no batch work comes in, and nothing "
            f"of a priority worse than {CRITICAL_PRIORITY_WORST}; this request {what}",
            retry_after_ns=retry_after_ns,
        )

    def allows_answer(self, spec: RequestSpec) -> bool:
        """May the default answer be given to it, if the level holds it back or refuses it?"""
        return (
            self.level is Level.CRITICAL
            and spec.accepts_default
            and spec.kind is RequestKind.GENERATE
            and self.policy.has_answer_for(spec.prompt_type)
        )

    def answer_changes(self) -> tuple[str, ...]:
        """What such a request is told."""
        return (f"the operator's default answer, as the level is {self.level.word}",)

    # Small models

    def is_small(self, model: ModelSpec) -> bool:
        """By its file, or by its name."""
        return (
            model.size_bytes <= self.policy.small_model_bytes_max
            or comparison_key(model.name) in self._small_names
        )

    def is_small_runner(self, runner: str) -> bool:
        """Is one of the models that it runs small? One that nobody has is not held for that."""
        known = self._small_runners.get(runner)
        if known is None:
            found = [
                model
                for backend in self._backends.values()
                for model in backend.models.values()
                if model.runner == runner
            ]
            known = not found or any(self.is_small(each) for each in found)
            self._small_runners[runner] = known
        return known

    def lets_answer(self, runner: str) -> bool:
        """May it answer where others could as well, as far as the level goes?"""
        return not self.has_small_only or self.is_small_runner(runner)

    def models_changed(self) -> None:
        """Backends have others than before."""
        self._small_runners.clear()

    def small_model(self, spec: RequestSpec, now_ns: int) -> SmallModel | None:
        """Which small model may and can answer instead of a large one: the first of the caller's
        fallbacks, else one that is resident, else the first of the policy's."""
        if spec.kind is RequestKind.EMBED or spec.substitution is Substitution.NEVER:
            return None  # the vectors of another model mean nothing
        for key in self._candidates(spec):
            model = self._find(key)
            if model is None or not self.is_small(model):
                continue
            line = line_if_able(spec, model, self._backends)
            if line is not None and may_run(model.runner, self._backends, now_ns):
                return SmallModel(key, model, line)
        return None

    def _candidates(self, spec: RequestSpec) -> Iterator[str]:
        """Comparison keys, the one to be preferred first."""
        for name in spec.fallback_models:
            yield comparison_key(name)
        if spec.substitution is Substitution.FALLBACKS:
            return
        for backend in self._backends.values():
            for residency in backend.residents.values() if backend.up else ():
                model = backend.by_runner.get(residency.runner)
                is_there = residency.state is ResidencyState.RESIDENT
                if model is not None and is_there and not is_guard(model.name):
                    yield comparison_key(model.name)
        yield from self._small_names

    def _find(self, key: str) -> ModelSpec | None:
        for backend in self._backends.values():
            if backend.up and key in backend.models:
                return backend.models[key]
        return None

    def no_small_model(self, spec: RequestSpec, model: str, retry_after_ns: int) -> SmallModelsOnly:
        """Why a large model's request is refused, in words, and what can be done."""
        names = ", ".join(self.policy.small_models)
        named = f", or one of: {names}" if names else ""
        most_gb = self.policy.small_model_bytes_max / BYTES_PER_GB
        rule = (
            f"the level is {self.level.word}: until it falls only small models run (a file of at "
            f"most {most_gb:g} GB{named}), and {model} is not one"
        )
        if spec.kind is RequestKind.EMBED:
            why = "vectors of another model would mean nothing; come again later"
        elif spec.substitution is Substitution.NEVER:
            why = "the request allows no other; allow one, or come again later"
        elif spec.substitution is Substitution.FALLBACKS:
            why = "none of its fallback_models is a small one that can do this; name one"
        else:
            why = "no small model that is here can do this; come again later"
        return SmallModelsOnly(f"{rule}: {why}", retry_after_ns=retry_after_ns)


def is_critical_work(spec: RequestSpec, priority: int) -> bool:
    """Is it neither batch work nor of one of the worst priorities?"""
    return priority <= CRITICAL_PRIORITY_WORST and spec.criticality is not Criticality.BATCH


def is_held(mask: int, priority: int, compartment: int) -> bool:
    """Does a mask close the class of this priority and compartment?"""
    return bool((mask >> compartment | mask >> COMPARTMENTS_MAX + priority) & 1)
