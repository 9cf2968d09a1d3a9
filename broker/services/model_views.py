"""Models as they are shown: what the list knows of each, and what only the broker as a whole can
tell.

Lists are long and change little. A view is kept while nothing has changed that it is made of; of
what is in memory or was used it is made anew each time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from broker.core.model_sizes import MemoryNeed
from broker.core.usage import ModelUse
from broker.models.index import ModelIndex
from broker.models.known import KnownModel
from broker.services.model_judge import ModelJudge, ModelPlace

KEPT_MAX: Final = 2_048
PAGES_MAX: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """A model and all its places, with what only a look at the broker as a whole can tell:
    `memory` that it takes, the usual context first; whether it `fits` some backend, None where that
    is not known; whether it is of the `small` class."""

    known: KnownModel
    places: tuple[ModelPlace, ...]
    memory: tuple[MemoryNeed, ...]
    fits: bool | None
    small: bool
    use: ModelUse
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """Views that were made together: of none in memory, and none that was used."""

    models: tuple[KnownModel, ...]
    keys: frozenset[str]
    runners: frozenset[tuple[str, str]]
    views: tuple[ModelView, ...]


class ModelViews:
    """See the module."""

    def __init__(self, index: ModelIndex) -> None:
        self._index = index
        self._kept: dict[str, ModelView] = {}
        self._pages: OrderedDict[int, _Page] = OrderedDict()  # by the identity of their models
        self._around: object = None  # what all of these were made in

    def of(self, models: tuple[KnownModel, ...], judge: ModelJudge) -> tuple[ModelView, ...]:
        """The views of these, in their order, at the judge's moment: of the same page the very same
        ones, as long as nothing has changed."""
        if judge.around != self._around or len(self._kept) > KEPT_MAX:
            self._kept.clear()
            self._pages.clear()
            self._around = judge.around
        page = self._pages.get(id(models))
        if page is not None and page.models is models and self._holds(page, judge):
            return page.views
        views = tuple([self._view(each, judge) for each in models])
        page = _Page(
            models=models,
            keys=frozenset([each.key for each in models]),
            runners=frozenset([pair for each in models for pair in each.runners.items()]),
            views=views,
        )
        if self._holds(page, judge):
            self._pages[id(models)] = page
            if len(self._pages) > PAGES_MAX:
                self._pages.popitem(last=False)
        return views

    def _holds(self, page: _Page, judge: ModelJudge) -> bool:
        return judge.holds_none(page.runners) and page.keys.isdisjoint(self._index.used())

    def _view(self, known: KnownModel, judge: ModelJudge) -> ModelView:
        needs, use = judge.needs(known), self._index.uses(known.key)
        if use.requests or use.loads or judge.is_held(known):
            return _made(known, needs, use, judge)
        kept = self._kept.get(known.key)
        if kept is None or kept.known is not known or kept.memory != needs:
            kept = self._kept[known.key] = _made(known, needs, use, judge)
        return kept


def _made(
    known: KnownModel, needs: tuple[MemoryNeed, ...], use: ModelUse, judge: ModelJudge
) -> ModelView:
    places = judge.places(known)
    return ModelView(
        known=known,
        places=places,
        memory=needs,
        fits=judge.fits(known, needs, places),
        small=judge.is_small(known),
        use=use,
        aliases=judge.aliases(known, needs),
    )
