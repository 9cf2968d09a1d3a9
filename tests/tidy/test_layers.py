"""Imports point down: daemon -> api -> services -> runtime, models -> core -> _sched.

Backends, monitors, state, security and observability fill ports of the core and are strangers to
each other. Agents' code never imports the broker. What a layer may import is a row of `MAY_IMPORT`;
a package without a row fails, so that a new one is thought about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import pytest

from tests.tidy.sources import code_files, imports, module_name

CORE: Final = frozenset({"broker.core"})
STUBS: Final = "broker_client.pb"

# Besides itself, a layer imports only these of the project. Whoever may import a layer may not
# therefore import what that one does.
MAY_IMPORT: Final[Mapping[str, frozenset[str]]] = {
    "_sched": frozenset(),
    "broker.core": frozenset({"_sched"}),
    "broker.models": CORE,
    "broker.runtime": CORE,
    "broker.services": CORE | {"broker.runtime", "broker.models"},
    "broker.api": CORE | {"broker.services", "broker.runtime", "broker.models", STUBS},
    "broker.backends": CORE,
    "broker.library": CORE,
    "broker.monitors": CORE,
    "broker.state": CORE,
    "broker.security": CORE,
    "broker.observability": CORE,
    "broker.config": CORE,
    # The simulated Ollama is a program of its own; its virtual world drives the engine.
    "broker.sim": CORE | {"_sched"},
    "broker.daemon": CORE
    | {
        "broker.api",
        "broker.services",
        "broker.runtime",
        "broker.models",
        "broker.backends",
        "broker.library",
        "broker.monitors",
        "broker.state",
        "broker.security",
        "broker.observability",
        "broker.config",
    },
    "broker_client": frozenset(),
    # brokerctl travels with the broker; of it, it knows only what a configuration file may say, and
    # the simulator that a configuration can be tried on.
    "brokerctl": frozenset(
        {"broker_client", "broker.config", "broker.sim", "broker.daemon.engine_policy"}
    ),
    # Programs around the product, which nothing imports.
    "bench": frozenset({"_sched", "broker", "broker_client", "tests.nvml_stub"}),
    "tests": frozenset({"_sched", "broker", "broker_client", "brokerctl", "bench", "docs"}),
    "examples": frozenset({"broker_client"}),
    # Diagrams are drawn from the tables of the core, screens by brokerctl itself.
    "docs": frozenset({"broker", "broker_client", "brokerctl"}),
    "proto": frozenset(),
    "setup": frozenset(),
}
OURS: Final = frozenset(name.partition(".")[0] for name in MAY_IMPORT)


def layer_of(module: str) -> str:
    """The row that a module belongs to: of two names within the daemon's package, else of one."""
    first, _, rest = module.partition(".")
    if first == "clients":
        return "examples"
    return f"{first}.{rest.partition('.')[0]}" if first == "broker" and rest else first


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def violations(text: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Each import of `module` that its layer does not allow."""
    layer = layer_of(module)
    for each in imports(text, module, is_package=is_package):
        if each.module.partition(".")[0] not in OURS:
            continue
        targets = {each.module}
        if each.module == "broker":  # `from broker import core` imports a layer as well
            targets = {f"broker.{name}" for name in each.names} or targets
        for target in sorted(targets):
            allowed = {layer, *MAY_IMPORT.get(layer, ())}
            if not any(is_within(target, package) for package in allowed):
                yield f"{module}:{each.line} imports {target}"


def test_every_module_has_a_layer() -> None:
    known = {*MAY_IMPORT, "broker"}
    modules = {module_name(path) for path in code_files()}
    assert {layer_of(each) for each in modules} - known == set()


def test_imports_point_down() -> None:
    found = [
        each
        for path in code_files()
        if path.suffix in (".py", ".pyi")
        for each in violations(
            path.read_text(), module_name(path), is_package=path.name == "__init__.py"
        )
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("broker.core.x", "import broker.runtime.driver"),
        ("broker.core.x", "from broker.api import grpc"),
        ("broker.core.x", "from broker import services"),
        ("broker.core.x", "from ..models import catalog"),
        ("broker.core.x", "def f():\n    from broker.config.schema import Config"),
        ("broker.core.x", "from broker_client.pb.broker.v1 import common_pb2"),
        ("broker.backends.x", "from broker.observability import logs"),
        ("broker.observability.x", "from broker.backends.ollama import OllamaBackend"),
        ("broker.services.x", "from broker.api.grpc import status"),
        ("broker.runtime.x", "from broker.models.catalog import Catalog"),
        ("broker.api.x", "from broker_client import Client"),
        ("broker.sim.x", "from broker.backends.ollama_host import parse_host"),
        ("broker.daemon.x", "from broker.sim import world"),
        ("broker.config.x", "from broker.backends.ollama_host import parse_host"),
        ("broker_client.x", "from broker.core.errors import BrokerError"),
        ("brokerctl.x", "from broker.core.errors import BrokerError"),
        ("_sched.x", "from broker.core import engine"),
        ("broker.core.x", "from tests.unit import shell"),
        ("broker.unheard_of.x", "from broker.core import engine"),
    ],
)
def test_an_import_that_points_elsewhere_is_found(module: str, text: str) -> None:
    assert len(list(violations(text, module))) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("broker.core.x", "import heapq\nfrom _sched.heap import IndexedHeap"),
        ("broker.core.x", "from .errors import BrokerError"),
        ("broker.api.grpc.x", "from broker_client.pb.broker.v1 import common_pb2"),
        ("broker.services.x", "from broker.runtime.driver import Driver"),
        ("broker.daemon.x", "from broker.backends.ollama import OllamaBackend"),
        ("broker.brokerage", "import brokering"),
    ],
)
def test_an_import_that_points_down_passes(module: str, text: str) -> None:
    assert list(violations(text, module)) == []
