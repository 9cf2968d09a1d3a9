"""A break of the wire is noticed: buf compares the files with the baseline beside them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
# buf lies beside the interpreter that it was installed with.
BUF = Path(sys.executable).parent / "buf"


def breaking(proto: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BUF), "breaking", str(proto), "--against", str(PROTO / "baseline.binpb")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_wire_breaks_nothing_that_was_released() -> None:
    done = breaking(PROTO)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_removed_field_is_noticed(tmp_path: Path) -> None:
    copy = tmp_path / "proto"
    shutil.copytree(PROTO, copy, ignore=shutil.ignore_patterns("__pycache__"))
    changed = copy / "broker" / "v1" / "common.proto"
    lines = changed.read_text().splitlines()
    kept = [line for line in lines if "output_tokens = 2" not in line]
    assert len(kept) == len(lines) - 1
    changed.write_text("\n".join(kept))
    done = breaking(copy)
    assert done.returncode != 0
    assert "output_tokens" in done.stdout
