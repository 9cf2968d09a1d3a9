"""Which processes of this host are a local Ollama's: its servers and the runners they start.

Looking at every process is dear, so that is done seldom. In between the list of process ids, which
is cheap, says what is new, and only that is looked at: a runner counts from its first sample on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import psutil

# Whatever these start is theirs too: `llama-server` and its like. The second is what runners were
# called before Ollama 0.3; one of those may outlive its server.
OLLAMA_NAMES: Final = frozenset({"ollama", "ollama_llama_server"})

# Between two looks at every process. They find what is new but was not Ollama yet when it appeared:
# a shell that becomes `ollama` by exec after a while.
SCAN_INTERVAL_NS: Final = 30_000_000_000

# Processes on GPUs of which is remembered whose they are.
ASKED_MAX: Final = 1_024


@dataclass(frozen=True, slots=True, eq=False)
class ModelProcess:
    """A process of a local Ollama. `is_newborn`: it began after the look before, so that all the
    processor time it has had is of the time since then."""

    process: Any  # psutil.Process
    is_newborn: bool

    @property
    def pid(self) -> int:
        return int(self.process.pid)


@dataclass(frozen=True, slots=True)
class _Row:
    process: Any
    parent_pid: int
    is_root: bool


class ModelProcesses:
    """See the module. May be used by several threads. `platform` is psutil, or what stands in for
    it in a test."""

    def __init__(
        self,
        monotonic_ns: Callable[[], int],
        own_pid: int | None = None,
        platform: Any = psutil,
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._platform = platform
        self._own = ModelProcess(platform.Process(own_pid or os.getpid()), is_newborn=False)
        self._lock = threading.Lock()
        self._known: dict[int, ModelProcess] = {}
        self._pids: frozenset[int] = frozenset()
        self._scanned_ns: int | None = None
        self._asked: dict[int, tuple[Any, str, bool]] = {}

    @property
    def own(self) -> ModelProcess:
        """The broker itself."""
        return self._own

    def look(self) -> tuple[ModelProcess, ...]:
        """Those that run now."""
        with self._lock:
            gone = [pid for pid, each in self._known.items() if not _runs(each.process)]
            for pid in gone:
                del self._known[pid]
            pids = frozenset(self._platform.pids())
            now_ns, scanned_ns = self._monotonic_ns(), self._scanned_ns
            newborn = pids - self._pids if scanned_ns is not None else frozenset()
            # One that is gone may have left its number to another, which then is not new.
            if gone or scanned_ns is None or now_ns - scanned_ns >= SCAN_INTERVAL_NS:
                self._scanned_ns = now_ns
                self._adopt(self._rows(pids - self._known.keys()), newborn)
            else:
                self._adopt(self._rows(newborn), newborn)
            self._pids = pids
            return tuple(self._known.values())

    def _rows(self, pids: Iterable[int]) -> dict[int, _Row]:
        """What is found of these. A process that ends while it is read, or that may not be read, is
        none of ours to know."""
        rows = {}
        for pid in sorted(pids):
            try:
                process = self._platform.Process(pid)
                with process.oneshot():
                    is_root = process.name() in OLLAMA_NAMES
                    rows[pid] = _Row(process, process.ppid(), is_root)
            except (psutil.Error, OSError):
                continue
        return rows

    def _adopt(self, rows: dict[int, _Row], newborn: frozenset[int]) -> None:
        """Takes Ollama's own, then their children, and theirs, until there is no more."""
        found = True
        while found:
            found = False
            for pid, row in list(rows.items()):
                if row.is_root or row.parent_pid in self._known:
                    self._known[pid] = ModelProcess(row.process, is_newborn=pid in newborn)
                    del rows[pid]
                    found = True

    def whose(self, pid: int) -> tuple[str, bool]:
        """The name of a process that a GPU tells of, and whether it is Ollama's. ("", False) for
        one that cannot be seen, in another container for instance."""
        try:
            process = self._platform.Process(pid)
            asked = self._asked.get(pid)
            if asked is not None and asked[0] == process:
                return asked[1], asked[2]
            name = str(process.name())
            family = [name, *(each.name() for each in process.parents())]
        except (psutil.Error, OSError):
            self._asked.pop(pid, None)
            return "", False
        is_ours = any(each in OLLAMA_NAMES for each in family)
        if len(self._asked) >= ASKED_MAX:
            self._asked.clear()
        self._asked[pid] = process, name, is_ours
        return name, is_ours


def _runs(process: Any) -> bool:
    """Is it still there, and not another one under its number?"""
    try:
        return bool(process.is_running())
    except (psutil.Error, OSError):
        return False
