"""What a benchmark says: figures by metric name, and where and from what they were measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """`figures` are the metrics by name; `bounds` the largest value that each should reach."""

    name: str
    seed: int
    figures: dict[str, float]
    bounds: dict[str, float] = field(default_factory=dict)
    table: str = ""

    def write(self, path: Path) -> None:
        """{name, commit, machine, seed, figures, bounds} as JSON."""
        document = {
            "name": self.name,
            "commit": commit(),
            "machine": machine(),
            "seed": self.seed,
            "figures": self.figures,
            "bounds": self.bounds,
        }
        path.write_text(json.dumps(document, indent=2) + "\n")

    def render(self) -> str:
        """For people: the table, then each figure with its bound."""
        lines = [self.table.rstrip(), ""] if self.table else []
        width = max(len(name) for name in self.figures)
        for name, value in self.figures.items():
            bound = self.bounds.get(name)
            verdict = ""
            if bound is not None:
                verdict = f"  bound {bound:g}: {'reached' if value <= bound else 'MISSED'}"
            lines.append(f"{name:<{width}}  {value:10.3f}{verdict}")
        return "\n".join(lines)


def commit() -> str:
    """The commit measured, with a mark where the tree differs from it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


@dataclass(frozen=True, slots=True)
class _Machine:
    processor: str
    cores: int
    system: str
    python: str


def machine() -> dict[str, object]:
    """What it was measured on."""
    processor = platform.processor() or "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    cores = os.cpu_count() or 1
    return asdict(_Machine(processor, cores, platform.platform(), platform.python_version()))
