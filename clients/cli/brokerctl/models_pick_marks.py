"""What is marked in the picker: kept by name, whatever the list shows, until it is taken. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from broker_client import Model
from brokerctl.models_pick_details import names_text
from brokerctl.one_line import one_line

# More than anybody marks by hand; each one is looked for when it leaves the list.
MARKS_MAX: Final = 100


class Marks(Collection[str]):
    """The marked models in the order of marking. One that is gone stays, and is no choice: it may
    come back, as when its backend was only away."""

    def __init__(self) -> None:
        self._models: dict[str, Model | None] = {}
        self._seen_unix_ms: dict[str, int] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._models

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    @property
    def taken(self) -> list[str]:
        """Those that are there."""
        return [name for name, model in self._models.items() if model is not None]

    @property
    def gone(self) -> list[str]:
        """Those that are not."""
        return [name for name, model in self._models.items() if model is None]

    def add(self, model: Model, seen_unix_ms: int) -> bool:
        """Marks one; False where there are as many marks as may be."""
        if len(self) >= MARKS_MAX and model.name not in self:
            return False
        self._models[model.name] = model
        self._seen_unix_ms[model.name] = seen_unix_ms
        return True

    def remove(self, name: str) -> None:
        """Takes a mark away."""
        self._models.pop(name, None)
        self._seen_unix_ms.pop(name, None)

    def clear(self) -> None:
        """Takes all away."""
        self._models.clear()
        self._seen_unix_ms.clear()

    def learn(self, name: str, model: Model | None, seen_unix_ms: int) -> str:
        """How a marked model is at that time, None: there is none. What is to be told of it, ""
        where that is nothing."""
        if name not in self or seen_unix_ms < self._seen_unix_ms[name]:
            return ""
        before = self._models[name]
        self._models[name] = model
        self._seen_unix_ms[name] = seen_unix_ms
        marked = f"{one_line(name)}, which is marked,"
        if model is None:
            return f"{marked} is gone" if before is not None else ""
        if before is None:
            return f"{marked} is back"
        if before.downloaded and not model.downloaded:
            return f"{marked} is no longer downloaded"
        return ""

    def unsure(self, listed: Iterable[str], seen_unix_ms: int) -> list[str]:
        """Those that are not on the list, though they may have changed since they were seen: only
        the broker knows whether they are gone or filtered out."""
        listed = set(listed)
        return [
            name
            for name, seen in self._seen_unix_ms.items()
            if name not in listed and seen < seen_unix_ms
        ]


def marks_text(marks: Marks, under_cursor: str) -> str:
    """What Enter would take, in one line."""
    parts = []
    if marks.taken:
        parts.append(f"Enter takes {len(marks.taken)} marked: {names_text(marks.taken)}")
    elif under_cursor and not marks.gone:
        parts.append(f"Enter takes {one_line(under_cursor)}")
    else:
        parts.append("nothing to take")
    if marks.gone:
        parts.append(f"marked but gone: {names_text(marks.gone)}")
    return "; ".join(parts)
