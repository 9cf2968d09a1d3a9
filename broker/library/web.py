"""The public library over the web: its list and the tags of each model, a few pages at a time.

Rules: nothing of the environment (proxies, netrc), no cookies, no redirects. Pages are read as they
come, in pieces small enough that nothing else waits. What is said not to have changed is not
fetched again. Every count and time has a limit. The answer is whole, or LibraryFailed: LibraryAway
where asking again later may help. When that is, is for others to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import structlog

from broker.core.errors import BrokerError
from broker.core.library import LibraryAway, LibraryFailed, LibraryModel, Transfer
from broker.library.fetch import Fetcher, FetchLimits, Sign
from broker.library.page_text import PageFailed
from broker.library.pages import ListedModel, ListingPage, TagsPage
from broker.library.whole import check_whole, has_shrunk, model_of

_log = structlog.get_logger(__name__)

# Models whose page of tags is gone or says nothing: so many, and this share of all, may be.
_ODD_MODELS_MAX: Final = 3
_ODD_SHARE_MAX: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class WebLimits:
    """What one answer may cost. `pages_max` counts what is asked for."""

    pages_max: int = 2_000
    concurrency: int = 2
    refresh_timeout_s: float = 900.0
    fetch: FetchLimits = field(default_factory=FetchLimits)


@dataclass(slots=True)
class _Round:
    """One answer in the making."""

    known: Mapping[str, LibraryModel]
    now: datetime
    pages_left: int
    models: dict[str, LibraryModel]
    signs: dict[str, Sign]
    odd: list[str]


class WebLibrary:
    """The library at this address ("https://ollama.com/library"). Opens no connection before it is
    asked."""

    def __init__(
        self,
        url: str,
        limits: WebLimits,
        *,
        now_ns: Callable[[], int],
        now_unix_s: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._now_unix_s = now_unix_s
        self._fetcher = Fetcher(url.rstrip("/"), limits.fetch, limits.concurrency, now_ns)
        # Of the last answer that was whole.
        self._signs: dict[str, Sign] = {}
        self._shrunk_to: int | None = None

    @property
    def name(self) -> str:
        return self._fetcher.url

    @property
    def transfer(self) -> Transfer:
        return self._fetcher.transfer

    async def models(self, known: Mapping[str, LibraryModel]) -> tuple[LibraryModel, ...]:
        """All models with their tags."""
        self._fetcher.start_anew()
        round_ = _Round(
            known=known,
            now=datetime.fromtimestamp(self._now_unix_s(), UTC),
            pages_left=self._limits.pages_max,
            models={},
            signs={},
            odd=[],
        )
        timeout_s = self._limits.refresh_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                listed = await self._list(round_)
                await self._fill(listed, round_)
        except TimeoutError as error:
            raise LibraryAway(f"{self.name} was not read within {timeout_s:g} s") from error
        return self._whole(listed, round_)

    async def close(self) -> None:
        await self._fetcher.close()

    async def _list(self, round_: _Round) -> tuple[ListedModel, ...]:
        """The list, over all of its pages."""
        found: dict[str, ListedModel] = {}
        number = 1
        while True:
            page = ListingPage(self._fetcher.path)
            query = "" if number == 1 else f"?page={number}"
            self._take_page(round_)
            if await self._fetcher.read(query, page) is None:
                raise LibraryFailed(f"{self.name}{query} is not there")
            try:
                models = page.models()
            except PageFailed as error:
                raise LibraryFailed(f"{self.name}{query}: {error}") from error
            is_news = any(each.name not in found for each in models)
            found |= {each.name: each for each in models}
            number += 1
            # A page that repeats what was there before is no page of its own.
            if not is_news or not page.has_page(number):
                return tuple(found.values())

    async def _fill(self, listed: tuple[ListedModel, ...], round_: _Round) -> None:
        """The tags of each model, by a few who share the work."""
        work = iter(listed)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._limits.concurrency):
                    group.create_task(self._work(work, round_))
        except BaseExceptionGroup as failures:
            # One failure ends the round; the others are of the same cause, or none at all.
            told = failures.split(BrokerError)[0]
            raise _first(told or failures) from None

    async def _work(self, work: Iterator[ListedModel], round_: _Round) -> None:
        for listed in work:
            known = round_.known.get(listed.name)
            sign = self._signs.get(listed.name) if known else None
            if known is not None and known.mark and known.mark == listed.mark:
                round_.models[listed.name] = known
                if sign is not None:
                    round_.signs[listed.name] = sign
                continue
            await self._tags(listed, known, sign, round_)

    async def _tags(
        self, listed: ListedModel, known: LibraryModel | None, sign: Sign | None, round_: _Round
    ) -> None:
        """The tags of one model."""
        page = TagsPage(self._fetcher.path, listed.name)
        self._take_page(round_)
        answer = await self._fetcher.read(f"/{listed.name}/tags", page, sign)
        if answer is None:
            round_.odd.append(f"{listed.name}: gone")
            return
        if answer.is_unchanged and known is not None:
            rows_of = known.variants
            round_.models[listed.name] = LibraryModel(
                name=listed.name,
                variants=rows_of,
                capabilities=listed.capabilities,
                description=listed.description,
                mark=listed.mark,
            )
        else:
            try:
                rows = page.rows()
            except PageFailed as error:
                round_.odd.append(f"{listed.name}: {error}")
                return
            round_.models[listed.name] = model_of(listed, rows, known, round_.now)
        if answer.sign is not None:
            round_.signs[listed.name] = answer.sign

    def _take_page(self, round_: _Round) -> None:
        round_.pages_left -= 1
        if round_.pages_left < 0:
            raise LibraryFailed(
                f"{self.name} has over {self._limits.pages_max} pages to read, which is"
                " [library] pages_max"
            )

    def _whole(self, listed: tuple[ListedModel, ...], round_: _Round) -> tuple[LibraryModel, ...]:
        """The answer, if it is one."""
        odd = round_.odd
        if len(odd) > max(_ODD_MODELS_MAX, _ODD_SHARE_MAX * len(listed)):
            raise LibraryFailed(
                f"{len(odd)} of {len(listed)} models of {self.name} have no tags that can be"
                f" read: {'; '.join(odd[:_ODD_MODELS_MAX])}"
            )
        if odd:
            _log.warning("models of the library are left out", library=self.name, models=odd)
        models = tuple(
            model
            for each in listed
            if (model := round_.models.get(each.name)) is not None and model.variants
        )
        check_whole(models)
        if has_shrunk(len(models), round_.known) and self._shrunk_to != len(models):
            self._shrunk_to = len(models)
            raise LibraryFailed(
                f"{self.name} lists {len(models)} models, and before {len(round_.known)}: taken"
                " for half an answer until it says so again"
            )
        self._shrunk_to = None
        self._signs = round_.signs
        return models


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure that is no group itself."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
