"""What is wrong between the settings of what is known of models."""

from __future__ import annotations

from collections.abc import Iterator

from broker.config.contradiction import Contradiction
from broker.config.explanation import KeyPath
from broker.config.schema import Config


def library(config: Config) -> Iterator[Contradiction]:
    """A file is named where one is to be read, and a page has no more time than all of them."""
    source: KeyPath = ("library", "source")
    file: KeyPath = ("library", "file")
    if config.library.source == "file" and not config.library.file:
        yield Contradiction(
            path=file,
            involved=(file, source),
            problem='is empty; must name what source = "file" reads',
        )
    page: KeyPath = ("library", "page_timeout_s")
    whole: KeyPath = ("library", "refresh_timeout_s")
    if config.library.page_timeout_s > config.library.refresh_timeout_s:
        yield Contradiction(
            path=page,
            involved=(page, whole),
            problem=f"is {config.library.page_timeout_s:g}; must be at most"
            f" library.refresh_timeout_s ({config.library.refresh_timeout_s:g}), as one page is a"
            " part of a refresh",
        )
