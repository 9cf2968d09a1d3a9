"""The library over the web: all that sites do wrong, each told as what it is."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from aiohttp import web

from broker.core.library import LibraryAway, LibraryFailed
from broker.library.fetch import FetchLimits
from broker.library.web import WebLimits
from tests.integration.library_site import by_name, library, library_site
from tests.unit.library.saved_pages import HERE, LISTED, saved


@pytest.mark.parametrize(
    ("status", "headers", "is_away", "retry_after_s"),
    [
        (429, {"Retry-After": "120"}, True, 120),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, True, None),
        (500, {}, True, None),
        (408, {}, True, None),
        (403, {}, False, None),
        (400, {}, False, None),
        (301, {"Location": "https://elsewhere.example/"}, False, None),
        (304, {}, False, None),
        (204, {}, False, None),
    ],
)
async def test_what_a_status_means(
    status: int, headers: dict[str, str], is_away: bool, retry_after_s: int | None
) -> None:
    async with library_site() as site, library(site) as one:
        site.first = lambda request: (
            web.Response(status=status, headers=headers) if "smollm2" in request.path else None
        )
        with pytest.raises(LibraryFailed, match=f"smollm2/tags answered {status}") as failure:
            await one.models({})
        assert isinstance(failure.value, LibraryAway) == failure.value.retryable == is_away
        told = failure.value.retry_after_ns
        assert told == (retry_after_s * 10**9 if retry_after_s else None)
        site.first = lambda _: None
        assert len(await one.models({})) == len(HERE)  # it is asked anew, and all is well


async def test_a_redirect_is_told_and_not_followed() -> None:
    async with library_site() as site, library(site) as one:
        site.first = lambda _: web.Response(status=302, headers={"Location": "/login"})
        with pytest.raises(LibraryFailed, match="sends to '/login'"):
            await one.models({})
        assert site.asked == ["/library"]


async def test_no_list_at_all() -> None:
    async with library_site() as site, library(site) as one:
        del site.pages["/library"]
        with pytest.raises(LibraryFailed, match="is not there") as failure:
            await one.models({})
        assert not isinstance(failure.value, LibraryAway)


async def test_nobody_listens() -> None:
    async with library_site() as site:
        url = site.url
    async with library(site, url=url) as one:
        with pytest.raises(LibraryAway, match="/library: Client"):
            await one.models({})


async def test_a_model_that_has_just_gone_is_left_out() -> None:
    async with library_site() as site, library(site) as one:
        del site.pages["/library/smollm2/tags"]
        assert tuple(by_name(await one.models({}))) == HERE[:-1]


async def test_many_that_have_gone_are_no_answer() -> None:
    async with library_site() as site, library(site) as one:
        for name in LISTED[:4]:
            del site.pages[f"/library/{name}/tags"]
        with pytest.raises(LibraryFailed, match=r"4 of 6 models .* have no tags"):
            await one.models({})


async def test_pages_of_another_form_are_no_answer() -> None:
    async with library_site() as site, library(site) as one:
        for path in site.pages:
            site.pages[path] = re.sub(r"([0-9])[GMT]B", r"\1 gibibytes", site.pages[path])
        with pytest.raises(LibraryFailed, match=r"only 0 have a size"):
            await one.models({})


@pytest.mark.parametrize("where", ["/library", "/library/smollm2/tags"])
async def test_half_a_page_is_no_answer(where: str) -> None:
    async with library_site() as site, library(site) as one:
        text = site.pages[where]
        site.pages[where] = text[: len(text) * 3 // 4]
        with pytest.raises(LibraryFailed, match=r"cut off|hides what follows"):
            await one.models({})


async def broken_off(request: web.Request, body: bytes, headers: dict[str, str]) -> None:
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    await response.write(body)
    transport = request.transport
    assert transport is not None
    transport.abort()


@pytest.mark.parametrize("packed", [False, True])
async def test_a_connection_that_breaks_in_the_middle_may_be_tried_again(packed: bool) -> None:
    async with library_site() as site, library(site) as one:
        body = saved("library").encode()
        headers = {"Content-Type": "text/html", "Content-Length": str(len(body))}
        if packed:
            body = gzip.compress(body)
            headers |= {"Content-Encoding": "gzip", "Content-Length": str(len(body))}
        answer = site.answer

        async def break_off(request: web.Request) -> web.StreamResponse:
            await broken_off(request, body[: len(body) // 2], headers)
            return await answer(request)

        async with broken_site(break_off) as url, library(site, url=url) as other:
            with pytest.raises(LibraryAway):
                await other.models({})
        assert len(await one.models({})) == len(HERE)


@contextlib.asynccontextmanager
async def broken_site(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/library"
    finally:
        await runner.cleanup()


async def test_a_small_page_that_unpacks_to_a_huge_one_is_refused() -> None:
    limits = WebLimits(fetch=FetchLimits(page_bytes_max=100_000))
    async with library_site() as site, library(site, limits) as one:
        body = gzip.compress(b"<html>" + b"<p>" * 50_000_000)
        site.first = lambda _: web.Response(
            body=body, headers={"Content-Encoding": "gzip", "Content-Type": "text/html"}
        )
        with pytest.raises(LibraryFailed, match="is over 100000 bytes"):
            await one.models({})
        assert one.transfer.received_bytes < len(body)


async def test_a_page_that_never_ends_is_refused() -> None:
    limits = WebLimits(fetch=FetchLimits(page_bytes_max=100_000))
    async with library_site() as site, library(site, limits) as one:
        site.pages["/library"] = saved("library") + " " * 200_000
        with pytest.raises(LibraryFailed, match="is over 100000 bytes"):
            await one.models({})


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(b"<html><body></body></html>") + b"x" * 4_000_000,
        gzip.compress(b"<html>")[:10] + b"\x00\x00\x00\xff\xff" * 800_000,
    ],
    ids=["after its end", "of nothing"],
)
async def test_what_is_packed_and_never_ends_is_refused(body: bytes) -> None:
    limits = WebLimits(fetch=FetchLimits(page_bytes_max=100_000))
    async with library_site() as site, library(site, limits) as one:
        site.first = lambda _: web.Response(
            body=body, headers={"Content-Encoding": "gzip", "Content-Type": "text/html"}
        )
        with pytest.raises(LibraryFailed, match="is over 100000 bytes"):
            await one.models({})
        assert one.transfer.received_bytes < len(body)


async def test_what_follows_a_packed_page_is_passed_over() -> None:
    async with library_site() as site, library(site) as one:
        body = gzip.compress(saved("library").encode()) + b"\0" * 100_000
        site.first = lambda request: (
            web.Response(body=body, headers={"Content-Encoding": "gzip"})
            if request.path == "/library"
            else None
        )
        assert tuple(by_name(await one.models({}))) == HERE


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip"])
async def test_what_is_packed_otherwise_is_refused(encoding: str) -> None:
    async with library_site() as site, library(site) as one:
        site.first = lambda _: web.Response(body=b"x", headers={"Content-Encoding": encoding})
        with pytest.raises(LibraryFailed, match="packed in a way"):
            await one.models({})


async def test_what_is_packed_wrongly_is_refused() -> None:
    async with library_site() as site, library(site) as one:
        site.first = lambda _: web.Response(body=b"no gzip", headers={"Content-Encoding": "gzip"})
        with pytest.raises(LibraryFailed, match="cannot be unpacked"):
            await one.models({})


@pytest.mark.parametrize(
    "limits",
    [WebLimits(refresh_timeout_s=0.05), WebLimits(fetch=FetchLimits(page_timeout_s=0.05))],
)
async def test_a_site_that_says_nothing_is_away(limits: WebLimits) -> None:
    async with library_site() as site, library(site, limits) as one:
        site.gate = asyncio.Event()
        with pytest.raises(LibraryAway, match=r"was not read within 0.05 s"):
            await one.models({})
        site.gate.set()


async def test_a_list_that_has_shrunk_by_half_must_say_so_twice() -> None:
    async with library_site() as site, library(site) as one:
        first = by_name(await one.models({}))
        known = first | {f"m{n}": replace(first["smollm2"], name=f"m{n}") for n in range(30)}
        with pytest.raises(LibraryFailed, match="taken for half an answer"):
            await one.models(known)
        assert tuple(by_name(await one.models(known))) == HERE


async def test_who_gives_up_leaves_nothing_behind() -> None:
    async with library_site() as site, library(site) as one:
        site.gate = asyncio.Event()
        asking = asyncio.create_task(one.models({}))
        await site.is_asked(1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        site.gate.set()
        assert len(await one.models({})) == len(HERE)
