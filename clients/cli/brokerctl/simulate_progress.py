"""How far something has come, on a terminal, where it takes longer than a second."""

from __future__ import annotations

from threading import Lock, Timer
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

SILENT_S: Final = 1.0


class SimulationProgress:
    """Nothing is shown in the first second, and never where nobody looks. Until `hear` is called
    nobody knows how much there is to do."""

    def __init__(self, name: str, console: Console | None = None) -> None:
        self._name = name
        self._console = console or Console(stderr=True)
        self._timer = Timer(SILENT_S, self.show)
        self._timer.daemon = True
        self._lock = Lock()  # the timer has a thread of its own
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._is_over = False

    def __enter__(self) -> SimulationProgress:
        if self._console.is_terminal:
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._bar is not None:
                self._bar.stop()

    def show(self) -> None:
        """From now on it is shown, if anybody looks."""
        with self._lock:
            if self._is_over or self._bar is not None or not self._console.is_terminal:
                return
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[count]}", markup=False),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(self._name, total=None, count="")
            self._bar.start()

    def hear(self, ended: int, expected: int) -> None:
        """So many requests have ended, of about so many."""
        if self._bar is not None:
            words = f"{ended} of {expected} requests"
            self._bar.update(self._task, completed=ended, total=expected, count=words)
