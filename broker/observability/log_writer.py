"""Log lines on their way out: written by a thread, so that who reads them slowly, or not at all,
delays nobody.

Lines gather for a moment and go out in one write. There is room for so many; what finds none
is dropped, and how many lines that were is said as soon as there is room again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final, Protocol

import msgspec

# The lines of forty thousand requests.
WAITING_CHARS_MAX: Final = 16 * 1024 * 1024

# Long enough that a busy broker writes dozens of lines at once, too short for a person to notice.
GATHER_S: Final = 0.02


class Sink(Protocol):
    """A text stream."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class LogWriter:
    """A text stream before another one. Takes lines of any thread; `write` never blocks on I/O."""

    def __init__(
        self,
        sink: Sink,
        *,
        waiting_chars_max: int = WAITING_CHARS_MAX,
        gather_s: float = GATHER_S,
    ) -> None:
        self._sink = sink
        self._waiting_chars_max = waiting_chars_max
        self._gather_s = gather_s
        self._lines: deque[str] = deque()
        self._waiting_chars = 0
        self._dropped = 0
        self._guard = threading.Lock()
        self._wake = threading.Event()
        self._is_closing = False
        # A daemon: a reader that never reads must not keep a broker alive that wants to leave.
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def waiting_chars(self) -> int:
        """What has not been written yet."""
        return self._waiting_chars

    def write(self, text: str) -> None:
        """Takes a piece of text, or drops it."""
        with self._guard:
            if self._waiting_chars + len(text) > self._waiting_chars_max:
                self._dropped += 1
                return
            self._lines.append(text)
            self._waiting_chars += len(text)
        if not self._wake.is_set():
            self._wake.set()

    def flush(self) -> None:
        """What the thread does anyhow; `close` waits for it."""

    def close(self, timeout_s: float) -> bool:
        """Writes what waits. False where that has not been done in time."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            if not self._is_closing:
                time.sleep(self._gather_s)
            self._wake.clear()
            is_last = self._is_closing  # looked at before the lines: none comes after that
            text = self._take()
            if text:
                try:
                    self._sink.write(text)
                    self._sink.flush()
                except (OSError, ValueError):
                    # Nobody listens any more, and there is nobody left to tell.
                    pass
            if is_last:
                return

    def _take(self) -> str:
        with self._guard:
            text = "".join(self._lines)
            self._lines.clear()
            self._waiting_chars = 0
            dropped, self._dropped = self._dropped, 0
        return text + _dropped_line(dropped) if dropped else text


def _dropped_line(count: int) -> str:
    line = {
        "event": "log lines were dropped: whoever reads them is too slow",
        "level": "warning",
        "lines": count,
    }
    return msgspec.json.encode(line).decode() + "\n"
