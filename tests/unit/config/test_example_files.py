"""The configuration files that travel with the project say what the code says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from broker.config.aliases import AliasConfig
from broker.config.load import load
from broker.config.reload import LIVE
from broker.config.schema import AgentTypeConfig, Config
from broker.config.section import Section
from broker.config.serving import ModelConfig

PACKAGING = Path(__file__).resolve().parents[3] / "packaging"
EXAMPLE = PACKAGING / "broker.example.toml"
DEFAULT_LINE = re.compile(r"^#(?=[\[a-z])", re.MULTILINE)
EXAMPLE_LINE = re.compile(r"^#~ ", re.MULTILINE)


def written(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "broker.toml"
    file.write_text(text)
    return load(file, {})


def test_the_example_changes_nothing() -> None:
    assert load(EXAMPLE, {}) == Config()


def test_what_the_example_calls_a_default_is_one(tmp_path: Path) -> None:
    assert written(tmp_path, DEFAULT_LINE.sub("", EXAMPLE.read_text())) == Config()


def test_the_examples_in_the_example_are_good(tmp_path: Path) -> None:
    config = written(tmp_path, EXAMPLE_LINE.sub("", EXAMPLE.read_text()))
    assert [each.name for each in config.backends] == ["ollama", "second"]
    assert config.models
    assert [each.name for each in config.agents.types] == ["system"]


def test_the_example_shows_every_setting() -> None:
    text = EXAMPLE_LINE.sub("", DEFAULT_LINE.sub("", EXAMPLE.read_text()))
    document = tomllib.loads(text)
    assert set(document) == set(Config.model_fields)
    for name in set(Config.model_fields) - {"aliases", "bulkheads", "backends", "models"}:
        section: Section = getattr(Config(), name)
        assert set(document[name]) == set(type(section).model_fields)
    assert set(document["backends"][0]) == set(type(Config().backends[0]).model_fields)
    assert set(document["agents"]["types"][-1]) == set(AgentTypeConfig.model_fields)
    assert document["bulkheads"] == Config().bulkheads
    assert set(Config().aliases) < set(document["aliases"])
    assert {key for each in document["aliases"].values() for key in each} == set(
        AliasConfig.model_fields
    )
    assert set(document["models"]["llama3.2:3b"]) == set(ModelConfig.model_fields)


def test_the_example_lists_what_a_reload_changes() -> None:
    listed = re.findall(r"^#   \[([a-z_]+)\] (.+)$", EXAMPLE.read_text(), re.MULTILINE)
    assert [(name, what.split(", ")) for name, what in listed] == [
        (name, ["everything"] if live is None else sorted(live)) for name, live in LIVE.items()
    ]


def test_no_line_of_the_example_is_neither_text_nor_setting() -> None:
    """A mistyped mark would hide a line from the other tests."""
    known = re.compile(r"^(?:|# .*|#|#~ .+|#?\[.*\]|#[a-z0-9_]+ = .+)$")
    assert [line for line in EXAMPLE.read_text().splitlines() if not known.match(line)] == []


def test_the_image_listens_to_its_own_network() -> None:
    server = load(PACKAGING / "container.toml", {}).server
    assert server.grpc_address == "0.0.0.0:50434"
    assert server.http_address == "0.0.0.0:9434"
