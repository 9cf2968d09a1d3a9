"""What is imported is declared and the other way round; what is pinned fits the ranges."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from broker_client import __version__
from tests.tidy.sources import ROOT, Import, code_files, imports, module_name, project_files

CLIENT = ROOT / "clients" / "python"
# Modules that come with a distribution of another name, and whose own name is not to be declared.
COMES_WITH = {"pydantic_core": "pydantic"}
# Parts of one namespace package by the distribution that holds them.
GOOGLE = {"google.protobuf": "protobuf", "google.rpc": "googleapis-common-protos"}
OTEL = {
    "opentelemetry.context": "opentelemetry-api",
    "opentelemetry.trace": "opentelemetry-api",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "opentelemetry.exporter": "opentelemetry-exporter-otlp-proto-grpc",
}


def project(folder: Path) -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return table


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(folder: Path, extra: str = "") -> dict[str, tuple[int, ...]]:
    """Distribution -> its lower bound; those that everybody needs, or those of an extra."""
    requirements = project(folder)["dependencies"]
    if extra:
        extras = project(folder)["optional-dependencies"]
        assert isinstance(extras, dict)
        requirements = extras[extra]
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
            elif first == "opentelemetry":
                found.update(_otel(each))
            elif first in COMES_WITH:
                found.add(COMES_WITH[first])
            elif first not in sys.stdlib_module_names:
                found.update(map(canonical, known.get(first, [])))
    return found - {"ollama-broker", "broker-client"}


def _otel(each: Import) -> set[str]:
    """The parts of OpenTelemetry that one statement imports."""
    names = [each.module]
    if each.module == "opentelemetry":
        names = [f"{each.module}.{name}" for name in each.names]
    return {OTEL[".".join(name.split(".")[:2])] for name in names}


def test_the_product_declares_what_it_imports() -> None:
    needed = {*declared(ROOT), *declared(ROOT, "otel")}
    assert imported(("broker", "_sched", "brokerctl", "broker_client")) == needed


def test_one_module_alone_knows_opentelemetry() -> None:
    """It is an extra: whoever lacks it must be able to run all the rest."""
    known_by = {
        module_name(path)
        for path in code_files()
        if path.suffix == ".py" and module_name(path).partition(".")[0] in ("broker", "brokerctl")
        for each in imports(path.read_text(), module_name(path))
        if each.module.partition(".")[0] == "opentelemetry"
    }
    assert known_by == {"broker.observability.tracing"}


def test_the_client_declares_what_it_imports() -> None:
    assert imported(("broker_client",)) == set(declared(CLIENT))


def test_pins_are_within_the_ranges() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    for folder in (ROOT, CLIENT):
        for name, lowest in declared(folder).items():
            assert numbers(pins[name]) >= lowest, name
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    for name, lowest in declared(ROOT, "otel").items():
        assert numbers(pins[name]) >= lowest, name


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_everything_is_pinned(name: str) -> None:
    for line in (ROOT / name).read_text().splitlines():
        assert re.fullmatch(r"#.*|-r requirements\.txt|[a-z0-9-]+==[0-9][\w.]*", line), line


def test_both_distributions_have_one_version() -> None:
    assert project(ROOT)["version"] == __version__
    assert project(CLIENT)["dynamic"] == ["version"]
