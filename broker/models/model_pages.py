"""One page of what a query found, in the order that was asked for.

A token says where a page ended: the key of its last model, after the number that the order goes by.
The model itself need not be there any more.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain, dropwhile, islice
from operator import itemgetter
from typing import Final

from broker.core.errors import FieldProblem, InvalidRequest
from broker.core.model_name import comparison_key
from broker.core.usage import ModelUse
from broker.models.known import KnownModel
from broker.models.library_rows import LibraryRows
from broker.models.local_rows import Keyed
from broker.models.planes import rows_in
from broker.models.query import IndexPage, Order

# A model by its place in the order: the number, the key, and what it is, a row where that is of the
# library.
_Placed = tuple[int, str, KnownModel | int]

_UNKNOWN_SIZE: Final = 2**63 - 1
# So few rows are sorted rather than looked for bucket by bucket.
_SORTED_MAX: Final = 2_048
_DIGITS_MAX: Final = 19  # of a size or a number of requests
_first_two: Final = itemgetter(0, 1)


class Found:
    """What a query means: models of backends, and a mask of the rows of the library."""

    def __init__(
        self, local: list[Keyed], rows: LibraryRows, mask: bytes, named: Collection[str]
    ) -> None:
        self.local = local
        self.rows = rows
        self.mask = mask
        self._named = named

    @property
    def total(self) -> int:
        return len(self.local) + self.mask.count(1)

    def model(self, found: KnownModel | int) -> KnownModel:
        """The model, where it is a row yet."""
        if isinstance(found, KnownModel):
            return found
        is_dynamic = not self._named or self.rows.key_at(found) not in self._named
        return self.rows.known(found, is_dynamic=is_dynamic)


def page_of(
    found: Found,
    order: Order,
    after_token: str,
    size: int,
    uses: Callable[[str], ModelUse],
    used: Callable[[], Iterable[str]],
) -> IndexPage:
    """Up to `size` of them. InvalidRequest for a token of another order."""
    after = _place(order, after_token)
    if order is Order.SIZE:
        placed = _by_size(found, after)
    elif order is Order.USE:
        placed = _by_use(found, after, uses, used)
    else:
        placed = _by_name(found, after[1] if after else "")
    chosen = list(islice(placed, size + 1))
    token = ""
    if len(chosen) > size > 0:
        del chosen[size:]
        number, key, _ = chosen[-1]
        token = key if order is Order.NAME else f"{abs(number)}/{key}"
    models = tuple(found.model(each) for _, _, each in chosen)
    return IndexPage(models=models, next_token=token, total=found.total)


def _place(order: Order, token: str) -> tuple[int, str] | None:
    if not token:
        return None
    number, slash, key = ("0", "/", token) if order is Order.NAME else token.partition("/")
    is_number = number.isascii() and number.isdigit() and len(number) <= _DIGITS_MAX
    if not (slash and is_number and comparison_key(key) == key):
        problem = "is no next_page_token of a list in this order"
        raise InvalidRequest((FieldProblem(field="page_token", problem=problem),))
    return (-int(number) if order is Order.USE else int(number)), key


def _by_name(found: Found, after: str) -> Iterator[_Placed]:
    local = found.local
    start = bisect_right(local, after, key=itemgetter(0)) if after else 0
    of_backends = ((0, key, model) for key, model in islice(local, start, None))
    return heapq.merge(of_backends, _rows_by_name(found, after), key=itemgetter(1))


def _rows_by_name(found: Found, after: str) -> Iterator[_Placed]:
    rows, start = found.rows, 0
    if after:
        start = rows.row_from(after)
        start += start < len(rows) and rows.key_at(start) == after
    for row in rows_in(found.mask, start):
        yield 0, rows.key_at(row), row


def _by_size(found: Found, after: tuple[int, str] | None) -> Iterator[_Placed]:
    of_backends: list[_Placed] = sorted(
        ((each.size_bytes or _UNKNOWN_SIZE, key, each) for key, each in found.local),
        key=_first_two,
    )
    placed: Iterator[_Placed] = heapq.merge(
        of_backends, _rows_by_size(found, after[0] if after else 0), key=_first_two
    )
    if after is None:
        return placed
    return dropwhile(lambda each: (each[0], each[1]) <= after, placed)


def _rows_by_size(found: Found, start: int) -> Iterator[_Placed]:
    """Those of less than `start` may be left out."""
    rows, sizes = found.rows, found.rows.by_size
    by_number: Callable[[int], int] = sizes.__getitem__
    known: Iterable[list[int]]
    if found.mask.count(1) <= _SORTED_MAX:
        known = [sorted((row for row in rows_in(found.mask) if sizes[row]), key=by_number)]
    else:
        known = (sorted(some, key=by_number) for some in sizes.ascending(found.mask, start))
    for some in known:
        for row in some:
            yield sizes[row], rows.key_at(row), row
    for row in sizes.unknown(found.mask):
        yield _UNKNOWN_SIZE, rows.key_at(row), row


def _by_use(
    found: Found,
    after: tuple[int, str] | None,
    uses: Callable[[str], ModelUse],
    used: Callable[[], Iterable[str]],
) -> Iterator[_Placed]:
    """First what was used, then all else by name."""
    local = dict(found.local)
    most: list[_Placed] = []
    for key in used():
        requests = uses(key).requests
        row = None if key in local else found.rows.find(key)
        if requests > 0 and key in local:
            most.append((-requests, key, local[key]))
        elif requests > 0 and row is not None and found.mask[row]:
            most.append((-requests, key, row))
    most.sort(key=_first_two)
    known = {key for _, key, _ in most}
    is_in_rest = after is not None and after[0] == 0
    rest = _by_name(found, after[1] if after and is_in_rest else "")
    others = (each for each in rest if each[1] not in known)
    if is_in_rest:
        return others
    first = (each for each in most if after is None or (each[0], each[1]) > after)
    return chain(first, others)
