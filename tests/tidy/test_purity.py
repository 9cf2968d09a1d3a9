"""The core, `_sched` and the simulated Ollama decide alone: no clock, no chance, no world.

The check is a list of what a pure module may import, not of what it may not: a module that nobody
thought of is impure until somebody says otherwise.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.tidy.sources import ROOT, code_files, imports, module_name

# Modules of the standard library that compute and do nothing else.
PURE: Final = frozenset(
    {
        "__future__",
        "abc",
        "base64",
        "binascii",
        "bisect",
        "codecs",
        "collections",
        "contextlib",
        "copy",
        "dataclasses",
        "difflib",
        "enum",
        "fnmatch",
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "itertools",
        "html",
        "json",
        "math",
        "operator",
        "re",
        "string",
        "struct",
        "textwrap",
        "types",
        "typing",
        "zlib",
    }
)
# Of these, only what is named: a generator of chance that was seeded and handed in.
PURE_NAMES: Final = {
    "random": frozenset({"Random"}),
    "datetime": frozenset({"UTC", "datetime", "timedelta"}),  # to read what is written
}
# What checks the files of the simulator, and reaches for nothing itself.
READERS: Final = frozenset({"pydantic", "pydantic_core", "tomllib"})
CLOCK_CALLS: Final = frozenset({"now", "utcnow", "today"})
# Ollama's answers hold times as people write them; these say how a given time is written.
CALENDAR: Final = frozenset({"gmtime", "localtime", "strftime"})
PURE_OURS: Final = ("broker.core", "broker.sim", "_sched")
IMPURE_CALLS: Final = frozenset(
    {"open", "print", "input", "eval", "exec", "compile", "breakpoint", "__import__"}
)

# Modules of broker/sim that face the world, each with what it does there.
SHELLS: Final = {
    "broker.sim.ollama_sim": "the command line, the sockets, the signals",
    "broker.sim.ollama_http": "the HTTP server",
    "broker.sim.ollama_control": "the control endpoint",
    "broker.sim.ollama_management": "what it serves of pulls and deletes",
    "broker.sim.ollama_pump": "the real clock",
    "broker.sim.ollama_origin": "asks for this machine's name, as Ollama does",
    "broker.sim.ollama_catalogue_file": "reads a file of models",
    "broker.sim.client_gone": "a part of both HTTP servers",
    "broker.sim.trace": "reads a file of requests",
    "broker.sim.workload_file": "reads a file",
    "broker.sim.openai_sim": "the command line, the sockets, the signals",
    "broker.sim.openai_http": "the HTTP server, the real clock",
    "broker.sim.openai_control": "the control endpoint",
}


def is_pure_layer(module: str) -> bool:
    return module.startswith(PURE_OURS) and module not in SHELLS


def impurities(text: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """What in a pure module reaches beyond its arguments."""
    for each in imports(text, module, is_package=is_package):
        first = each.module.partition(".")[0]
        if any(each.module.startswith(ours) for ours in PURE_OURS):
            if each.module in SHELLS:
                yield f"{module}:{each.line} imports {each.module}, which faces the world"
        elif first in PURE_NAMES:
            wrong = set(each.names) - PURE_NAMES[first]
            if wrong or not each.names:
                yield f"{module}:{each.line} imports {each.module} {sorted(wrong)}"
        elif first in READERS and module.startswith("broker.sim."):
            continue
        elif first not in PURE and not (first == "time" and writes_times_only(text, module)):
            yield f"{module}:{each.line} imports {each.module}"
    yield from impure_calls(text, module)


def impure_calls(text: str, module: str) -> Iterator[str]:
    """What a pure module does that no import tells."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in IMPURE_CALLS:
                yield f"{module}:{node.lineno} calls {node.func.id}"
            if node.func.id == "Random" and not node.args:
                yield f"{module}:{node.lineno} draws a seed from the machine"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            asked = node.func.value
            is_calendar = isinstance(asked, ast.Name) and asked.id in ("datetime", "date")
            if is_calendar and node.func.attr in CLOCK_CALLS:
                yield f"{module}:{node.lineno} asks what day it is"


def writes_times_only(text: str, module: str) -> bool:
    """Does a part of the simulator use `time` for the calendar alone, and not as a clock?"""
    used = {
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "time"
    }
    return module.startswith("broker.sim.") and "import time\n" in text and used <= CALENDAR


def cython_impurities(text: str, name: str) -> Iterator[str]:
    """Extensions take from C's library only memory and numbers, and from Python what is pure."""
    pattern = re.compile(r"^\s*(?:from\s+(\S+)\s+c?import|c?import\s+(\S+))", re.MULTILINE)
    allowed = (
        *("libc.stdint", "libc.stdlib", "libc.string", "libc.math", "libc.limits", "libc.float"),
        *("cpython.mem", "cython"),
    )
    for match in pattern.finditer(text):
        module = match[1] or match[2]
        is_ours = module.startswith(("_sched", "."))
        if not is_ours and module not in allowed and module.partition(".")[0] not in PURE:
            yield f"{name} imports {module}"


def pure_files() -> list[Path]:
    return [path for path in code_files() if is_pure_layer(module_name(path))]


def test_what_decides_reaches_for_nothing() -> None:
    found: list[str] = []
    for path in pure_files():
        text, module = path.read_text(), module_name(path)
        if path.suffix in (".pyx", ".pxd"):
            found += cython_impurities(text, path.relative_to(ROOT).as_posix())
        else:
            found += impurities(text, module, is_package=path.name == "__init__.py")
    assert not found, "\n".join(found)


def test_the_check_sees_what_it_is_about() -> None:
    names = {module_name(path) for path in pure_files()}
    assert {"broker.core.engine", "broker.sim.ollama_model", "broker.sim.world"} <= names
    assert {path.suffix for path in pure_files()} >= {".py", ".pyx", ".pxd"}
    assert set(SHELLS) <= {module_name(path) for path in code_files()}


@pytest.mark.parametrize(
    "text",
    [
        "import time",
        "from time import monotonic_ns",
        "import asyncio",
        "import os",
        "import random",
        "from random import choice",
        "import logging",
        "import structlog",
        "import datetime",
        "from datetime import datetime\ndatetime.now()",
        "def f():\n    import socket",
        "open('x')",
        "print(1)",
        "from random import Random\nRandom()",
        "from broker.runtime.clock import LoopClock",
        "from broker.sim.ollama_pump import Pump",
    ],
)
def test_what_reaches_for_the_world_is_found(text: str) -> None:
    assert len(list(impurities(text, "broker.core.x"))) == 1


@pytest.mark.parametrize(
    "text", ["from random import Random\nRandom(7)", "import heapq", "from _sched.heap import H"]
)
def test_what_computes_passes(text: str) -> None:
    assert list(impurities(text, "broker.core.x")) == []


def test_the_calendar_is_no_clock() -> None:
    calendar = "import time\ntime.gmtime(0)\n"
    assert list(impurities(calendar, "broker.sim.x")) == []
    for text in (calendar + "time.monotonic()\n", "from time import gmtime, time\n"):
        assert list(impurities(text, "broker.sim.x")) == ["broker.sim.x:1 imports time"]
    assert list(impurities(calendar, "broker.core.x")) == ["broker.core.x:1 imports time"]


def test_an_extension_that_reads_the_clock_is_found() -> None:
    text = "from libc.time cimport time\nimport os\nfrom libc.stdint cimport int64_t\n"
    assert list(cython_impurities(text, "x")) == ["x imports libc.time", "x imports os"]
