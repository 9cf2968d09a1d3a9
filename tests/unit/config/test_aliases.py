"""Words for models, as an operator writes them and gets them wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.config.load import load
from broker.config.schema import Config
from broker.core.requirements import Alias, Preference, Requirements
from broker.daemon.engine_policy import engine_policy
from tests.unit.config.problems import problems_of


def aliases(tmp_path: Path, text: str) -> dict[str, Alias]:
    file = tmp_path / "broker.toml"
    file.write_text(text)
    return dict(engine_policy(load(file, {})).aliases)


def test_two_are_there_without_a_word_of_anybody() -> None:
    built_in = engine_policy(Config()).aliases
    assert {name: each.wants.prefer for name, each in built_in.items()} == {
        "fast": Preference.FAST,
        "small": Preference.SMALL,
    }


def test_what_is_written_comes_beside_them_or_in_their_place(tmp_path: Path) -> None:
    found = aliases(
        tmp_path,
        '[aliases.fast]\nmodels = ["fast:latest"]\n'
        '[aliases.seeing]\ncapabilities = ["vision", "tools"]\ncontext_min = 8192\n'
        'size_gb_max = 10\nmemory_gb_max = 12.5\nprefer = "large"\n',
    )
    assert set(found) == {"fast", "small", "seeing"}
    assert found["fast"] == Alias(models=("fast:latest",))
    assert found["seeing"].wants == Requirements(
        capabilities=frozenset({"vision", "tools"}),
        context_min=8192,
        size_bytes_max=10_000_000_000,
        memory_bytes_max=12_500_000_000,
        prefer=Preference.LARGE,
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '[aliases.x]\nmodels = ["a"]\nprefer = "small"',
            "aliases.x.prefer: does not go with models: an alias is a list of models in order of "
            "preference, or what a model must be",
        ),
        (
            '[aliases.x]\nmodels = ["a", "Small"]',
            'aliases.x.models[1]: is "Small", an alias: these name models alone; a model of that '
            'name is written "Small:latest"',
        ),
        (
            '[aliases.x]\nmodels = ["a", "A:latest"]',
            'aliases.x.models[1]: is "A:latest" a second time',
        ),
        (
            '[aliases.x]\nmodels = ["a b"]',
            'aliases.x.models[0]: is "a b", which is no name of a model',
        ),
        (
            '[models."fast"]\nslots = 2',
            'models.fast: is called like an alias; a model of that name is written "fast:latest"',
        ),
    ],
)
def test_an_alias_that_contradicts_itself_or_others(
    tmp_path: Path, text: str, problem: str
) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(text)
    assert problems_of(file) == [problem]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('[aliases."a:b"]\nprefer = "fast"', 'aliases."a:b"'),
        ('[aliases.x]\nprefer = "cheap"', "aliases.x.prefer"),
        ('[aliases.x]\ncapabilities = ["wit"]', "aliases.x.capabilities[0]"),
        ("[aliases.x]\nsize_gb_max = 0", "aliases.x.size_gb_max"),
        ("[aliases.x]\nnothing = 1", "aliases.x.nothing"),
    ],
)
def test_an_alias_that_is_none(tmp_path: Path, text: str, path: str) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(text)
    assert any(each.startswith(path) for each in problems_of(file)), problems_of(file)


def test_a_model_of_the_same_name_is_configured_by_its_tag(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text('[models."fast:latest"]\nslots = 2')
    assert "fast:latest" in load(file, {}).models
