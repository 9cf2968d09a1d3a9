"""What is wrong with a file that a workload comes from: each problem with its place.

Rules: lines and columns count from 1, columns in characters; 0 where there is none to name, as
where the whole file is meant. A file's problems are told together, in order, up to PROBLEMS_MAX.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

PROBLEMS_MAX: Final = 100
_SHOWN_LENGTH_MAX: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong. `path` is the setting's, as TOML writes it; "" in a trace."""

    source: str
    line: int = 0
    column: int = 0
    path: str = ""
    text: str

    def __str__(self) -> str:
        place = [str(each) for each in (self.line, self.column) if each]
        return ": ".join(part for part in (":".join([self.source, *place]), self.path) if part) + (
            f": {self.text}"
        )


class WorkloadProblems(Exception):
    """The file cannot be used. `problems` are the first PROBLEMS_MAX, `more` how many follow."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        found = sorted(problems, key=lambda each: (each.source, each.line, each.column))
        self.problems = tuple(found[:PROBLEMS_MAX])
        self.more = len(found) - len(self.problems)
        lines = [str(each) for each in self.problems]
        super().__init__("\n".join([*lines, f"and {self.more} more"] if self.more else lines))


def shown(value: object) -> str:
    """A value as a problem shows it: cut where it is long, and no terminal obeys it."""
    text = ascii(value)
    return text if len(text) <= _SHOWN_LENGTH_MAX else f"{text[:_SHOWN_LENGTH_MAX]}..."
