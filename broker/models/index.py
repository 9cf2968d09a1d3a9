"""The list of models: everything known, ready to be searched, paged and watched.

Answered from memory; nobody waits for a backend or for the library. A change takes effect as a
whole: who asks sees the list before it or after it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from broker.core.model_name import comparison_key, nearest
from broker.core.usage import ModelUse
from broker.models.known import KnownModel
from broker.models.library_query import keys_of, meant
from broker.models.library_rows import LibraryRows
from broker.models.local_rows import LocalRows
from broker.models.model_pages import Found, page_of
from broker.models.planes import mask_of, rows_in
from broker.models.query import LIBRARY as LIBRARY
from broker.models.query import Availability as Availability
from broker.models.query import Freshness as Freshness
from broker.models.query import IndexPage as IndexPage
from broker.models.query import ModelQuery as ModelQuery
from broker.models.query import Order as Order
from broker.models.query import SourceState as SourceState
from broker.models.slices import Steps, at_once, in_slices

# Of the library, so many names are compared with one that is not known.
NEAREST_CANDIDATES_MAX: Final = 256
# A name that begins like this one is likely meant.
_NEAREST_BEGINNING: Final = 3
_ADMITTED_AT_ONCE: Final = 32
# Answers that are kept until something changes: who polls a list asks for the same again and again.
ANSWERS_MAX: Final = 32

_Asked = tuple[ModelQuery, Order, str, int]


def _no_use(_: str) -> ModelUse:
    return ModelUse()


def _no_sources(_: int) -> tuple[SourceState, ...]:
    return ()


class ModelIndex:
    """See the module. `uses` says how much a model was used, by its comparison key; `used` are the
    keys of all that were used at all. `sources` tells, at a moment in milliseconds since 1970,
    where what is known comes from: the backends, then the library; `loads`, whether these are being
    asked while there is nothing yet, or nothing to go by."""

    def __init__(self, named: Iterable[str] = ()) -> None:
        """`named`: the models that the configuration names."""
        self.named = keys_of(named)
        self._local = LocalRows()
        self._library = LibraryRows()
        self._hidden = b""  # rows of the library that are on a backend
        self._answers: OrderedDict[_Asked, IndexPage] = OrderedDict()
        self._callbacks: list[Callable[[], None]] = []
        # When it changed last, in milliseconds since 1970; it grows with every change. 0: never.
        self.changed_unix_ms = 0
        self.uses: Callable[[str], ModelUse] = _no_use
        self.used: Callable[[], Iterable[str]] = tuple
        self.sources: Callable[[int], tuple[SourceState, ...]] = _no_sources
        self.loads: Callable[[], bool] = bool

    def replace(
        self,
        unix_ms: int,
        *,
        local: Iterable[KnownModel] | None = None,
        library: LibraryRows | None = None,
    ) -> None:
        """From now on backends have these, and the library those; None: as before."""
        if library is not None:
            self._library = library
        if local is not None:
            self._local = LocalRows(local)
        rows = self._library
        found = (rows.find(each) for each in self._local.by_key)
        self._hidden = mask_of((each for each in found if each is not None), len(rows))
        self._answers.clear()
        self.changed_unix_ms = max(self.changed_unix_ms + 1, unix_ms)
        for each in self._callbacks:
            each()

    def on_change(self, callback: Callable[[], None]) -> None:
        """It is called once for each change, when that is whole."""
        self._callbacks.append(callback)

    def __len__(self) -> int:
        return self.downloaded + self.downloadable

    @property
    def downloaded(self) -> int:
        """How many models backends have."""
        return len(self._local)

    @property
    def downloadable(self) -> int:
        """How many others could be downloaded."""
        return self._hidden.count(0)

    @property
    def is_loading(self) -> bool:
        """See `loads`."""
        return self.loads()

    def local(self) -> tuple[KnownModel, ...]:
        """All that backends have, in order of the names."""
        return tuple(self._local.by_key.values())

    @property
    def library(self) -> LibraryRows:
        """What the library told."""
        return self._library

    def get(self, name: str) -> KnownModel | None:
        """The model of this name, or None."""
        key = comparison_key(name)
        model = self._local.by_key.get(key)
        if model is not None:
            return model
        row = self._library.find(key)
        return None if row is None else self._known(row)

    def _known(self, row: int) -> KnownModel:
        is_dynamic = not self.named or self._library.key_at(row) not in self.named
        return self._library.known(row, is_dynamic=is_dynamic)

    def nearest(self, name: str) -> tuple[str, ...]:
        """Up to three names that look most like this one; of the library only such that begin like
        it, as its names are many."""
        names = [each.name for each in self._local.by_key.values()]
        start = self._library.row_from(comparison_key(name)[:_NEAREST_BEGINNING] + ":")
        rows = range(start, min(start + NEAREST_CANDIDATES_MAX, len(self._library)))
        return nearest(name, [*names, *map(self._library.name_at, rows)])

    def page(self, query: ModelQuery, order: Order, after_token: str, size: int) -> IndexPage:
        """Up to `size` of those that the query means, after those of the page that this token came
        with; "" begins. InvalidRequest where it came with none of this order."""
        if query.admits is not None or order is Order.USE:  # another answer at each moment
            return at_once(self._page(query, order, after_token, size))
        asked = (query, order, after_token, size)
        page = self._answers.get(asked)
        if page is None:
            page = self._answers[asked] = at_once(self._page(*asked))
            if len(self._answers) > ANSWERS_MAX:
                self._answers.popitem(last=False)
        return page

    async def page_in_slices(
        self, query: ModelQuery, order: Order, after_token: str, size: int
    ) -> IndexPage:
        """The same, of the list as it is now, with the loop's other work in between where it takes
        long: where `admits` has to judge very many, or words are many."""
        return await in_slices(self._page(query, order, after_token, size), pause_s=0)

    def _page(
        self, query: ModelQuery, order: Order, after_token: str, size: int
    ) -> Steps[IndexPage]:
        rows = self._library  # as it is now, whatever comes while this goes on
        wants = query.availability
        mask = bytes(len(rows))
        if wants is not Availability.DOWNLOADED and len(rows):
            mask = yield from meant(rows, query, self._hidden, self.named)
            if query.admits is not None:
                mask = yield from self._admitted(rows, mask, query.admits)
        local = [] if wants is Availability.DOWNLOADABLE else self._local.meant(query)
        found = Found(local, rows, mask, self.named)
        return page_of(found, order, after_token, size, self.uses, self.used)

    def _admitted(
        self, rows: LibraryRows, mask: bytes, admits: Callable[[KnownModel], bool]
    ) -> Steps[bytes]:
        left = bytearray(mask)
        for count, row in enumerate(rows_in(mask)):
            is_dynamic = not self.named or rows.key_at(row) not in self.named
            left[row] = admits(rows.known(row, is_dynamic=is_dynamic))
            if not count % _ADMITTED_AT_ONCE:
                yield
        return bytes(left)
