"""What a simulated Ollama did, for tests and for the figures of a bench.

Rules: counters are for ever, the log keeps the newest entries only. Nothing reads it to decide.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from enum import Enum

from broker.sim.ollama_work import ExchangeId


class LogKind(Enum):
    QUEUED = "queued"  # waits for the loader
    REFUSED = "refused"  # the loader's queue was full
    DROPPED = "dropped"  # its client had left when the loader came to it
    VICTIM = "victim"  # chosen to make room, or to be restarted
    SPAWNED = "spawned"  # a runner process was started
    ABORTED = "aborted"  # its load was given up because its owner left
    LOAD_FAILED = "load_failed"
    LOADED = "loaded"
    UNLOADED = "unloaded"
    KILLED = "killed"  # a runner died
    SLOT_LOST = "slot_lost"  # until the model is unloaded


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    at_ns: int
    kind: LogKind
    model: str
    exchange: ExchangeId | None


_LOAD_OVER = (LogKind.LOADED, LogKind.ABORTED, LogKind.LOAD_FAILED)


class Ledger:
    def __init__(self, entries_max: int) -> None:
        self.runner_starts = 0
        self._loaded_ns = 0  # in loads that are over
        self._loads_since_ns: int | None = None
        self.loads_by_model: Counter[str] = Counter()
        self.counts: Counter[LogKind] = Counter()
        self.entries: deque[LogEntry] = deque(maxlen=entries_max)

    def note(
        self, kind: LogKind, model: str, at_ns: int, exchange: ExchangeId | None = None
    ) -> None:
        self.counts[kind] += 1
        if kind is LogKind.SPAWNED:
            self.runner_starts += 1
        elif kind is LogKind.LOADED:
            self.loads_by_model[model] += 1
        if kind is LogKind.SPAWNED and self._loads_since_ns is None:
            self._loads_since_ns = at_ns
        elif kind in _LOAD_OVER and self._loads_since_ns is not None:
            self._loaded_ns += at_ns - self._loads_since_ns
            self._loads_since_ns = None
        self.entries.append(LogEntry(at_ns=at_ns, kind=kind, model=model, exchange=exchange))

    def loading_ns(self, now_ns: int) -> int:
        """For how long a load was under way; there is one at a time at most."""
        under_way_ns = 0 if self._loads_since_ns is None else now_ns - self._loads_since_ns
        return self._loaded_ns + under_way_ns
