"""How far a simulation has come, on a terminal, where it takes longer than a second."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SILENT_S: Final = 1.0


class SimulationProgress:
    """Nothing is shown in the first second, and never where nobody looks."""

    def __init__(self, name: str, console: Console | None = None) -> None:
        self._name = name
        self._console = console or Console(stderr=True)
        self._began_s = 0.0
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> SimulationProgress:
        self._began_s = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def hear(self, ended: int, expected: int) -> None:
        """So many requests have ended, of about so many."""
        if self._bar is None:
            if not self._console.is_terminal or time.monotonic() - self._began_s < SILENT_S:
                return
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.completed} of {task.total} requests"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(self._name, total=expected)
            self._bar.start()
        self._bar.update(self._task, completed=ended, total=expected)
        sys.stderr.flush()
