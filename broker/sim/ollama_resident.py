"""What is loaded on a simulated Ollama: one resident per model file, who uses it, until when.

Rules: the key is the file, not the name. Keep-alive runs from the end of the last request. The one
to evict is the idle one with the shortest keep-alive, ties by the file's path; if none is idle, the
first of that order. Sources: reference/OLLAMA.md §1.6, §3.1, §3.4; recordings 63_, 64_, 81_.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from broker.sim.ollama_machine import KEEP_FOREVER_NS, Sizing
from broker.sim.ollama_model_card import SimModel
from broker.sim.ollama_reminders import Reminder
from broker.sim.ollama_runner import Runner
from broker.sim.ollama_work import ExchangeId


def keep_alive_of(asked_ns: int) -> int:
    """A keep-alive as Ollama stores it: anything negative is for ever."""
    return KEEP_FOREVER_NS if asked_ns < 0 else min(asked_ns, KEEP_FOREVER_NS)


@dataclass(slots=True, kw_only=True, eq=False)
class Resident:
    """A loaded model. `users` are the open requests that were handed this runner."""

    model: SimModel  # as it was under the name that loaded it
    size: Sizing
    runner: Runner
    keep_alive_ns: int
    size_bytes: int
    vram_bytes: int
    port: int
    users: set[ExchangeId] = field(default_factory=set)
    expires_ns: int | None = None  # None until it was idle or asked to unload
    timer: Reminder | None = None
    victim: bool = False  # chosen for eviction
    checked_by: ExchangeId | None = None  # whose health check holds its lock
    check: Reminder | None = None
    behind_check: deque[ExchangeId] = field(default_factory=deque)

    @property
    def idle(self) -> bool:
        return not self.users

    @property
    def silent(self) -> bool:
        """Whether a health check gets no answer (a dead runner refuses, a frozen one is mute)."""
        return self.runner.frozen_at_ns is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PsRow:
    """One entry of /api/ps. `expires_at_ns` is of the server's clock and may lie in the past."""

    name: str  # the name that loaded it
    model: SimModel
    digest: str
    size: int
    size_vram: int
    expires_at_ns: int
    context_length: int


class Residents:
    """The loaded map."""

    def __init__(self) -> None:
        self._by_blob: dict[str, Resident] = {}

    def __len__(self) -> int:
        return len(self._by_blob)

    def __iter__(self) -> Iterator[Resident]:
        return iter(tuple(self._by_blob.values()))

    def of(self, blob: str) -> Resident | None:
        return self._by_blob.get(blob)

    def holds(self, resident: Resident) -> bool:
        return self._by_blob.get(resident.model.blob) is resident

    def add(self, resident: Resident) -> None:
        self._by_blob[resident.model.blob] = resident

    def remove(self, resident: Resident) -> None:
        del self._by_blob[resident.model.blob]

    def victim(self) -> Resident | None:
        """Whom sched.go:findRunnerToUnload picks; None if nothing is loaded."""
        ordered = sorted(self._by_blob.values(), key=lambda r: (r.keep_alive_ns, r.model.blob))
        return next((resident for resident in ordered if resident.idle), next(iter(ordered), None))

    def vram_bytes(self) -> int:
        return sum(resident.vram_bytes for resident in self._by_blob.values())

    def rows(self, now_ns: int) -> tuple[PsRow, ...]:
        """What ps lists, latest expiry first. A model that loads is not there yet."""
        rows = [
            PsRow(
                name=resident.model.name,
                model=resident.model,
                digest=resident.model.digest,
                size=resident.size_bytes,
                size_vram=resident.vram_bytes,
                expires_at_ns=now_ns + resident.keep_alive_ns
                if resident.expires_ns is None
                else resident.expires_ns,
                context_length=resident.size.num_ctx,
            )
            for resident in self._by_blob.values()
        ]
        return tuple(sorted(rows, key=lambda row: -row.expires_at_ns))

    def check_end_ns(self) -> int | None:
        """When the health checks that hold locks now are over at the latest, if there are any."""
        return max((r.check.at_ns for r in self._by_blob.values() if r.check), default=None)
