"""Durations as people type them: "90s", "10m", "2h"."""

from __future__ import annotations

import re
from typing import Final

import click

SECONDS_OF: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
# As the broker has it; said here as well, in the unit that was typed.
DAYS_MAX: Final = 30
WRITTEN: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)


class Duration(click.ParamType[float]):
    """Converts to seconds, fractions kept: more than 0 and at most so many days."""

    name = "duration"

    def __init__(self, days_max: int = DAYS_MAX) -> None:
        self.days_max = days_max

    def convert(
        self,
        value: str | float,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Seconds; fails with a sentence where it is no duration, or one that cannot be meant."""
        if isinstance(value, float):  # click converts a default twice
            return value
        written = WRITTEN.fullmatch(value)
        if written is None:
            self.fail(f"{value!r} is no duration; say 90s, 10m, 2h or 1d", param, ctx)
        seconds = float(written[1]) * SECONDS_OF[written[2]]
        # The wire counts milliseconds, and has 0 for "no end".
        if not 0.001 <= seconds <= self.days_max * SECONDS_OF["d"]:
            longest = f"{self.days_max}d"
            self.fail(f"{value!r} must be more than nothing and at most {longest}", param, ctx)
        return seconds
