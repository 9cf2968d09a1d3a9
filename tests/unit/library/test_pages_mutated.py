"""Pages as chance makes them: what means nothing changes nothing, and nothing makes a reader fail
in another way than it says."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.library.page_text import PageFailed
from broker.library.pages import CAPABILITIES
from tests.unit.library.saved_pages import HERE, listing, saved, tags

TAG = re.compile(r"(<[^>]+>)")
BEGIN = re.compile(r"<[a-z][^>]*[^/]>")
NAMES = ("library", "library_bare", "tags_bare", *(f"{model}.tags" for model in HERE))

# Words that are no ability, no size, no context, no digest and no age.
WORD = st.text("bcefhijlnopqrsuvwxyz", min_size=1, max_size=8).filter(
    lambda word: word not in CAPABILITIES and word not in ("now", "or")
)
ATTRIBUTE = st.builds(lambda name, value: f' data-{name}="{value}"', WORD, WORD)


@st.composite
def junk(draw: st.DrawFn) -> str:
    """An element that means nothing."""
    element = draw(st.sampled_from(["span", "div", "b", "x-new", "p", "script", "style", "svg"]))
    attributes = "".join(draw(st.lists(ATTRIBUTE, max_size=3)))
    return f"<{element}{attributes}>{draw(WORD)}</{element}>"


@st.composite
def junked(draw: st.DrawFn, page: str) -> str:
    """The page with what means nothing between its tags and within them."""
    parts = TAG.split(page)
    for _ in range(draw(st.integers(1, 12))):
        at = draw(st.integers(0, len(parts) - 1))
        if BEGIN.fullmatch(parts[at]):
            parts[at] = f"{parts[at][:-1]}{draw(ATTRIBUTE)}>"
        elif not parts[at].strip():
            parts[at] = draw(junk())
    return "".join(parts)


@given(st.data())
def test_what_means_nothing_changes_nothing_of_the_list(data: st.DataObject) -> None:
    page = saved("library")
    told = listing(data.draw(junked(page)))
    assert [(each.name, each.description, each.capabilities) for each in told] == [
        (each.name, each.description, each.capabilities) for each in listing(page)
    ]


@pytest.mark.parametrize("model", HERE)
@given(data=st.data())
def test_what_means_nothing_changes_nothing_of_tags(model: str, data: st.DataObject) -> None:
    page = saved(f"{model}.tags")
    assert tags(data.draw(junked(page)), model) == tags(page, model)


@st.composite
def torn(draw: st.DrawFn) -> str:
    """A page of which parts are missing, doubled, moved or replaced by anything."""
    page = saved(draw(st.sampled_from(NAMES)))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(page)))
        end = draw(st.integers(start, min(len(page), start + 2_000)))
        to = draw(st.integers(0, len(page)))
        cut = page[start:end]
        page = page[:start] + page[end:]
        page = page[:to] + draw(st.sampled_from(["", cut, cut * 2])) + page[to:]
        page = page[:start] + draw(st.text(max_size=20)) + page[start:]
    return page


def check(text: str, piece: int) -> None:
    try:
        models = listing(text, piece)
    except PageFailed:
        models = ()
    for model in models:
        assert model.capabilities <= CAPABILITIES | {"completion"}
        assert model.description.isprintable() or not model.description
        assert len(model.description) <= 1_000
    for name in ("llama3.1", "tiny", "smollm2"):
        try:
            rows = tags(text, name, piece)
        except PageFailed:
            continue
        assert len({row.name for row in rows}) == len(rows)
        for row in rows:
            assert row.name.lower().startswith(f"{name}:")
            assert 0 <= row.size_bytes < 10**21
            assert 0 <= row.context_window <= 100_000_000
            assert row.age is None or 0 <= row.age.days < 4_000_000


@given(torn(), st.sampled_from([64, 1 << 30]))
def test_a_torn_page_ends_in_one_of_two_ways(text: str, piece: int) -> None:
    check(text, piece)


@given(st.text(max_size=300), st.sampled_from([1, 1 << 30]))
def test_any_text_ends_in_one_of_two_ways(text: str, piece: int) -> None:
    check(text, piece)


SCRAPS = (
    *("<!--", "-->", "<![", "]]>", "<html>", "</html>", "<script>", "</script>", "<svg>", "</svg>"),
    *("</a>", "<li>", "</li>", "<tr>", "<a", "<", ">", '"', "'", "&", "&#x"),
    *("4.7GB", "8b", "128K", "•", "tools", " "),
)
SCRAP = st.sampled_from([*SCRAPS, "<a href='/library/llama3.1:8b'>", "<a href='/library/tiny'>"])


@given(st.lists(SCRAP, max_size=40).map("".join), st.sampled_from([1, 5, 1 << 30]))
def test_any_heap_of_scraps_ends_in_one_of_two_ways(text: str, piece: int) -> None:
    check(text, piece)
