"""Which of many models is chosen, and why: rules alone, over what is known of each.

What fits is asked first, and then what of that is best, so that a stricter wish never yields what
a looser one would not have taken. Of what is alike the first by name is chosen.

An embedding is chosen among what stays the same, never by what is loaded just now: vectors of two
models mean nothing beside each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice
from typing import Final, NamedTuple

from broker.core.model_errors import NoModelFits, RejectedModel
from broker.core.requests import ANY_OF, RequestKind, RequestSpec
from broker.core.requirements import Preference, Requirements

ALTERNATIVES_MAX: Final = 8
REJECTED_MAX: Final = 16
# Of what was not chosen, so much is told in the sentence that says why.
TOLD_MAX: Final = 2
# So many capabilities are named in it.
NAMED_MAX: Final = 4
# Of what is not in memory so many are looked at, and then again as many, until one is ready.
JUDGED_AT_ONCE: Final = 16

_COMPLETION: Final = frozenset({"completion"})
_EMBEDDING: Final = "embedding"
_BYTES_PER_GB: Final = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A model, as far as nothing of it changes while it lies there. `context_max` is the largest
    context that a request may have."""

    key: str  # comparison key
    name: str
    size_bytes: int
    capabilities: frozenset[str]
    context_max: int
    is_guard: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a request calls for. `needs` are the capabilities of its content."""

    kind: RequestKind
    needs: frozenset[str]
    num_ctx: int
    wants: Requirements

    @property
    def prefer(self) -> Preference:
        return self.wants.prefer or Preference.FAST


def wish_of(spec: RequestSpec, wants: Requirements) -> Wish:
    """What a request with these requirements calls for."""
    return Wish(kind=spec.kind, needs=spec.needs, num_ctx=spec.num_ctx_needed, wants=wants)


class Stage(IntEnum):
    """How far a model is from working; the nearest goes first."""

    FREE = 0  # resident, with a slot and nobody before
    HERE = 1  # resident or being loaded, and busy
    AWAY = 2


class Standing(NamedTuple):
    """A model, as it is at this moment. `barred`: why nothing of it is started now, "" where it
    may be. `suits`: does the level let it answer? `answer_ns`: until its answer, as measured, else
    as guessed by its size: that orders and refuses nobody."""

    stage: Stage
    words: str
    answer_ns: float
    barred: str = ""
    suits: bool = True


class Selection(NamedTuple):
    """What was chosen, what would do as well, the best first, and what was not, the nearest first.
    `is_ready`: may it start now, and does the level let it answer?"""

    model: Known
    because: str
    alternatives: tuple[Known, ...]
    rejected: tuple[RejectedModel, ...]
    is_ready: bool


Judge = Callable[[Known], Standing]


def lacks(model: Known, wish: Wish, memory_bytes: int, *, was_named: bool = False) -> list[str]:
    """Everything for which it does not fit, in words. What an operator has named is believed to
    have what its backend does not tell, and may be one that judges."""
    wants, found = wish.wants, list[str]()
    if model.is_guard and not was_named:
        found.append("judges texts and answers none")
    found += lacking(model.capabilities, wish.needs | wants.capabilities)
    if not model.capabilities and not was_named:
        found += _untold(model, wish)
    needed = max(wish.num_ctx, wants.context_min)
    if needed > model.context_max:
        found.append(f"may have {model.context_max} tokens of context, not {needed}")
    if wants.size_bytes_max:
        found += _too_large("has", model.size_bytes, wants.size_bytes_max)
    if wants.memory_bytes_max:
        found += _too_large("takes", memory_bytes, wants.memory_bytes_max)
    return found


def lacking(has: frozenset[str], needs: frozenset[str]) -> list[str]:
    """What is missing, in words. A backend that tells nothing is believed to have it all."""
    missing = _missing(has, needs)
    return [f"lacks {', '.join(missing).replace(ANY_OF, ' or ')}"] if missing else []


def _missing(has: frozenset[str], needs: frozenset[str]) -> list[str]:
    if not has or needs <= has:
        return []
    return [each for each in sorted(needs) if has.isdisjoint(each.split(ANY_OF))]


def distance(model: Known, wish: Wish, found: Sequence[str]) -> int:
    """How far it is from what is wanted, where `found` is all that it lacks."""
    return len(found) + len(_missing(model.capabilities, wish.needs | wish.wants.capabilities))


def _untold(model: Known, wish: Wish) -> list[str]:
    """Its backend does not tell what it can do: it is taken for one that answers prompts, unless
    its name says that it does something else."""
    if not wish.needs | wish.wants.capabilities <= _COMPLETION:
        return ["is on a backend that does not tell what it can do"]
    return ["embeds, by its name"] if "embed" in model.key else []


def _too_large(does: str, size_bytes: int, most: int) -> list[str]:
    if not size_bytes:
        return [f"{does} an unknown number of bytes"]
    if size_bytes <= most:
        return []
    return [f"{does} {size_bytes / _BYTES_PER_GB:.3g} GB, more than {most / _BYTES_PER_GB:.3g} GB"]


def by_size(models: Iterable[Known], prefer: Preference) -> tuple[Known, ...]:
    """As they are preferred, as far as their sizes go: the smallest first, or the largest. What has
    no known size is neither small nor large."""
    return tuple(sorted(models, key=lambda each: (_size(each, prefer), each.key)))


def select(
    fits: Mapping[str, Known],
    rejected: Iterable[RejectedModel],
    wish: Wish,
    judge: Judge,
    near: Sequence[Known] = (),
    *,
    may_start: bool = True,
) -> Selection:
    """The best of what fits, as the wish prefers; these are `by_size`, under their keys. `near` are
    those in memory. NoModelFits where nothing fits.

    Not all are judged: those in memory, and so many of the others that one of them is ready. More
    of these would be worse, by their sizes. `may_start`: could anything be started anywhere? Where
    not, few tell as much as all."""
    first = {each.key: each for each in near} if wish.prefer is Preference.FAST else {}
    judged = [(each, judge(each)) for each in first.values()]
    is_first_best = wish.kind is RequestKind.EMBED or not may_start
    is_ready, looked = False, 0
    rest = (each for key, each in fits.items() if key not in first)
    while not is_ready and (more := list(islice(rest, JUDGED_AT_ONCE))):
        judged += [(each, judge(each)) for each in more]
        is_ready = is_first_best or any(at.suits and not at.barred for _, at in judged[looked:])
        looked = len(judged)
    judged.sort(key=lambda pair: _rank(pair[0], pair[1], wish))
    return _told(judged, list(rejected), wish, _title(len(fits), wish))


def first_of(
    fits: Mapping[str, Known], rejected: Iterable[RejectedModel], wish: Wish, judge: Judge
) -> Selection:
    """The first of what fits, in the order that is given, that can answer now."""
    judged = [(each, judge(each)) for each in fits.values()]
    if wish.kind is not RequestKind.EMBED:
        judged.sort(key=lambda pair: (not pair[1].suits, bool(pair[1].barred)))  # stable
    return _told(judged, list(rejected), wish, "the first on the list that can")


def _rank(model: Known, at: Standing, wish: Wish) -> tuple[float | str, ...]:
    """Sorted by this the best is first."""
    size = _size(model, wish.prefer)
    if wish.kind is RequestKind.EMBED:
        return size, model.key
    may_start = (not at.suits, bool(at.barred))
    if wish.prefer is Preference.FAST:
        return *may_start, at.stage is not Stage.FREE, at.answer_ns, size, model.key
    return *may_start, size, model.key


def _size(model: Known, prefer: Preference) -> float:
    if prefer is Preference.LARGE:
        return float(-model.size_bytes)
    return float(model.size_bytes or "inf")


def _title(fitting: int, wish: Wish) -> str:
    """What the best of so many has before the others, in words."""
    if fitting <= 1:
        return "the only one that fits"
    prefer = wish.prefer
    if wish.kind is RequestKind.EMBED and prefer is Preference.FAST:
        prefer = Preference.SMALL
    words = {
        Preference.FAST: "the soonest answer",
        Preference.SMALL: "the smallest",
        Preference.LARGE: "the largest",
    }
    return f"{words[prefer]} of {fitting} that fit"


def _told(
    judged: list[tuple[Known, Standing]], rejected: list[RejectedModel], wish: Wish, title: str
) -> Selection:
    if not judged:
        raise NoModelFits(tuple(rejected[:REJECTED_MAX]))
    model, at = judged[0]
    ready = [each for each, its in judged[1:] if its.suits and not its.barred]
    shut = [
        RejectedModel(
            each.name, its.barred or "is no small model, and at this level only these answer"
        )
        for each, its in judged[1:]
        if its.barred or not its.suits
    ]
    others = (*shut, *rejected)[:REJECTED_MAX]
    return Selection(
        model,
        _because(model, at, wish, title, others),
        tuple(ready[:ALTERNATIVES_MAX]),
        others,
        at.suits and not at.barred,
    )


def _because(
    model: Known, at: Standing, wish: Wish, title: str, rejected: Sequence[RejectedModel]
) -> str:
    parts = [title, at.barred or at.words]
    wanted = sorted((wish.needs | wish.wants.capabilities) - _COMPLETION - {_EMBEDDING})
    if wanted and model.capabilities:
        parts.append(f"has {', '.join(wanted[:NAMED_MAX]).replace(ANY_OF, ' or ')}")
    sentences = [f"{model.name}: {', '.join(each for each in parts if each)}"]
    sentences += [f"{each.name} {each.because}" for each in rejected[:TOLD_MAX]]
    return "; ".join(sentences)
