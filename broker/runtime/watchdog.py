"""Sees the broker's own loop stand still, and says where it stood.

The loop beats a few times within the time that counts as a standstill; a thread looks whether it
does. While it does not, the thread notes once what the loop's thread is doing. Where the thread
itself did not run, the whole process was stopped or starved, and no code of ours is to blame.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

import structlog

_log = structlog.get_logger(__name__)

BEATS_PER_STALL: Final = 4

# Where files of ours are; the innermost of them is where to look.
OURS: Final = f"{Path(__file__).resolve().parents[1]}/"

# (how long it stood still, where, in words)
OnStall = Callable[[int, str], None]

STOPPED: Final = "the whole process was stopped, or got no time to run"

# No thread runs beside code that keeps the interpreter to itself, so nobody could look.
COMPUTED: Final = "in a long computation outside Python, which let nothing look at it"


class Watchdog:
    """See the module. A standstill is told once, from the loop, after its end."""

    def __init__(self, stall_ms: int) -> None:
        self._stall_ns = stall_ms * 1_000_000
        self._beat_s = stall_ms / 1000 / BEATS_PER_STALL
        self._on_stall: OnStall = _nobody
        self._beat_ns = self._beat_cpu_ns = 0
        self._seen_where = ""  # what the thread has noted of a standstill that lasts
        self._timer: asyncio.TimerHandle | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._watched = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, on_stall: OnStall) -> None:
        """Called within the loop, whose thread is watched from now on."""
        self._on_stall = on_stall
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._beat_ns, self._beat_cpu_ns = time.monotonic_ns(), time.thread_time_ns()
        self._arm()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, which takes no longer than one of its looks."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    # In the loop

    def _arm(self) -> None:
        assert self._loop is not None
        self._timer = self._loop.call_later(self._beat_s, self._beat)

    def _beat(self) -> None:
        now_ns, cpu_ns = time.monotonic_ns(), time.thread_time_ns()
        computed_ns = cpu_ns - self._beat_cpu_ns
        stalled_ns = now_ns - self._beat_ns - int(self._beat_s * 1e9)
        where, self._seen_where = self._seen_where, ""
        self._beat_ns, self._beat_cpu_ns = now_ns, cpu_ns
        self._arm()
        if stalled_ns < self._stall_ns:
            return
        where = where or (COMPUTED if computed_ns > stalled_ns // 10 else STOPPED)
        _log.warning("the loop stood still", for_ms=stalled_ns // 1_000_000, where=where)
        self._on_stall(stalled_ns, where)

    # In the thread

    def _watch(self) -> None:
        looked_ns = time.monotonic_ns()
        while not self._stop.wait(self._beat_s):
            now_ns = time.monotonic_ns()
            was_late = now_ns - looked_ns > self._stall_ns // 2
            looked_ns = now_ns
            # Right after a stop of the whole process the loop had no time to beat either.
            if was_late or self._seen_where or now_ns - self._beat_ns < self._stall_ns:
                continue
            frame = sys._current_frames().get(self._watched)
            self._seen_where = _where(frame)


def _nobody(stalled_ns: int, where: str) -> None:
    """Hears of nothing."""


def _where(frame: FrameType | None) -> str:
    """The innermost frame of ours, and the innermost of all where that is another one."""
    innermost = _words(frame) if frame is not None else "somewhere"
    while frame is not None:
        if frame.f_code.co_filename.startswith(OURS):
            ours = _words(frame)
            return ours if ours == innermost else f"{ours}, in {innermost}"
        frame = frame.f_back
    return innermost


def _words(frame: FrameType) -> str:
    code = frame.f_code
    file = code.co_filename
    if file.startswith(OURS):
        file = f"broker/{file.removeprefix(OURS)}"
    return f"{file}:{frame.f_lineno} {code.co_qualname}"
