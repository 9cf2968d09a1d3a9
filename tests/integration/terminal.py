"""A program on a terminal of its own: which of its streams lead there is for the test to say."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

PATIENCE_S = 30.0
ESCAPE = re.compile(r"\x1b\[[0-9;?<>=]*[ -/]*[@-~]|\x1b[()][A-Z0-9]|\x1b[=>]")


def plain(raw: bytes) -> str:
    """Without what moves the cursor and colours."""
    return ESCAPE.sub("", raw.decode(errors="replace"))


class Terminal:
    """Keys go in, what is drawn comes out; `process` is what runs on it."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        self._descriptor = descriptor
        self.process = process
        self.drawn = ""

    def until(self, *texts: str) -> None:
        """Reads until each of these was drawn since the last call."""
        ends_at = time.monotonic() + PATIENCE_S
        self.drawn = ""
        raw = b""
        while not all(each in self.drawn for each in texts):
            left_s = ends_at - time.monotonic()
            ready, _, _ = select.select([self._descriptor], [], [], max(left_s, 0))
            if not ready:
                raise AssertionError(f"{texts} is not to be seen; drawn was {self.drawn}")
            more = self._read()
            if not more:
                raise AssertionError(f"it ended before {texts}; drawn was {self.drawn}")
            raw += more
            self.drawn = plain(raw)

    def press(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    def end(self) -> tuple[int, str]:
        """Its exit status, and what it said beside the terminal."""
        while self._read():  # what it draws last, for which it would wait
            pass
        status = self.process.wait(PATIENCE_S)
        said = b"" if self.process.stdout is None else self.process.stdout.read()
        return status, said.decode()

    def _read(self) -> bytes:
        """What was drawn; empty once nobody draws there any more."""
        try:
            return os.read(self._descriptor, 65536)
        except OSError:  # what reading gives once the last process has ended
            return b""


@contextmanager
def brokerctl_on_terminal(
    arguments: Sequence[str],
    *,
    size: tuple[int, int] = (80, 24),
    streams: str = "ioe",
    environ: dict[str, str] | None = None,
) -> Iterator[Terminal]:
    """brokerctl on a terminal of this size. `streams` names which of standard input, output and
    errors lead to it; input is else empty, the others are collected together."""
    descriptor, its_end = pty.openpty()
    columns, lines = size
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "brokerctl.main", *arguments],
        stdin=its_end if "i" in streams else subprocess.DEVNULL,
        stdout=its_end if "o" in streams else subprocess.PIPE,
        stderr=its_end if "e" in streams else subprocess.DEVNULL,
        start_new_session=True,
        env={
            **os.environ,
            "TERM": "xterm-256color",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            **(environ or {}),
        },
    )
    os.close(its_end)
    try:
        yield Terminal(descriptor, process)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        os.close(descriptor)
