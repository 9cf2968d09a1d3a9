"""The configurations that the pages for people show are good ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker.config.load import load
from broker.core.ports import Backend
from broker.daemon.backends import make_backend

DOCS = Path(__file__).resolve().parents[3] / "docs"
BLOCK = re.compile(r"^```toml\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHOWN = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in sorted(DOCS.glob("*.md"))
    for number, block in enumerate(BLOCK.findall(page.read_text()))
]


@pytest.mark.parametrize("text", SHOWN)
def test_a_configuration_that_is_shown_is_good(text: str, tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(text)
    assert load(file, {}).backends


def test_the_servers_of_openais_dialect_get_their_adapter(tmp_path: Path) -> None:
    (text,) = (
        each for each in BLOCK.findall((DOCS / "operating.md").read_text()) if "vllm" in each
    )
    file = tmp_path / "broker.toml"
    file.write_text(text)
    configs = load(file, {}).backends
    made: list[Backend] = [make_backend(each, {"VLLM_API_KEY": "k"}) for each in configs]
    assert [(each.name, each.kind, each.keeps_models) for each in made] == [
        ("box", "ollama", False),
        ("vllm", "openai", True),
        ("llama", "openai", True),
    ]
    assert made[1].url == "http://10.0.0.7:8000"
    assert [each.slots for each in configs] == [1, 32, 4]
