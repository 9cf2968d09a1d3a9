"""The committed stubs of the wire are what the files of the wire give."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
STUBS = ROOT / "clients" / "python" / "src" / "broker_client" / "pb"
# The plugins of protoc lie beside the interpreter that they were installed with.
BIN = Path(sys.executable).parent


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*.py*"))
        if path.suffix in (".py", ".pyi")
    }


def test_committed_stubs_are_those_of_the_files(tmp_path: Path) -> None:
    """Else: `make proto`, and commit what it wrote."""
    out = tmp_path / "pb"
    subprocess.run(
        [sys.executable, PROTO / "generate.py", out],
        check=True,
        timeout=60,
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"},
    )
    fresh = contents(out)
    assert any(name.endswith("inference_pb2.pyi") for name in fresh)
    assert contents(STUBS) == fresh
