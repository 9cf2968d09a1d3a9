"""A small web site with the saved pages of the library, which a test may change and break."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from aiohttp import web

from broker.core.library import LibraryModel
from broker.library.web import WebLibrary, WebLimits
from tests.unit.library.saved_pages import LISTED, saved

NOW_UNIX_S = 1_795_262_400.0  # 2026-11-21
PATIENCE_S = 30.0

Handler = Callable[[web.Request], web.StreamResponse | None]


def saved_site() -> dict[str, str]:
    """Path -> page."""
    pages = {f"/library/{name}/tags": saved(f"{name}.tags") for name in LISTED}
    return {"/library": saved("library"), **pages}


@dataclass
class Site:
    """`asked` are paths with their queries, in order. `first` sees a request before the pages do,
    and may answer in their place. `tagged` gives pages an ETag, `packed` packs them."""

    url: str = ""
    pages: dict[str, str] = field(default_factory=saved_site)
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    first: Handler = lambda _: None
    tagged: bool = False
    packed: bool = False
    gate: asyncio.Event | None = None  # where set, answers wait for it
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        async with self.news:
            self.news.notify_all()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.gate is not None:
                await self.gate.wait()
            return self.first(request) or self._page(request)
        finally:
            self.at_once -= 1

    async def is_asked(self, times: int) -> None:
        """Waits until it was asked so often."""
        async with self.news:
            await self.news.wait_for(lambda: len(self.asked) >= times)

    def _page(self, request: web.Request) -> web.Response:
        text = self.pages.get(request.path_qs)
        if text is None:
            return web.Response(status=404, text="<html><body>404 not found</body></html>")
        etag = f'W/"{hash(text)}"'
        if self.tagged and request.headers.get("If-None-Match") == etag:
            self.unchanged.append(request.path_qs)
            return web.Response(status=304, headers={"ETag": etag})
        headers = {"ETag": etag} if self.tagged else {}
        body = text.encode()
        if self.packed and "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body)
        return web.Response(body=body, headers=headers, content_type="text/html")


@contextlib.asynccontextmanager
async def library_site() -> AsyncIterator[Site]:
    site = Site()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", site.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        tcp = web.TCPSite(runner, "127.0.0.1", 0)
        await tcp.start()
        host, port = runner.addresses[0][:2]
        site.url = f"http://{host}:{port}/library"
        yield site
    finally:
        await runner.cleanup()


class Ticking:
    """A clock that goes on by a millisecond whenever it is looked at."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 1_000_000
        return self.now_ns


@contextlib.asynccontextmanager
async def library(
    site: Site, limits: WebLimits | None = None, url: str = ""
) -> AsyncIterator[WebLibrary]:
    web_library = WebLibrary(
        url or site.url,
        limits or WebLimits(),
        now_ns=Ticking(),
        now_unix_s=lambda: NOW_UNIX_S,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield web_library
    finally:
        await web_library.close()


def by_name(models: tuple[LibraryModel, ...]) -> dict[str, LibraryModel]:
    return {each.name: each for each in models}
