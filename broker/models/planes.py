"""Which of many rows: a byte per row, 1 where it is meant, worked on in C as a whole.

A mask is `bytes` as long as there are rows; two are joined as large numbers. A plane is a mask of
small numbers instead: `translate` turns it into the mask of those that are wanted.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from broker.models.slices import Steps

BYTES: Final = 256
_TURNED: Final = bytes([1, 0]) + bytes(BYTES - 2)

# So many values are looked at to find where to divide them.
_SAMPLE_MAX: Final = 4_096
_BUCKETS_MAX: Final = 250
_STEP_ROWS: Final = 256
_DOUBTFUL: Final = 2
_LAST: Final = 2**63 - 1  # no number is larger


def as_number(mask: bytes) -> int:
    """To be joined with others, by & where both are to be 1 and | where one of them."""
    return int.from_bytes(mask, "little")


def as_mask(number: int, count: int) -> bytes:
    """Of so many rows."""
    return number.to_bytes(count, "little")


def both(one: bytes, other: bytes) -> bytes:
    """Where both are 1."""
    return as_mask(as_number(one) & as_number(other), len(one))


def turned(mask: bytes) -> bytes:
    """Where it is 0."""
    return mask.translate(_TURNED)


def mask_of(rows: Iterable[int], count: int) -> bytes:
    """1 in these rows."""
    mask = bytearray(count)
    for row in rows:
        mask[row] = 1
    return bytes(mask)


def rows_in(mask: bytes, start: int = 0, wanted: int = 1) -> Iterator[int]:
    """The rows that are `wanted` from `start` on, in their order."""
    row = mask.find(wanted, start)
    while row >= 0:
        yield row
        row = mask.find(wanted, row + 1)


class Numbers:
    """A number per row, 0 where it is not known, for questions of at most and at least.

    Rows lie in buckets by their number. A question is decided for whole buckets, and row by row
    only in the one that its limit divides."""

    def __init__(
        self, values: Sequence[int], tops: list[int], lowest: list[int], plane: bytes
    ) -> None:
        self._values = values
        self._tops = tops  # no number of a bucket is larger; 0 is alone in the first
        self._lowest = lowest  # number of each bucket
        self._plane = plane

    @staticmethod
    def of(values: array[int]) -> Steps[Numbers]:
        """`values` must not be changed any more."""
        tops = _tops(values)
        lowest = list(tops)
        plane = bytearray(len(values))
        for start in range(0, len(values), _STEP_ROWS):
            some = values[start : start + _STEP_ROWS]
            buckets = bytes([bisect_left(tops, each) for each in some])
            plane[start : start + len(some)] = buckets
            for bucket, value in zip(buckets, some, strict=True):
                if value < lowest[bucket]:
                    lowest[bucket] = value
            yield
        return Numbers(values, tops, lowest, bytes(plane))

    def __getitem__(self, row: int) -> int:
        return self._values[row]

    def at_most(self, limit: int) -> bytes:
        """Where it is known, and no more than this."""
        divided = bisect_left(self._tops, limit)
        table = bytearray(BYTES)
        table[1:divided] = b"\1" * max(0, divided - 1)
        if self._lowest[divided] <= limit and divided:
            table[divided] = 1 if self._tops[divided] == limit else _DOUBTFUL
        return self._decided(table, lambda value: value <= limit)

    def at_least(self, limit: int) -> bytes:
        """Where it is known, and no less than this."""
        divided = max(1, bisect_left(self._tops, limit))
        table = bytearray(BYTES)
        table[divided:] = b"\1" * (BYTES - divided)
        if self._lowest[divided] < limit:
            table[divided] = _DOUBTFUL
        return self._decided(table, lambda value: value >= limit)

    def _decided(self, table: bytearray, holds: Callable[[int], bool]) -> bytes:
        mask = self._plane.translate(table)
        if _DOUBTFUL not in table:
            return mask
        judged = bytearray(mask)
        values = self._values
        for row in rows_in(mask, wanted=_DOUBTFUL):
            judged[row] = holds(values[row])
        return bytes(judged)

    def ascending(self, mask: bytes, start: int) -> Iterator[list[int]]:
        """The rows of the mask whose number is known and at least `start`, some at a time: no
        number of a later list is less than one of an earlier."""
        for bucket in range(bisect_left(self._tops, max(1, start)), len(self._tops)):
            table = bytearray(BYTES)
            table[bucket] = 1
            rows = list(rows_in(both(self._plane.translate(table), mask)))
            if rows:
                yield rows

    def unknown(self, mask: bytes) -> Iterator[int]:
        """The rows of the mask whose number is not known."""
        return rows_in(both(self._plane.translate(_TURNED), mask))


def _tops(values: array[int]) -> list[int]:
    """Where to divide them, so that buckets are of like size and a frequent number has its own."""
    sample = sorted(each for each in values[:: len(values) // _SAMPLE_MAX + 1] if each)
    step = len(sample) // (_BUCKETS_MAX // 2) + 1
    tops = {0, _LAST}
    for index in range(0, len(sample), step):
        value = sample[index]
        tops.add(value)
        if index + step < len(sample) and sample[index + step] == value:
            tops.add(sample[max(0, bisect_left(sample, value) - 1)])
    return sorted(tops)
