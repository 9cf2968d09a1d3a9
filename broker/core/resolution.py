"""Which model would answer a request now, without one: what is told to who asks before it sends."""

from __future__ import annotations

from typing import Final, NamedTuple

from broker.core.choosing import Choosing
from broker.core.engine import Engine
from broker.core.failover import check_own, find_target
from broker.core.model_errors import RejectedModel
from broker.core.requests import PRIORITY_DEFAULT, Criticality, RequestKind, RequestSpec
from broker.core.requirements import Requirements
from broker.core.selection import Selection

_EMBEDDING: Final = "embedding"
_FAR_NS: Final = 86_400_000_000_000


class Resolution(NamedTuple):
    """The model, why that one, what would answer in its place, the best first, and what was not
    chosen and why, the nearest first."""

    model: str
    because: str
    alternatives: tuple[str, ...]
    rejected: tuple[RejectedModel, ...]


def resolve(engine: Engine, name: str, wants: Requirements | None, now_ns: int) -> Resolution:
    """What would answer a request that names this model or alias, or only says what it wants.
    Raises what such a request would be refused with for its model's sake."""
    choosing = engine.choosing
    spec, selection = _probe(choosing, name, wants, now_ns), None
    if choosing.concerns(spec):
        selection = choosing.select(spec, now_ns)
        spec = choosing.naming(spec, selection).spec
    own = check_own(spec, engine.backends)
    if own is not None and not choosing.ways(now_ns).suits(own[0]):
        offers, retry_ns = engine.backlog.offers, engine.degradation.retry_after_ns(now_ns)
        small = offers.small_model(spec, now_ns)
        if small is None:
            raise offers.no_small_model(spec, own[0].name, retry_ns)
        because = f"{spec.model} is no small model, and the level lets only these answer"
        return Resolution(small.model.name, because, (), _rejected(selection))
    key = find_target(spec, choosing.ways(now_ns)).key
    having = (each.models.get(key) for each in engine.backends.values())
    model = next(each for each in having if each is not None)
    if selection is None:
        at = choosing.standing(spec, model, now_ns)
        return Resolution(model.name, f"{model.name}: named, {at.barred or at.words}", (), ())
    alternatives = tuple(each.name for each in selection.alternatives)
    return Resolution(model.name, selection.because, alternatives, selection.rejected)


def _rejected(selection: Selection | None) -> tuple[RejectedModel, ...]:
    return selection.rejected if selection is not None else ()


def _probe(choosing: Choosing, name: str, wants: Requirements | None, now_ns: int) -> RequestSpec:
    """A request that asks for nothing but its model. Who names one, or an alias that lists some,
    may mean any kind; else it is for an answer, unless it is for vectors."""
    alias = choosing.alias(name)
    lists = bool(name) and (alias is None or bool(alias.models))
    wanted = (wants or Requirements()).capabilities
    if alias is not None:
        wanted |= alias.wants.capabilities
    kind = RequestKind.EMBED if _EMBEDDING in wanted else RequestKind.GENERATE
    needs = _EMBEDDING if kind is RequestKind.EMBED else "completion"
    return RequestSpec(
        key=("", ""),
        fingerprint=b"",
        kind=kind,
        model=name,
        priority=PRIORITY_DEFAULT,
        criticality=Criticality.NORMAL,
        deadline_ns=now_ns + _FAR_NS,
        size_bytes=0,
        needs=frozenset() if lists else frozenset({needs}),
        wants=wants,
    )
