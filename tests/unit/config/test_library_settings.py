"""Where the library is read from: off unless somebody says otherwise, and nothing half said."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from broker.config.contradictions import contradictions
from broker.config.library import LibraryConfig
from broker.config.schema import Config
from broker.daemon.library import make_library
from broker.library.catalogue_file import CatalogueFile
from broker.library.web import WebLibrary


def problems(library: LibraryConfig) -> list[str]:
    found = contradictions(Config(library=library))
    return [f"{'.'.join(map(str, each.path))} {each.problem}" for each in found]


def test_by_itself_nothing_is_asked() -> None:
    config = Config()
    assert config.library.source == "off"
    assert make_library(config.library, lambda: 0, lambda: 0.0) is None


def test_a_source_is_made_as_it_is_configured(tmp_path: Path) -> None:
    web = make_library(
        LibraryConfig(source="web", url="http://mirror.example/library/"), lambda: 0, lambda: 0.0
    )
    assert isinstance(web, WebLibrary)
    assert web.name == "http://mirror.example/library"
    file = LibraryConfig(source="file", file=str(tmp_path / "catalogue.json"))
    catalogue = make_library(file, lambda: 0, lambda: 0.0)
    assert isinstance(catalogue, CatalogueFile)
    assert catalogue.name == str(tmp_path / "catalogue.json")
    assert problems(file) == []


def test_a_file_must_be_named() -> None:
    assert problems(LibraryConfig(source="file")) == [
        'library.file is empty; must name what source = "file" reads'
    ]


def test_a_page_is_a_part_of_a_refresh() -> None:
    [problem] = problems(LibraryConfig(page_timeout_s=20, refresh_timeout_s=10))
    assert problem.startswith("library.page_timeout_s is 20; must be at most library.refresh_tim")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ollama.com/library",
        "ftp://ollama.com/library",
        "https://ollama.com/library?sort=new",
        "https://user@ollama.com/library",
        "https://ollama.com/a library",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        LibraryConfig(source="web", url=url)
