"""The library of a configuration: where what could be downloaded is read from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from broker.config.library import LibraryConfig
from broker.core.library import Library
from broker.library.catalogue_file import CatalogueFile
from broker.library.fetch import FetchLimits
from broker.library.web import WebLibrary, WebLimits


def make_library(
    config: LibraryConfig, now_ns: Callable[[], int], now_unix_s: Callable[[], float]
) -> Library | None:
    """None: it is off. Nothing is opened or read yet."""
    if config.source == "web":
        limits = WebLimits(
            pages_max=config.pages_max,
            concurrency=config.concurrency,
            refresh_timeout_s=config.refresh_timeout_s,
            fetch=FetchLimits(
                connect_timeout_s=config.connect_timeout_s,
                page_timeout_s=config.page_timeout_s,
                page_bytes_max=config.page_bytes_max,
            ),
        )
        return WebLibrary(config.url, limits, now_ns=now_ns, now_unix_s=now_unix_s)
    if config.source == "file":
        return CatalogueFile(Path(config.file).expanduser())
    return None
