"""The project's own source files, for the checks of this folder: which there are, what they import.

Generated stubs are left out everywhere: protoc writes them, and a check of its own compares them.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Folders of this repository that are on the import path, longest first.
IMPORT_ROOTS = (ROOT / "clients" / "python" / "src", ROOT / "clients" / "cli", ROOT)
CODE_SUFFIXES = (".py", ".pyi", ".pyx", ".pxd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported module by its full name, and the names taken from it (none: itself)."""

    line: int
    module: str
    names: tuple[str, ...]


@cache
def project_files() -> tuple[Path, ...]:
    """What git tracks or would: a checkout without git has every file that is not hidden."""
    command = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode == 0:
        found = (ROOT / name for name in done.stdout.splitlines())
    else:
        found = (p for p in ROOT.rglob("*") if not _is_hidden(p.relative_to(ROOT)))
    return tuple(sorted(path for path in found if path.is_file()))


def _is_hidden(path: Path) -> bool:
    return path.parts[0] in ("build", "dist") or any(part.startswith(".") for part in path.parts)


def code_files() -> Iterator[Path]:
    """Python and Cython sources, without the generated ones."""
    for path in project_files():
        if path.suffix in CODE_SUFFIXES and "pb" not in path.relative_to(ROOT).parts:
            yield path


def module_name(path: Path) -> str:
    """`broker.core.engine` for broker/core/engine.py; a package's name for its __init__."""
    root = next(each for each in IMPORT_ROOTS if path.is_relative_to(each))
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(text: str, module: str, *, is_package: bool = False) -> Iterator[Import]:
    """Every import in `text`, wherever it stands; relative ones resolved."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for each in node.names:
                yield Import(line=node.lineno, module=each.name, names=())
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                around = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*around, base] if base else around)
            names = tuple(each.name for each in node.names)
            yield Import(line=node.lineno, module=base, names=names)
