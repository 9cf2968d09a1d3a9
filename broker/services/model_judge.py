"""What can be said of models only by looking at the broker as a whole: where they are, what memory
they take and whether there is room, whether they are small, and which aliases may mean them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from broker.core.level import DegradationPolicy, Level
from broker.core.model_name import comparison_key
from broker.core.model_sizes import MemoryNeed
from broker.core.requirements import Alias, Requirements
from broker.core.residency import ResidencyState
from broker.core.snapshot import BackendView, ResidencyView, Snapshot
from broker.models.known import KnownModel
from broker.models.query import ModelQuery, Order

# From this level on small models only answer.
_SMALL_ONLY: Final = Level.LEVEL_2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlace:
    """A model on one backend; `residency` None means that it is on disk only. `is_up`: does the
    backend answer? Else both are what was known last."""

    backend: str
    is_up: bool
    residency: ResidencyView | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which models, in which order. Of what is in `query` all must hold, and besides: at most so
    much memory (0: any), fitting a backend, in memory now, and answering at this level."""

    query: ModelQuery = field(default_factory=ModelQuery)
    order: Order = Order.NAME
    memory_bytes_max: int = 0
    fits: bool = False
    resident: bool = False
    level: Level | None = None

    @property
    def needs_judging(self) -> bool:
        """Is there anything that the list alone cannot say?"""
        return bool(self.memory_bytes_max or self.fits or self.resident or self.asks_small)

    @property
    def asks_small(self) -> bool:
        """Does the level let small models answer alone?"""
        return self.level is not None and self.level >= _SMALL_ONLY


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLore:
    """What is known of models elsewhere in the broker. `memory` tells what one takes, the usual
    context first; `memory_revision` grows when that may be otherwise; `degradation` is the policy
    that holds; `room_bytes` the memory of backends as far as it is known, by name; `aliases` are
    those of the operator, by their words."""

    memory: Callable[[KnownModel], Sequence[MemoryNeed]]
    memory_revision: Callable[[], int]
    degradation: Callable[[], DegradationPolicy]
    room_bytes: Callable[[], Mapping[str, int]]
    aliases: Callable[[], Mapping[str, Alias]]


class ModelJudge:
    """See the module; at the moment of a snapshot."""

    def __init__(self, snapshot: Snapshot, lore: ModelLore) -> None:
        self._backends: dict[str, BackendView] = {each.name: each for each in snapshot.backends}
        self._residents = {
            (backend.name, each.runner): each
            for backend in snapshot.backends
            for each in backend.residents
        }
        self._on_disk = {  # most of all that is listed
            each.name: ModelPlace(backend=each.name, is_up=each.up, residency=None)
            for each in snapshot.backends
        }
        self._memory = lore.memory
        self._room_bytes = lore.room_bytes()
        self._policy = lore.degradation()
        self._small = frozenset(comparison_key(each) for each in self._policy.small_models)
        aliases = lore.aliases()
        self._aliases = _Aliases(aliases)
        # All that a judgement depends on, but for the model and what is in memory: equal where two
        # judge alike.
        self.around = (
            *(self._policy, aliases, self._room_bytes, lore.memory_revision()),
            *((each.name, each.up) for each in snapshot.backends),
        )

    def admits(self, wanted: Wanted, model: KnownModel) -> bool:
        """Does all that the list itself cannot say hold for it?"""
        if wanted.resident and not self._is_resident(model):
            return False
        if wanted.asks_small and not self.is_small(model):
            return False
        if not (wanted.memory_bytes_max or wanted.fits):
            return True
        needs = self.needs(model)
        if wanted.memory_bytes_max and not (
            needs and needs[0].memory_bytes <= wanted.memory_bytes_max
        ):
            return False
        return not wanted.fits or self.fits(model, needs, self.places(model)) is True

    def needs(self, model: KnownModel) -> tuple[MemoryNeed, ...]:
        """What it takes in memory, the usual context first; empty: not known."""
        return tuple(self._memory(model))

    def places(self, model: KnownModel) -> tuple[ModelPlace, ...]:
        """Where it is; of backends that have left nothing is said."""
        found = []
        for name, runner in model.runners.items():
            place = self._on_disk.get(name)
            if place is not None:
                residency = self._residents.get((name, runner)) if self._residents else None
                found.append(replace(place, residency=residency) if residency else place)
        return tuple(found)

    def holds_none(self, runners: frozenset[tuple[str, str]]) -> bool:
        """Is none of these, each by its backend, in memory or about to be?"""
        return runners.isdisjoint(self._residents)

    def is_held(self, model: KnownModel) -> bool:
        """Does a backend hold it in memory, or is about to?"""
        return bool(self._residents) and any(
            each in self._residents for each in model.runners.items()
        )

    def _is_resident(self, model: KnownModel) -> bool:
        return any(
            each.residency is not None and each.residency.state is ResidencyState.RESIDENT
            for each in self.places(model)
        )

    def is_small(self, model: KnownModel) -> bool:
        """By the rule of `core.offers`. Of what is on no disk the size must be known."""
        if model.key in self._small:
            return True
        is_told = model.downloaded or model.size_bytes > 0
        return is_told and model.size_bytes <= self._policy.small_model_bytes_max

    def fits(
        self, model: KnownModel, needs: Sequence[MemoryNeed], places: Sequence[ModelPlace]
    ) -> bool | None:
        """Into the memory of a backend that has it, or, where none has, of any; None: not known."""
        if any(each.residency is not None for each in places):
            return True
        if not needs or not self._room_bytes:
            return None
        candidates = model.runners or self._backends
        rooms = [self._room_bytes.get(name) for name in candidates if name in self._backends]
        need_bytes = needs[0].memory_bytes
        if any(each is not None and need_bytes <= each for each in rooms):
            return True
        return None if not rooms or None in rooms else False

    def aliases(self, model: KnownModel, needs: Sequence[MemoryNeed]) -> tuple[str, ...]:
        """The words that may mean it, sorted."""
        return self._aliases.of(model, needs)


class _Aliases:
    """Which aliases name a model, or ask for something that it is. Those that take any model, as
    the built-in ones do, say nothing of a single one."""

    def __init__(self, aliases: Mapping[str, Alias]) -> None:
        self._naming: dict[str, list[str]] = {}
        self._asking: list[tuple[str, Requirements]] = []
        for word, alias in aliases.items():
            for name in alias.models:
                self._naming.setdefault(comparison_key(name), []).append(word)
            wants = alias.wants
            if not alias.models and wants != Requirements(prefer=wants.prefer):
                self._asking.append((word, wants))

    def of(self, model: KnownModel, needs: Sequence[MemoryNeed]) -> tuple[str, ...]:
        """Sorted. What is on no disk is meant by none."""
        if not model.downloaded or not (self._naming or self._asking):
            return ()
        named = self._naming.get(model.key, ())
        able = (word for word, wants in self._asking if _is_as(model, needs, wants))
        return tuple(sorted({*named, *able}))


def _is_as(model: KnownModel, needs: Sequence[MemoryNeed], wants: Requirements) -> bool:
    """Is it as an alias wants it, as far as that is known?"""
    takes_bytes = needs[0].memory_bytes if needs else 0
    return (
        not model.is_guard
        and (not model.capabilities or wants.capabilities <= model.capabilities)
        and (not model.context_window or model.context_window >= wants.context_min)
        and (not wants.size_bytes_max or model.size_bytes <= wants.size_bytes_max)
        and (not wants.memory_bytes_max or takes_bytes <= wants.memory_bytes_max)
    )
