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
    """`figures` are the metrics by name; `bounds` are the largest values that they may have,
    `floors` the smallest. `not_measured`: metrics that could not be, and why. `picture` is an SVG.
    """

    name: str
    seed: int
    figures: dict[str, float]
    bounds: dict[str, float] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)
    table: str = ""
    picture: str = ""

    def write(self, path: Path) -> None:
        """All but what is for people, with commit and machine, as JSON."""
        document = {
            "name": self.name,
            "commit": commit(),
            "machine": machine(),
            "seed": self.seed,
            "figures": self.figures,
            "bounds": self.bounds,
            "floors": self.floors,
            "not_measured": self.not_measured,
        }
        path.write_text(json.dumps(document, indent=2) + "\n")

    def draw(self, path: Path) -> None:
        """The picture, where there is one."""
        if self.picture:
            path.write_text(self.picture)

    def render(self) -> str:
        """For people: the table, then each figure with its bound."""
        lines = [self.table.rstrip(), ""] if self.table else []
        width = max(len(name) for name in (*self.figures, *self.not_measured))
        for name, value in self.figures.items():
            lines.append(f"{name:<{width}}  {value:10.3f}{self._verdict(name, value)}")
        for name, why in self.not_measured.items():
            lines.append(f"{name:<{width}}  NOT MEASURED: {why}")
        return "\n".join(lines)

    def _verdict(self, name: str, value: float) -> str:
        bound, floor = self.bounds.get(name), self.floors.get(name)
        said = []
        if floor is not None:
            said.append(f"at least {floor:g}")
        if bound is not None:
            said.append(f"at most {bound:g}")
        if not said:
            return ""
        is_reached = (bound is None or value <= bound) and (floor is None or value >= floor)
        return f"  {' and '.join(said)}: {'reached' if is_reached else 'MISSED'}"


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
