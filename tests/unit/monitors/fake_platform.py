"""A machine as psutil would tell of it, led by a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import psutil

GIB = 2**30
OWN_PID = 1000
CORES = 4


@dataclass
class Row:
    """A process that runs."""

    pid: int
    name: str
    parent_pid: int = 1
    created: float = 0.0
    cpu_s: float = 0.0
    rss: int = 0
    shared: int = 0
    error: Exception | None = None  # what reading it raises


class FakeProcess:
    """What psutil.Process is: a number and the moment of its creation."""

    def __init__(self, platform: FakePlatform, pid: int) -> None:
        self._platform = platform
        self.pid = pid
        self._created = self._row().created

    def _row(self) -> Row:
        self._platform.looks += 1
        row = self._platform.rows.get(self.pid)
        if row is None:
            raise psutil.NoSuchProcess(self.pid)
        if row.error is not None:
            raise row.error
        return row

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FakeProcess) and (self.pid, self._created) == (
            other.pid,
            other._created,
        )

    def __hash__(self) -> int:
        return hash((self.pid, self._created))

    @contextmanager
    def oneshot(self) -> Iterator[None]:
        yield

    def is_running(self) -> bool:
        row = self._platform.rows.get(self.pid)
        return row is not None and row.created == self._created

    def name(self) -> str:
        return self._row().name

    def ppid(self) -> int:
        return self._row().parent_pid

    def parents(self) -> list[FakeProcess]:
        found, row = [], self._row()
        while row.parent_pid in self._platform.rows:
            row = self._platform.rows[row.parent_pid]
            found.append(FakeProcess(self._platform, row.pid))
        return found

    def cpu_times(self) -> Any:
        return SimpleNamespace(user=self._row().cpu_s, system=0.0)

    def memory_info(self) -> Any:
        row = self._row()
        return SimpleNamespace(rss=row.rss, shared=row.shared)


@dataclass
class FakePlatform:
    """The functions of psutil that the monitors call, and the clock. Sixteen GiB, four cores."""

    rows: dict[int, Row] = field(default_factory=dict)
    now_ns: int = 0
    busy_s: float = 0.0
    idle_s: float = 0.0
    total: int = 16 * GIB
    available: int = 12 * GIB
    swapped_in: int = 0
    swap_used: int = 0
    error: Exception | None = None  # what the counters of the whole host raise
    looks: int = 0  # at single processes

    def __post_init__(self) -> None:
        self.run(Row(OWN_PID, "brokerd"))

    def run(self, row: Row) -> Row:
        self.rows[row.pid] = row
        return row

    def pass_time(self, seconds: float, *, busy: float, **spent_s: float) -> None:
        """Time goes by; `busy` is the share of all cores. `spent_s`: by process, "p20" of pid 20,
        in seconds of one core."""
        self.now_ns += int(seconds * 1e9)
        self.busy_s += seconds * CORES * busy
        self.idle_s += seconds * CORES * (1 - busy)
        for name, each_s in spent_s.items():
            self.rows[int(name[1:])].cpu_s += each_s

    # As psutil has them

    def monotonic_ns(self) -> int:
        return self.now_ns

    def Process(self, pid: int) -> FakeProcess:
        return FakeProcess(self, pid)

    def pids(self) -> list[int]:
        return list(self.rows)

    def cpu_count(self) -> int:
        return CORES

    def cpu_times(self) -> Any:
        if self.error is not None:
            raise self.error
        # guest is a part of user, which is told twice: as Linux does
        return _Times(user=self.busy_s, idle=self.idle_s, iowait=0.0, guest=self.busy_s / 2)

    def virtual_memory(self) -> Any:
        return SimpleNamespace(total=self.total, available=self.available)

    def swap_memory(self) -> Any:
        return SimpleNamespace(total=GIB, used=self.swap_used, sin=self.swapped_in)


class _Times(tuple[float, ...]):
    """A tuple with names, as psutil's are."""

    user: float
    idle: float
    iowait: float
    guest: float

    def __new__(cls, **fields: float) -> _Times:
        made = super().__new__(cls, fields.values())
        for name, value in fields.items():
            setattr(made, name, value)
        return made
