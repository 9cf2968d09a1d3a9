"""A file in the library's place: in the seed's shape, and every problem told with its place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from broker.core.library import LibraryFailed, LibraryModel, LibraryVariant
from broker.library.catalogue_file import (
    FILE_BYTES_MAX,
    PROBLEMS_TOLD_MAX,
    CatalogueFile,
    read_catalogue,
)

# As the first page of the seed's specification shows its cache.
SEED = """{
  "llama3": {
    "downloaded": true,
    "variants": {
      "llama3:8b": {
        "downloaded": true,
        "size_str": "5.2GB",
        "context_window": 128000,
        "modified_at": "2024-01-01T00:00:00Z"
      },
      "llama3:70b": {"downloaded": false, "size_str": "70B", "context_window": 0, "modified_at": ""}
    }
  }
}"""

TOML = """
[own]
description = "Trained at home."
capabilities = ["completion", "tools"]

[own.variants."own:latest"]
size_str = "1.5 TB"
context_window = 4096
modified_at = 2026-01-02T03:04:05Z
digest = "sha256:aa"
"""


def written(folder: Path, text: str | bytes, name: str = "catalogue.json") -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def problems(folder: Path, text: str | bytes, name: str = "catalogue.json") -> str:
    with pytest.raises(LibraryFailed) as failure:
        read_catalogue(written(folder, text, name))
    assert not failure.value.retryable
    return failure.value.message.replace(f"{folder}/", "")


def test_the_seeds_own_cache_is_a_catalogue(tmp_path: Path) -> None:
    """Whether it was downloaded there says nothing of here; "70B" is no size."""
    assert read_catalogue(written(tmp_path, SEED)) == (
        LibraryModel(
            name="llama3",
            variants=(
                LibraryVariant(
                    name="llama3:8b",
                    size_bytes=5_200_000_000,
                    context_window=128_000,
                    modified_at="2024-01-01T00:00:00Z",
                ),
                LibraryVariant(name="llama3:70b"),
            ),
        ),
    )


def test_the_same_as_toml(tmp_path: Path) -> None:
    [model] = read_catalogue(written(tmp_path, TOML, "own.toml"))
    assert model.capabilities == {"completion", "tools"}
    assert model.description == "Trained at home."
    assert model.variants == (
        LibraryVariant(
            name="own:latest",
            size_bytes=1_500_000_000_000,
            context_window=4_096,
            modified_at="2026-01-02T03:04:05+00:00",
            digest="sha256:aa",
        ),
    )


async def test_it_is_read_anew_each_time(tmp_path: Path) -> None:
    file = written(tmp_path, "{}")
    library = CatalogueFile(file)
    assert library.name == str(file)
    assert await library.models({}) == ()
    written(tmp_path, SEED)
    assert len(await library.models({})) == 1
    file.unlink()
    with pytest.raises(LibraryFailed, match="No such file"):
        await library.models({})
    assert library.transfer.bytes_per_s is None
    await library.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "catalogue.json: line 1, column 1: Expecting value"),
        ('{"a": {}', "catalogue.json: line 1, column 9: Expecting"),
        ('{\n "a": {},\n}', "catalogue.json: line 3, column 1: Expecting property name"),
        (b'{"\xff": {}}', "catalogue.json: byte 2 is no UTF-8"),
        ("[" * 100_000, "catalogue.json: maximum recursion depth"),
        ('{"a": {}, "a": {}}', "catalogue.json: 'a' stands there twice"),
        (
            '{"a": {"variants": {"a:1": {"context_window": %s}}}}' % ("9" * 9_000),
            "catalogue.json: ",
        ),
        ("[]", "catalogue.json: it must be a table of models"),
        ('{"a": 1}', "catalogue.json: a: must be a table"),
        ('{"a:b": {}}', "catalogue.json: 'a:b': must be the name of a model, without a tag"),
        ('{"../x": {}}', "catalogue.json: '../x': must be the name of a model"),
        ('{"a": {}, "A": {}}', "catalogue.json: A: is there twice, as names are compared"),
        ('{"a": {"variant": {}}}', "catalogue.json: a.variant: no such key; there are capa"),
        ('{"a": {"variants": []}}', "catalogue.json: a.variants: must be a table"),
        ('{"a": {"downloaded": 1}}', "catalogue.json: a.downloaded: must be true or false"),
        ('{"a": {"capabilities": "tools"}}', "a.capabilities: must be a list of at most 16 words"),
        ('{"a": {"capabilities": [1]}}', "a.capabilities[0]: must be a text on one line"),
        ('{"a": {"description": "x\\ny"}}', "a.description: must be a text on one line"),
        ('{"a": {"description": "%s"}}' % ("x" * 1_001), "must be at most 1000 characters"),
        ('{"a": {"variants": {"b:1": {}}}}', 'a.variants."b:1": must be a with a tag'),
        ('{"a": {"variants": {"a:1": {}, "A:1": {}}}}', 'a.variants."a:1": is there twice'),
        ('{"a": {"variants": {"a:1": 5}}}', 'a.variants."a:1": must be a table'),
        ('{"a": {"variants": {"a:1": {"size": 5}}}}', 'a.variants."a:1".size: no such key'),
        ('{"a": {"variants": {"a:1": {"size_str": 5}}}}', '"a:1".size_str: must be a text'),
        ('{"a": {"variants": {"a:1": {"context_window": -1}}}}', "must be a whole number from 0"),
        ('{"a": {"variants": {"a:1": {"context_window": 1.5}}}}', "must be a whole number"),
        ('{"a": {"variants": {"a:1": {"modified_at": "5 months ago"}}}}', "must be a date as"),
    ],
)
def test_every_problem_has_a_place(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert expected in problems(tmp_path, text)


def test_a_mistake_in_toml_has_its_line(tmp_path: Path) -> None:
    assert "line 2" in problems(tmp_path, "[a]\nvariants =\n", "c.toml")


def test_all_problems_are_told_up_to_a_limit(tmp_path: Path) -> None:
    told = problems(tmp_path, json.dumps({f"m{n}": 5 for n in range(100)})).splitlines()
    assert told[0] == "catalogue.json: m0: must be a table"
    assert told[-1] == f"and {100 - PROBLEMS_TOLD_MAX} more"
    assert len(told) == PROBLEMS_TOLD_MAX + 1


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "catalogue.json"
    with file.open("wb") as out:
        out.truncate(FILE_BYTES_MAX + 10)
    with pytest.raises(LibraryFailed, match=f"over {FILE_BYTES_MAX} bytes"):
        read_catalogue(file)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(LibraryFailed, match="Is a directory"):
        read_catalogue(tmp_path)


def test_a_pipe_in_its_place_holds_nobody_up(tmp_path: Path) -> None:
    pipe = tmp_path / "models.json"
    os.mkfifo(pipe)
    with pytest.raises(LibraryFailed, match="it is a pipe"):
        read_catalogue(pipe)
