"""What is imported is declared and the other way round; what is pinned fits the ranges."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from broker_client import __version__
from tests.tidy.sources import ROOT, code_files, imports, module_name, project_files

CLIENT = ROOT / "clients" / "python"
# Modules that come with a distribution of another name, and whose own name is not to be declared.
COMES_WITH = {"pydantic_core": "pydantic"}
# Parts of one namespace package by the distribution that holds them.
GOOGLE = {"google.protobuf": "protobuf", "google.rpc": "googleapis-common-protos"}


def project(folder: Path) -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return table


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(folder: Path) -> dict[str, tuple[int, ...]]:
    """Distribution -> its lower bound."""
    requirements = project(folder)["dependencies"]
    assert isinstance(requirements, list)
    found = {}
    for each in requirements:
        match = re.fullmatch(r"([\w.-]+)>=([\d.]+)(?:,<[\d.]+)?", each)
        assert match is not None, each
        found[canonical(match[1])] = numbers(match[2])
    return found


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def imported(packages: tuple[str, ...]) -> set[str]:
    """The distributions of others that these packages import, stubs included."""
    known = packages_distributions()
    found: set[str] = set()
    stubs = (p for p in project_files() if "pb" in p.parts and p.suffix == ".py")
    for path in [*code_files(), *stubs]:
        module = module_name(path)
        if path.suffix != ".py" or module.partition(".")[0] not in packages:
            continue
        for each in imports(path.read_text(), module):
            first = each.module.partition(".")[0]
            if first == "google":
                found.add(GOOGLE[".".join(each.module.split(".")[:2])])
            elif first in COMES_WITH:
                found.add(COMES_WITH[first])
            elif first not in sys.stdlib_module_names:
                found.update(map(canonical, known.get(first, [])))
    return found - {"ollama-broker", "broker-client"}


def test_the_product_declares_what_it_imports() -> None:
    assert imported(("broker", "_sched", "brokerctl", "broker_client")) == set(declared(ROOT))


def test_the_client_declares_what_it_imports() -> None:
    assert imported(("broker_client",)) == set(declared(CLIENT))


def test_pins_are_within_the_ranges() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    for folder in (ROOT, CLIENT):
        for name, lowest in declared(folder).items():
            assert numbers(pins[name]) >= lowest, name


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_everything_is_pinned(name: str) -> None:
    for line in (ROOT / name).read_text().splitlines():
        assert re.fullmatch(r"#.*|-r requirements\.txt|[a-z0-9-]+==[0-9][\w.]*", line), line


def test_both_distributions_have_one_version() -> None:
    assert project(ROOT)["version"] == __version__
    assert project(CLIENT)["dynamic"] == ["version"]
