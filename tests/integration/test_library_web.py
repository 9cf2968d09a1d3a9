"""The library over the web: real sockets, saved pages, and all that sites do wrong."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiohttp import web

from broker.core.library import LibraryAway, LibraryFailed, LibraryModel
from broker.library.fetch import FetchLimits
from broker.library.web import WebLibrary, WebLimits
from tests.integration.library_site import Site, library_site
from tests.unit.library.saved_pages import HERE, LISTED, saved

NOW_UNIX_S = 1_795_262_400.0  # 2026-11-21
PATIENCE_S = 30.0


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


async def test_all_models_with_their_tags() -> None:
    async with library_site() as site, library(site) as one:
        models = by_name(await one.models({}))
        assert tuple(models) == HERE  # what only the cloud has is none
        deepseek = models["deepseek-r1"]
        assert deepseek.capabilities == {"completion", "tools", "thinking"}
        variant = next(each for each in deepseek.variants if each.name == "deepseek-r1:671b-fp16")
        assert variant.size_bytes == 1_300_000_000_000
        assert variant.context_window == 163_840
        assert variant.modified_at == "2026-02-01T00:00:00Z"
        assert models["nomic-embed-text"].variants[2].modified_at == "2026-11-20T00:00:00Z"
        assert site.asked[0] == "/library"
        assert sorted(site.asked[1:]) == sorted(f"/library/{name}/tags" for name in LISTED)
        assert one.name == site.url


async def test_nothing_is_asked_before_somebody_wants_it() -> None:
    async with library_site() as site, library(site):
        assert site.asked == []


async def test_it_says_who_it_is_and_nothing_else_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with library_site() as site, library(site) as one:
        await one.models({})
        assert all("ollama-broker" in each["user-agent"] for each in site.headers)
        assert all("cookie" not in each and "authorization" not in each for each in site.headers)


async def test_packed_pages_are_the_same_and_cost_less() -> None:
    async with library_site() as site, library(site) as one:
        plain, plain_cost = await one.models({}), one.transfer
        site.packed = True
        packed, packed_cost = await one.models({}), one.transfer
        assert packed == plain
        assert packed_cost.received_bytes * 3 < plain_cost.received_bytes


async def test_the_speed_of_the_connection_is_told() -> None:
    async with library_site() as site, library(site, WebLimits(concurrency=1)) as one:
        assert one.transfer.bytes_per_s is None
        await one.models({})
        sent = sum(len(page.encode()) for page in site.pages.values())
        assert one.transfer.received_bytes == sent
        # The clock goes on once within each page: between pages no time is counted.
        assert one.transfer.receiving_ns == len(site.asked) * 1_000_000
        assert one.transfer.bytes_per_s == pytest.approx(sent / (len(site.asked) / 1_000))


async def test_what_the_list_marks_as_unchanged_is_not_fetched_again() -> None:
    async with library_site() as site, library(site) as one:
        first = await one.models({})
        site.asked.clear()
        text = site.pages["/library"]
        site.pages["/library"] = text.replace("Nov 3, 2026", "Nov 20, 2026")
        second = await one.models(by_name(first))
        # What has nothing to download was not answered, and so is not known.
        assert sorted(site.asked[1:]) == [
            "/library/gpt-oss-hosted/tags",
            "/library/qwen3-vl/tags",
        ]
        marks = by_name(second)
        assert marks["qwen3-vl"].mark != by_name(first)["qwen3-vl"].mark
        assert marks["llama3.1"] == by_name(first)["llama3.1"]


async def test_what_the_site_says_is_unchanged_is_taken_from_before() -> None:
    async with library_site() as site, library(site) as one:
        site.tagged = True
        site.pages["/library"] = site.pages["/library"].replace("title=", "data-x=")  # no marks
        first = by_name(await one.models({}))
        assert site.unchanged == []
        site.pages["/library/smollm2/tags"] = saved("smollm2.tags").replace("1.8GB", "1.9GB")
        second = by_name(await one.models(first))
        assert sorted(site.unchanged) == sorted(
            f"/library/{name}/tags" for name in HERE if name != "smollm2"
        )
        assert second["smollm2"].variants[0].size_bytes == 1_900_000_000
        assert {**second, "smollm2": first["smollm2"]} == first
        # Who does not know the model any more cannot use "unchanged".
        site.unchanged.clear()
        assert by_name(await one.models({})) == second
        assert site.unchanged == []


async def test_the_same_file_keeps_its_date() -> None:
    async with library_site() as site, library(site) as one:
        first = by_name(await one.models({}))
        known = {
            name: replace(
                model,
                mark="",
                variants=tuple(
                    replace(v, modified_at="2020-02-02T02:02:02Z") for v in model.variants
                ),
            )
            for name, model in first.items()
        }
        page = saved("smollm2.tags").replace("9077fe9d2ae1", "aaaaaaaaaaaa")
        site.pages["/library/smollm2/tags"] = page
        second = by_name(await one.models(known))
        dates = {each.name: each.modified_at for each in second["smollm2"].variants}
        assert dates["smollm2:135m"] == "2024-01-01T00:00:00Z"  # another file
        assert dates["smollm2:360m"] == "2020-02-02T02:02:02Z"


async def test_a_list_over_several_pages() -> None:
    async with library_site() as site, library(site) as one:
        text = site.pages["/library"]
        entries = re.findall(r"<li x-test-model.*?</li>", text, re.DOTALL)
        shell = re.sub(r"(<ul[^>]*>).*(</ul>)", r"\1@@\2", text, flags=re.DOTALL)
        for number in range(3):
            more = f'<li hx-get="/library?page={number + 2}"></li>' if number < 2 else ""
            page = shell.replace("@@", "".join(entries[2 * number : 2 * number + 2]) + more)
            site.pages[f"/library?page={number + 1}" if number else "/library"] = page
        assert tuple(by_name(await one.models({}))) == HERE
        assert site.asked[:3] == ["/library", "/library?page=2", "/library?page=3"]


async def test_a_page_that_leads_to_itself_ends() -> None:
    async with library_site() as site, library(site) as one:
        text = site.pages["/library"].replace("</ul>", '<li hx-get="/library?page=2"></li></ul>')
        site.pages["/library"] = text
        site.pages["/library?page=2"] = text.replace("page=2", "page=3")
        assert tuple(by_name(await one.models({}))) == HERE
        assert [each for each in site.asked if "page=" in each] == ["/library?page=2"]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_only_so_many_pages_are_asked_for_at_once(concurrency: int) -> None:
    async with library_site() as site, library(site, WebLimits(concurrency=concurrency)) as one:
        asking = asyncio.create_task(one.models({}))
        await site.is_asked(1)  # the list, which goes first and alone
        site.gate = asyncio.Event()
        await site.is_asked(1 + concurrency)
        site.gate.set()
        await asking
        assert site.most_at_once == concurrency


async def test_more_pages_than_allowed_are_an_error_that_names_the_setting() -> None:
    async with library_site() as site, library(site, WebLimits(pages_max=4)) as one:
        with pytest.raises(LibraryFailed, match=r"over 4 pages to read, which is .* pages_max"):
            await one.models({})
        assert len(site.asked) == 4


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
async def broken_site(handler: object) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)  # type: ignore[arg-type]
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


async def test_others_run_while_a_large_page_is_read() -> None:
    async with library_site() as site, library(site) as one:
        entry = re.findall(r"<li x-test-model.*?</li>", saved("library"), re.DOTALL)[0]
        site.pages["/library"] = saved("library").replace("</ul>", entry * 200 + "</ul>")
        turns = 0
        asking = asyncio.create_task(one.models({}))
        while not asking.done():
            turns += 1
            await asyncio.sleep(0)
        await asking
        assert turns > len(site.pages["/library"]) / 8_192
