"""The present state of everything, for operators."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from broker.core.errors import Draining
from broker.core.level import Level
from broker.core.model_list import ListState
from broker.core.pace import Pace, Waits, Work
from broker.core.ports import Backend
from broker.core.requests import RequestKey
from broker.core.snapshot import Snapshot
from broker.core.views import AlertView, LevelView
from broker.runtime.clock import Clock
from broker.runtime.driver import Driver


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendIdentity:
    """What does not change with every turn: where a backend is and what it says it is.
    `down_since_ns`, of the engine's clock: since when it was asked and did not answer, None where
    it did when it was last asked."""

    kind: str
    url: str
    version: str
    down_since_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A snapshot of the engine and what it does not know itself. `tokens_per_s` has the requests
    that have given two tokens at least; `unix_s` is the wall's clock at that moment."""

    version: str
    uptime_ns: int
    unix_s: float
    snapshot: Snapshot
    level: LevelView
    waits: Waits
    work: Work
    alerts: tuple[AlertView, ...]
    backends: Mapping[str, BackendIdentity]
    pieces: Mapping[RequestKey, int]
    tokens_per_s: Mapping[RequestKey, float]
    model_list: ListState


class StatusService:
    """Reads; what it starts is a drain, or another level.

    `pace` tells how fast work goes, `alerts` which fire, `model_list` how well it is known which
    models there are. `stop` begins to leave.
    """

    def __init__(
        self,
        driver: Driver,
        clock: Clock,
        backends: Mapping[str, Backend],
        versions: Callable[[], Mapping[str, str]],
        down_since_ns: Callable[[], Mapping[str, int]],
        version: str,
        pace: Pace,
        alerts: Callable[[], tuple[AlertView, ...]],
        model_list: Callable[[], ListState],
        stop: Callable[[int | None], int],
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._backends = backends
        self._versions = versions
        self._down_since_ns = down_since_ns
        self._version = version
        self._pace = pace
        self._alerts = alerts
        self._model_list = model_list
        self._stop = stop
        self._started_ns = driver.now_ns()

    def status(self, requests_max: int = 0) -> Status:
        """Everything at this moment, with the oldest `requests_max` requests under way."""
        snapshot = self._driver.snapshot(requests_max)
        work = self._pace.work()
        versions, down_since_ns = self._versions(), self._down_since_ns()
        return Status(
            version=self._version,
            uptime_ns=snapshot.at_ns - self._started_ns,
            unix_s=self._clock.unix_ns() / 1e9,
            snapshot=snapshot,
            level=self._driver.level(),
            waits=self._pace.waits(snapshot.at_ns),
            work=work,
            alerts=self._alerts(),
            backends={
                name: BackendIdentity(
                    kind=each.kind,
                    url=each.url,
                    version=versions.get(name, ""),
                    down_since_ns=down_since_ns.get(name),
                )
                for name, each in self._backends.items()
            },
            pieces={each.key: self._driver.pieces_count(each.key) for each in snapshot.requests},
            tokens_per_s=self._rates(work, snapshot.at_ns),
            model_list=self._model_list(),
        )

    def _rates(self, work: Work, now_ns: int) -> dict[RequestKey, float]:
        """The first token begins the time that the others took; a piece is about a token."""
        rates = {}
        for key, since_ns in work.streaming_since_ns.items():
            later = self._driver.pieces_count(key) - 1
            if later > 0 and now_ns > since_ns:
                rates[key] = later * 1e9 / (now_ns - since_ns)
        return rates

    def set_level(self, level: Level | None, lasts_ns: int | None) -> LevelView:
        """Sets the level by hand for so long, None: until it is set again; or, None, leaves it to
        the load. What holds then."""
        until_ns = None if lasts_ns is None else self._driver.now_ns() + lasts_ns
        return self._driver.set_level(level, until_ns)

    def now_ns(self) -> int:
        """The engine's clock, which every moment of a status is on."""
        return self._driver.now_ns()

    async def wait_left(self, timeout_s: float) -> None:
        """Returns after so long; Draining as soon as the broker has left, its work being over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._driver.wait_drained()
        except TimeoutError:
            return
        raise Draining("the broker has stopped")

    def drain(self, timeout_ms: int | None) -> tuple[Snapshot, int]:
        """Begins to leave. The state at that moment, and the milliseconds that work may take."""
        granted_ms = self._stop(timeout_ms)
        return self._driver.snapshot(), granted_ms
