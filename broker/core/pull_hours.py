"""The hours of the day in which models may be downloaded, by the local clock."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MINUTES_A_DAY: Final = 1_440
_WINDOW: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")


@dataclass(frozen=True, slots=True)
class Hours:
    """Windows of minutes of the day, from the first up to and without the second; one whose second
    comes before its first goes over midnight. None at all: always."""

    windows: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, texts: tuple[str, ...]) -> Hours:
        """From words such as "22:00-06:00"; ValueError for others, and for an empty window."""
        return cls(tuple(_window(each) for each in texts))

    def is_open(self, minute: int) -> bool:
        """May it be downloaded in this minute of the day?"""
        return not self.windows or any(_is_in(minute, each) for each in self.windows)

    def opens_in(self, minute: int) -> int:
        """Minutes until it may; 0 where it may now."""
        if self.is_open(minute):
            return 0
        return min((first - minute) % MINUTES_A_DAY for first, _ in self.windows)

    def __str__(self) -> str:
        return ", ".join(f"{_clock(first)}-{_clock(last)}" for first, last in self.windows)


ALWAYS: Final = Hours()


def _window(text: str) -> tuple[int, int]:
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise ValueError('must be a window of hours, as "22:00-06:00" is one')
    first_h, first_min, last_h, last_min = (int(each) for each in found.groups())
    window = first_h * 60 + first_min, last_h * 60 + last_min
    if window[0] == window[1]:
        raise ValueError("must not be an empty window; without any, all day is meant")
    return window


def _is_in(minute: int, window: tuple[int, int]) -> bool:
    first, last = window
    return first <= minute < last if first < last else minute >= first or minute < last


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
