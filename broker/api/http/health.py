"""Health and metrics over HTTP, for service managers, load balancers and Prometheus.

/healthz   200 while the process is well
/readyz    200 while it takes work: a backend answers and it is not leaving; else 503 and why
/metrics   Prometheus text format
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from broker.core.snapshot import Snapshot

# What a request that is half sent may still take when the broker stops; aiohttp waits for 10 s and
# for 60 s, and nobody here asks for anything that takes long.
STOP_GRACE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Where to listen."""

    host: str = "127.0.0.1"
    port: int = 9434


class Exposition(Protocol):
    """What /metrics is answered with."""

    async def text(self) -> bytes:
        """All metrics, in Prometheus' text format. Does not hold the event loop up."""
        ...

    def close(self) -> None:
        """Nobody asks any more."""
        ...


class HealthServer:
    """Owns the port, and closes the exposition."""

    def __init__(
        self,
        settings: HttpSettings,
        snapshot: Callable[[], Snapshot],
        exposition: Exposition,
    ) -> None:
        self._settings = settings
        self._snapshot = snapshot
        self._exposition = exposition
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            shutdown_timeout=STOP_GRACE_S,
            lingering_time=STOP_GRACE_S,
        )

    async def start(self) -> int:
        """Binds and serves. Returns the port; OSError where the address cannot be had."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._settings.host, self._settings.port)
        try:
            await site.start()
        except OSError as error:
            where = f"{self._settings.host}:{self._settings.port}"
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(error.errno, f"cannot listen on {where}: {reason}") from error
        port: int = self._runner.addresses[0][1]
        return port

    async def stop(self) -> None:
        await self._runner.cleanup()
        self._exposition.close()

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        snapshot = self._snapshot()
        if snapshot.draining:
            return web.Response(status=503, text="the broker is leaving\n")
        if not any(each.up for each in snapshot.backends):
            why = "; ".join(f"{each.name}: {each.problem}" for each in snapshot.backends)
            return web.Response(status=503, text=f"no backend answers: {why}\n")
        return web.Response(text="ready\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        body = await self._exposition.text()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
