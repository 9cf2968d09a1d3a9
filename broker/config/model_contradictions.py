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


def model_list(config: Config) -> Iterator[Contradiction]:
    """What is expired is older than what is fresh, and waits grow."""
    wanted = config.model_list
    for low, high, small, large, reason in (
        (
            *("fresh_h", "expired_h", wanted.fresh_h, wanted.expired_h),
            "what is expired is older than what is fresh",
        ),
        (
            *("retry_s", "retry_max_s", wanted.retry_s, wanted.retry_max_s),
            "waits grow from the one to the other",
        ),
    ):
        if small > large:
            first: KeyPath = ("model_list", low)
            yield Contradiction(
                path=first,
                involved=(first, ("model_list", high)),
                problem=f"is {small:g}; must be at most model_list.{high} ({large:g}), as {reason}",
            )
