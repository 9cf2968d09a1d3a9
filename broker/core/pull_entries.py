"""What of a download is kept over a restart of the broker, and who keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class PullEntry:
    """A download that is not over. `is_urgent`: it runs whatever the hours. `total_bytes` 0: not
    known."""

    name: str
    backend: str
    agent_id: str = ""
    asked_unix_ms: int = 0
    is_urgent: bool = False
    completed_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PullsState:
    """Downloads at one moment: how many wait and run; since start how they ended, and what came."""

    waiting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    fetched_bytes: int = 0


class PullStore(Protocol):
    """Keeps the list of downloads. Neither method raises: who cannot keep it goes on without."""

    def read(self) -> tuple[PullEntry, ...]:
        """What was last written; to be asked once, before anything is written."""
        ...

    async def write(self, entries: Sequence[PullEntry]) -> None:
        """From now on these; they are on the disk when this returns."""
        ...
