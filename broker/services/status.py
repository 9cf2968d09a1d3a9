"""The present state of everything, for operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from broker.core.ports import Backend
from broker.core.requests import RequestKey
from broker.core.snapshot import Snapshot
from broker.runtime.driver import Driver


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendIdentity:
    """What does not change with every turn: where a backend is and what it says it is."""

    kind: str
    url: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A snapshot of the engine and what it does not know itself."""

    version: str
    uptime_ns: int
    snapshot: Snapshot
    backends: Mapping[str, BackendIdentity]
    pieces: Mapping[RequestKey, int]


class StatusService:
    """Reads; the one thing it starts is a drain."""

    def __init__(
        self,
        driver: Driver,
        backends: Mapping[str, Backend],
        versions: Callable[[], Mapping[str, str]],
        version: str,
        stop: Callable[[int | None], int],
    ) -> None:
        self._driver = driver
        self._backends = backends
        self._versions = versions
        self._version = version
        self._stop = stop
        self._started_ns = driver.now_ns()

    def status(self, requests_max: int = 0) -> Status:
        """Everything at this moment, with the oldest `requests_max` requests under way."""
        snapshot = self._driver.snapshot(requests_max)
        versions = self._versions()
        return Status(
            version=self._version,
            uptime_ns=snapshot.at_ns - self._started_ns,
            snapshot=snapshot,
            backends={
                name: BackendIdentity(kind=each.kind, url=each.url, version=versions.get(name, ""))
                for name, each in self._backends.items()
            },
            pieces={each.key: self._driver.pieces_count(each.key) for each in snapshot.requests},
        )

    def drain(self, timeout_ms: int | None) -> tuple[Snapshot, int]:
        """Begins to leave. The state at that moment, and the milliseconds that work may take."""
        granted_ms = self._stop(timeout_ms)
        return self._driver.snapshot(), granted_ms
