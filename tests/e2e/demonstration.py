"""The demonstration as a process: started, read line by line, ended; and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 90.0  # after which a wait is a failure; nothing is expected to come near it
MARK = "BROKER_TEST_MARK"
# Fast enough for a test, slow enough that requests do wait.
QUICK = ("--port", "0", "--speed", "60")


def environment(mark: str) -> dict[str, str]:
    """This process's, with the packages on the path, a mark that is inherited, and no Ollama."""
    paths = (ROOT / "clients" / "python" / "src", ROOT / "clients" / "cli", ROOT)
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("OLLAMA_")},
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OLLAMA_HOST": f"127.0.0.1:{held_port()}",
        MARK: mark,
    }


_held: list[socket.socket] = []


def held_port() -> int:
    """A port on which nobody listens, held so that nobody begins to."""
    if not _held:
        holder = socket.socket()
        holder.bind(("127.0.0.1", 0))
        _held.append(holder)
    port: int = _held[0].getsockname()[1]
    return port


def marked(mark: str) -> list[psutil.Process]:
    """Every process that inherited the mark and still runs."""
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = process.environ().get(MARK) == mark
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue  # It ended meanwhile, or belongs to somebody else.
    return found


@dataclass
class Demonstration:
    """One running demonstration without a terminal."""

    process: subprocess.Popen[str]
    mark: str
    lines: list[str] = field(default_factory=list)

    def read_until(self, pattern: str) -> re.Match[str]:
        """Reads lines until one holds the pattern; fails with all of them where none does."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"it never said {pattern!r}:\n" + "\n".join(self.lines))

    def read_rest(self) -> str:
        """Everything it said, once it has ended."""
        assert self.process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in self.process.stdout)
        self.process.wait(PATIENCE_S)
        return "\n".join(self.lines)

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def left_behind(self) -> list[psutil.Process]:
        """Its processes that outlive it, after the time that an orphan takes to end."""
        _, alive = psutil.wait_procs(marked(self.mark), timeout=PATIENCE_S)
        return list(alive)


@contextmanager
def demonstration(*arguments: str, ollama_host: str = "") -> Iterator[Demonstration]:
    """A demonstration that has been started; nothing of it is left afterwards in any case."""
    mark = uuid.uuid4().hex
    environ = environment(mark)
    if ollama_host:
        environ["OLLAMA_HOST"] = ollama_host
    process = subprocess.Popen(
        [sys.executable, "-m", "brokerctl.demo", *QUICK, *arguments],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    stdout: IO[str] | None = process.stdout
    assert stdout is not None
    try:
        yield Demonstration(process, mark)
    finally:
        for each in marked(mark):
            each.kill()
        process.wait(PATIENCE_S)
        stdout.close()
