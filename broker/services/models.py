"""Which models there are, where, and in what state: lists answered from memory, and watched."""

from __future__ import annotations

from dataclasses import dataclass, replace

from broker.core.errors import ModelUnknown
from broker.core.requirements import Requirements
from broker.core.resolution import Resolution
from broker.models.index import ModelIndex
from broker.models.query import SourceState
from broker.runtime.clock import Clock
from broker.runtime.driver import Driver
from broker.services.model_judge import ModelJudge, ModelLore, Wanted
from broker.services.model_news import ModelNews, Watcher
from broker.services.model_views import ModelView as ModelView
from broker.services.model_views import ModelViews


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelList:
    """A page, and where it comes from. `unix_s` is the wall's clock at that moment."""

    models: tuple[ModelView, ...]
    next_token: str
    total: int
    changed_unix_ms: int
    sources: tuple[SourceState, ...]
    is_loading: bool
    unix_s: float


class ModelsService:
    """See the module."""

    def __init__(
        self,
        driver: Driver,
        index: ModelIndex,
        clock: Clock,
        lore: ModelLore,
        news: ModelNews,
    ) -> None:
        self._driver = driver
        self._index = index
        self._clock = clock
        self._lore = lore
        self._news = news
        self._views = ModelViews(index)

    @property
    def revision(self) -> int:
        """It grows with every change that watchers are told of."""
        return self._news.revision

    async def page(self, wanted: Wanted, token: str, size: int) -> ModelList:
        """Up to `size` of the models that are wanted, after those of the page that this token came
        with; "" begins. InvalidRequest where the token is none of this list's."""
        judge = ModelJudge(self._driver.snapshot(), self._lore)
        query, index = wanted.query, self._index
        changed_unix_ms = index.changed_unix_ms
        if wanted.needs_judging:  # one by one, of which the library may have very many
            query = replace(query, admits=lambda model: judge.admits(wanted, model))
            page = await index.page_in_slices(query, wanted.order, token, size)
        else:
            page = index.page(query, wanted.order, token, size)
        unix_ns = self._clock.unix_ns()
        return ModelList(
            models=self._views.of(page.models, judge),
            next_token=page.next_token,
            total=page.total,
            changed_unix_ms=changed_unix_ms,
            sources=self._index.sources(unix_ns // 1_000_000),
            is_loading=self._index.is_loading,
            unix_s=unix_ns / 1e9,
        )

    def watch(self, wanted: Wanted) -> Watcher:
        """Who wants to hear when `page` would answer otherwise. SubscribersFull, Draining."""
        return self._news.open(wanted.query)

    def unix_s(self) -> float:
        """The clock on the wall, in seconds since 1970, as backends tell when models expire."""
        return self._clock.unix_ns() / 1e9

    def get(self, name: str) -> ModelView:
        """One model. ModelUnknown with the nearest names where there is none."""
        known = self._index.get(name)
        if known is None:
            raise ModelUnknown(name, self._index.nearest(name))
        judge = ModelJudge(self._driver.snapshot(), self._lore)
        return self._views.of((known,), judge)[0]

    def resolve(self, name: str, wants: Requirements | None) -> Resolution:
        """Which model would answer a request that names this model or alias, or says only what it
        wants. Raises what such a request would be refused with."""
        return self._driver.resolve(name, wants)
