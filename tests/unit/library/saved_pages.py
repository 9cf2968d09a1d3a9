"""The saved pages of the library, as its readers see them."""

from __future__ import annotations

from pathlib import Path

from broker.library.pages import ListedModel, ListingPage, TagRow, TagsPage

FOLDER = Path(__file__).resolve().parents[2] / "data" / "library"
PATH = "/library"

LISTED = ("llama3.1", "deepseek-r1", "qwen3-vl", "nomic-embed-text", "smollm2", "gpt-oss-hosted")
# Of these the library has something to download.
HERE = LISTED[:-1]


def saved(name: str) -> str:
    return (FOLDER / f"{name}.html").read_text(encoding="utf-8")


def listing(text: str, piece: int = 1 << 30) -> tuple[ListedModel, ...]:
    """The models of a page that comes in pieces of so many characters."""
    page = ListingPage(PATH)
    for start in range(0, len(text), piece):
        page.take(text[start : start + piece])
    page.finish()
    return page.models()


def tags(text: str, model: str, piece: int = 1 << 30) -> tuple[TagRow, ...]:
    page = TagsPage(PATH, model)
    for start in range(0, len(text), piece):
        page.take(text[start : start + piece])
    page.finish()
    return page.rows()
