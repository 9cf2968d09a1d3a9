"""The few things that it takes to replace a file whole: a seam, so that tests make each fail."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

import msgspec

# What reading a file as JSON fails with, where it is none: bytes that are no text are found only
# where they are needed as one.
NO_SUCH_JSON: Final = (msgspec.MsgspecError, UnicodeDecodeError)

_PART: Final = ".part"
_NAME_RANDOM_BYTES: Final = 6


class Disk(Protocol):
    """Each may raise OSError."""

    def create(self, path: Path) -> int:
        """A new file, locked for as long as it is open, and its descriptor."""
        ...

    def write(self, file: int, content: bytes) -> None:
        """All of it."""
        ...

    def sync(self, file: int) -> None:
        """Returns when what was written would survive a loss of power."""
        ...

    def close(self, file: int) -> None: ...

    def replace(self, part: Path, target: Path) -> None:
        """In one step: who reads finds the one or the other."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """So that a name survives, too."""
        ...


class RealDisk:
    """The one that is there."""

    def create(self, path: Path) -> int:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file

    def write(self, file: int, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]

    def sync(self, file: int) -> None:
        os.fsync(file)

    def close(self, file: int) -> None:
        os.close(file)

    def replace(self, part: Path, target: Path) -> None:
        os.replace(part, target)

    def sync_folder(self, folder: Path) -> None:
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)


class Part:
    """The new file that is being written."""

    def __init__(self, disk: Disk, file: int) -> None:
        self._disk = disk
        self._file = file

    def write(self, content: bytes) -> None:
        self._disk.write(self._file, content)


@contextmanager
def replacing(disk: Disk, target: Path) -> Iterator[Part]:
    """Writes a file beside the target, which takes its place when all has gone well; else nothing
    is left of it."""
    part = target.with_name(f".{target.name}.{os.urandom(_NAME_RANDOM_BYTES).hex()}{_PART}")
    file = disk.create(part)
    try:
        try:
            yield Part(disk, file)
            disk.sync(file)
            disk.replace(part, target)
        finally:
            disk.close(file)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    disk.sync_folder(target.parent)


def clear_parts(target: Path) -> int:
    """Removes what writers that were killed have left beside the target; how many. Nobody holds the
    lock of such a file any more."""
    cleared = 0
    with suppress(OSError):
        for part in target.parent.glob(f".{target.name}.*{_PART}"):
            with suppress(OSError):
                file = os.open(part, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    part.unlink()
                    cleared += 1
                finally:
                    os.close(file)
    return cleared
