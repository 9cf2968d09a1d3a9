"""The library over the web: real sockets and saved pages."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import pytest

from broker.core.library import LibraryFailed
from broker.library.web import WebLimits
from tests.integration.library_site import by_name, library, library_site
from tests.unit.library.saved_pages import HERE, LISTED, saved


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
        # The clock goes on once within each wait for bytes, of which a page has three or more: its
        # head, what it holds, and its end.
        waits, rest = divmod(one.transfer.receiving_ns, 1_000_000)
        assert waits >= 3 * len(site.asked)
        assert rest == 0
        assert one.transfer.bytes_per_s == pytest.approx(sent / waits * 1_000)


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
        assert turns > len(site.pages["/library"]) / 4_096
