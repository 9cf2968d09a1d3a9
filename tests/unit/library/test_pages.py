"""The library's pages: what is told is read, however it is dressed; what is not is not made up."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from broker.library.page_text import PageFailed
from broker.library.pages import (
    TAGS_OF_MODEL_MAX,
    Age,
    ListingPage,
    TagRow,
    age_of,
    context_of,
    is_of_cloud,
)
from tests.unit.library.saved_pages import HERE, LISTED, PATH, listing, saved, tags

BADGE = re.compile(r"<span x-test-capability[^>]*>")


def test_the_list_tells_each_model_once() -> None:
    assert tuple(each.name for each in listing(saved("library"))) == LISTED


def test_badges_are_abilities_and_parameters_are_not() -> None:
    found = {each.name: each.capabilities for each in listing(saved("library"))}
    assert found["llama3.1"] == {"completion", "tools"}
    assert found["deepseek-r1"] == {"completion", "tools", "thinking"}
    assert found["qwen3-vl"] == {"completion", "vision", "tools", "thinking"}
    assert found["nomic-embed-text"] == {"embedding"}


def test_a_description_is_one_line_whatever_stands_in_it() -> None:
    found = {each.name: each.description for each in listing(saved("library"))}
    assert found["deepseek-r1"] == (
        "DeepSeek-R1 is a family of open reasoning models with performance approaching that of"
        " leading models, such as O3 & Gemini 2.5 Pro."
    )
    assert found["llama3.1"].startswith("Llama 3.1 is a new")


def test_the_mark_changes_with_the_tags_and_not_with_the_pulls() -> None:
    text = saved("library")
    marks = {each.name: each.mark for each in listing(text)}
    assert len(set(marks.values())) == len(LISTED)
    pulled = {each.name: each.mark for each in listing(text.replace("108.3M", "108.4M"))}
    assert pulled == marks
    added = {each.name: each.mark for each in listing(text.replace(">93<", ">94<"))}
    assert {name for name in marks if marks[name] != added[name]} == {"llama3.1"}


def test_without_a_date_nothing_is_taken_for_unchanged() -> None:
    assert {each.mark for each in listing(saved("library").replace("title=", "data-title="))} == {
        ""
    }


def test_the_tags_of_a_model() -> None:
    found = {each.name: each for each in tags(saved("deepseek-r1.tags"), "deepseek-r1")}
    assert list(found) == [
        f"deepseek-r1:{tag}" for tag in ("latest", "1.5b", "8b", "671b", "671b-fp16")
    ]
    assert found["deepseek-r1:8b"] == TagRow(
        name="deepseek-r1:8b",
        size_bytes=5_200_000_000,
        context_window=131_072,
        digest="6995872bfe4c",
        age=Age(days=150, unit="month"),
    )
    assert found["deepseek-r1:671b-fp16"].size_bytes == 1_300_000_000_000


def test_what_runs_in_the_cloud_is_nothing_to_download() -> None:
    names = [each.name for each in tags(saved("qwen3-vl.tags"), "qwen3-vl")]
    assert names == ["qwen3-vl:latest", "qwen3-vl:2b", "qwen3-vl:4b"]
    assert tags(saved("gpt-oss-hosted.tags"), "gpt-oss-hosted") == ()


@pytest.mark.parametrize("model", HERE)
def test_no_parameters_are_taken_for_a_size(model: str) -> None:
    for row in tags(saved(f"{model}.tags"), model):
        assert row.size_bytes >= 271_000_000, row
        assert row.context_window >= 2_048
        assert row.digest


def test_another_design_tells_the_same() -> None:
    """No class, no attribute, texts in another order, much that means nothing."""
    tiny, embedder = listing(saved("library_bare"))
    assert (tiny.name, embedder.name) == ("tiny", "embedder")
    assert tiny.capabilities == {"completion", "vision", "tools"}
    assert tiny.description == ""  # it stands before the link: whose it is is not sure
    assert embedder.capabilities == {"embedding"}
    assert embedder.description == "A model that turns texts into vectors for search."
    rows = {each.name: each for each in tags(saved("tags_bare"), "tiny")}
    assert rows["tiny:8b"].size_bytes == 5_000_000_000
    assert rows["tiny:8b"].context_window == 8_192
    assert rows["tiny:8b"].age == Age(days=365, unit="year")
    assert rows["tiny:0.5b"].size_bytes == 391_000_000
    assert rows["tiny:latest"] == TagRow(name="tiny:latest")


STRIPPED: dict[str, tuple[str, str | Callable[[re.Match[str]], str]]] = {
    "no classes": (r' class="[^"]*"', ""),
    "no test attributes": (r" x-test-[a-z-]+", ""),
    "single quotes": (r'="([^"]*)"', r"='\1'"),
    "other elements": (r"<(/?)span", r"<\1div"),
    "upper case": (r"<(/?)([a-z]+)", lambda found: f"<{found[1]}{found[2].upper()}"),
    "attributes turned round": (r'<a href="([^"]*)" class="([^"]*)"', r'<a class="\2" href="\1"'),
    "whole addresses": (r'href="/', 'href="https://ollama.com/'),
    "more around": (r"<a href", "<div><section><a rel=noopener href"),
    "more space": (r">", ">\n\t "),
}


@pytest.mark.parametrize("change", STRIPPED)
@pytest.mark.parametrize("model", HERE)
def test_dress_means_nothing(model: str, change: str) -> None:
    pattern, replacement = STRIPPED[change]
    page, original = saved(f"{model}.tags"), tags(saved(f"{model}.tags"), model)
    text = re.sub(pattern, replacement, page)
    assert text != page
    assert tags(text, model) == original


@pytest.mark.parametrize("change", set(STRIPPED) - {"more space"})
def test_dress_means_nothing_for_the_list(change: str) -> None:
    pattern, replacement = STRIPPED[change]
    page = saved("library")
    text = re.sub(pattern, replacement, page)
    assert text != page
    assert listing(text) == listing(page)


def test_an_unknown_badge_is_passed_over() -> None:
    page = saved("library")
    text = BADGE.sub(lambda found: f"{found[0]}dancing</span>{found[0]}", page)
    assert listing(text) == listing(page)


def test_badges_of_one_box_are_not_anothers() -> None:
    text = (
        "<ul><li><a href='/library/one'>one</a><ul><li>tools</li><li>vision</li></ul></li>"
        "<li><b>thinking</b></li><li><a href='/library/two'>two</a></li></ul>"
    )
    assert [each.capabilities for each in listing(text)] == [
        {"completion", "tools", "vision"},
        {"completion"},
    ]


@pytest.mark.parametrize("piece", [1, 7, 1000, 8192])
def test_how_a_page_comes_means_nothing(piece: int) -> None:
    assert listing(saved("library"), piece) == listing(saved("library"))
    page = saved("smollm2.tags")
    assert tags(page, "smollm2", piece) == tags(page, "smollm2")


def test_a_page_cut_off_anywhere_is_no_page() -> None:
    """But within the spaces at its end: nothing is missing there."""
    page = saved("smollm2.tags")
    for end in range(0, len(page.rstrip()), 97):
        with pytest.raises(PageFailed):
            tags(page[:end], "smollm2")
    with pytest.raises(PageFailed):
        tags(page.rstrip()[:-1], "smollm2")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "<html><body>Bad gateway</body></html>",
        "<html><body><a href='/login'>Sign in to this network</a></body></html>",
        '{"models": []}',
        "<html><a href='/library'>Library</a></html>",
        "<html><a href='/library/llama3:8b'>a tag alone</a></html>",
        "\x00\x01\x02",
    ],
)
def test_a_page_in_which_nothing_is_a_model_is_no_empty_list(text: str) -> None:
    with pytest.raises(PageFailed, match="nothing in it is a model"):
        listing(text)


def test_the_tags_of_another_model_are_no_answer() -> None:
    with pytest.raises(PageFailed, match="nothing in it is a tag of llama3"):
        tags(saved("smollm2.tags"), "llama3.1")


def test_what_hides_the_rest_is_told() -> None:
    text = saved("library").replace("</svg>", "", 1)
    with pytest.raises(PageFailed, match="hides what follows"):
        listing(text)


HOSTILE = {
    "deep": "<html><a href='/library/m'>" + "<div>" * 200_000 + "tools" + "</div>" * 200_000,
    "links": "<a href='/library/m'>" * 100_000,
    "open brackets": "<html>" + "<" * 100_000,
    "comments": "<a href='/library/m'>m</a>" + "<!--" * 60_000,
    "sections": "<![foo[" * 50_000,
    "end tags": "</" * 100_000,
    "attributes": "<html><a " + "x=" * 100_000,
    "quotes": "<a href='/library/m' x=" + '"' * 200_000,
    "references": "&amp" * 200_000 + "&#" * 100_000,
    "spaces": "<p>" + " " * 1_000_000 + "•" * 100_000,
    "nothing but text": "8b • " * 300_000,
    "digits": "<html><a href='/library/m:1'>" + "9" * 500_000 + "GB</a>",
    "nul": "\x00" * 500_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_page_ends_in_one_of_two_ways(kind: str) -> None:
    """As answer or as PageFailed, with nothing kept beyond the limits, and soon: each of these took
    minutes wherever time grew with the square of the length."""
    for read in (lambda text: listing(text, 8_192), lambda text: tags(text, "m", 8_192)):
        try:
            told = read(HOSTILE[kind])
        except PageFailed:
            continue
        assert len(told) == 1


def test_a_page_of_too_many_tags_is_refused() -> None:
    text = "".join(f"<a href='/library/m:{each}'>" for each in range(TAGS_OF_MODEL_MAX + 1))
    with pytest.raises(PageFailed, match="over 5000 tags"):
        tags(text, "m")


def test_a_text_is_kept_only_so_far() -> None:
    text = f"<html><a href='/library/m'>m</a><p>{'very ' * 100_000}</p></html>"
    [model] = listing(text, 1_000)
    assert 900 < len(model.description) <= 1_000


def test_what_could_steer_a_terminal_is_not_passed_on() -> None:
    sly = "A model \x1b[2Jthat clears\u202e your\u200b screen &#27;[31m\x07 &#0; \ud83d\ude00"
    [model] = listing(f"<html><a href='/library/m'>m</a><p>{sly}</p></html>")
    assert model.description.isprintable()
    assert model.description.startswith("A model [2Jthat clears your screen [31m")


@pytest.mark.parametrize(
    "href",
    [
        "/library/../etc",
        "/library/a/b",
        "/library/",
        "/library/a?x=1",
        "/library/a:b:c",
        "javascript:/library/a",
        "//elsewhere/library/a",
        "/library/" + "a" * 600,
        "/library/%61",
        "/other/a",
    ],
)
def test_an_address_that_leads_to_no_model(href: str) -> None:
    with pytest.raises(PageFailed):
        listing(f'<html><a href="{href}">tools</a></html>')


def test_pages_after_the_first_are_found() -> None:
    page = ListingPage(PATH)
    page.take("<html><a href='/library/m'>m</a><li hx-get='/search?page=2&q=' hx-trigger='x'></li>")
    page.take("<a rel='next' href='?page=3'>more</a><div hx-get='/elsewhere'></div></html>")
    page.finish()
    assert [page.has_page(number) for number in (1, 2, 3, 4)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("128K context window", 131_072),
        ("128K", 131_072),
        ("1M context window", 1_048_576),
        ("10M", 10_485_760),
        ("8192 context", 8_192),
        ("0.5K", 512),
        ("512", 0),  # anything
        ("8b", 0),
        ("335m", 0),  # parameters, as badges write them
        ("128k", 0),
        ("999999999M", 0),
        ("K", 0),
        ("-1K", 0),
        ("", 0),
    ],
)
def test_a_context(text: str, tokens: int) -> None:
    assert context_of(text) == tokens


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("5 months ago", 150),
        ("Updated 2 weeks ago", 14),
        ("about 1 year ago", 365),
        ("over a year ago", 365),
        ("an hour ago", 0),
        ("yesterday", 1),
        ("Just now", 0),
        ("3 days ago", 3),
        ("long ago", None),
        ("in 5 months", None),
        ("99999 days ago", None),
        ("", None),
    ],
)
def test_an_age(text: str, days: int | None) -> None:
    age = age_of(text)
    assert (None if age is None else age.days) == days


def test_names_of_the_cloud() -> None:
    assert is_of_cloud("m:cloud")
    assert is_of_cloud("m:120b-Cloud")
    assert not is_of_cloud("m:cloudy")
    assert not is_of_cloud("cloud:8b")
