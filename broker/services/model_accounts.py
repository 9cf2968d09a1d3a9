"""What models are made of, and who used them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from broker.core.errors import Internal, ModelUnknown
from broker.core.model_name import comparison_key
from broker.core.ports import ModelFacts
from broker.core.usage import HOUR_MS, UsageAnswer, UsageGroup, UsageNotKept, UsageQuery, UsageRow
from broker.models.catalog import Catalog
from broker.models.dependencies import Node, family, nodes
from broker.models.usage_books import UsageBooks
from broker.runtime.clock import Clock
from broker.runtime.inquiries import Inquiries

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageAsked:
    """Which use, in the words of the wire: 0 and "" mean all."""

    since_unix_ms: int
    until_unix_ms: int
    group: UsageGroup
    model: str
    agent_id: str
    rows_max: int


class ModelAccountsService:
    """See the module. `books` None: no use is kept."""

    def __init__(
        self, driver: Inquiries, catalog: Catalog, books: UsageBooks | None, clock: Clock
    ) -> None:
        self._driver = driver
        self._catalog = catalog
        self._books = books
        self._clock = clock

    async def usage(self, asked: UsageAsked) -> UsageAnswer:
        """Sums of what was used. Nothing where none is kept."""
        if self._books is None:
            return UsageAnswer()
        now_hour = self._clock.unix_ns() // 1_000_000 // HOUR_MS
        query = UsageQuery(
            since_hour=asked.since_unix_ms // HOUR_MS,
            # What was begun is in it as a whole.
            until_hour=-(-asked.until_unix_ms // HOUR_MS) if asked.until_unix_ms else now_hour + 1,
            group=asked.group,
            model=comparison_key(asked.model) if asked.model else "",
            agent_id=asked.agent_id,
            rows_max=asked.rows_max,
        )
        try:
            answer = await self._books.ask(query)
        except UsageNotKept as error:
            _log.warning("the use of models cannot be read", problem=str(error))
            raise Internal("the use of models cannot be read; the broker's log says why") from error
        rows = tuple(self._spelled(each) for each in answer.rows)
        return UsageAnswer(
            rows=rows, kept_since_hour=answer.kept_since_hour, left_out=answer.left_out
        )

    def _spelled(self, row: UsageRow) -> UsageRow:
        """As its backend writes its name, where one still has the model."""
        name = self._catalog.spelled(row.key.model)
        return row if name is None else UsageRow(row.key._replace(model=name), row.counts)

    async def tree(self, name: str, backend: str) -> tuple[Node, ...]:
        """The models of a backend, or of all, with what they were made from; with a name only that
        one's family. BackendNotFound, and ModelUnknown, with the nearest names."""
        if backend:
            self._driver.check_backend(backend)
        on_disk = self._catalog.on_disk()
        those = {each: on_disk[each] for each in sorted(on_disk) if backend in ("", each)}
        # A large catalogue takes a moment, which the loop has not.
        found = await asyncio.to_thread(_tree, those, name)
        if name and not found:
            raise ModelUnknown(name, self._catalog.nearest(name))
        return found


def _tree(on_disk: dict[str, tuple[ModelFacts, ...]], name: str) -> tuple[Node, ...]:
    found = list[Node]()
    for backend, facts in on_disk.items():
        of_backend = nodes(backend, facts)
        found.extend(family(of_backend, name) if name else of_backend)
    return tuple(found)
