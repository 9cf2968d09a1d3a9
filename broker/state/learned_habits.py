"""When models are asked for, and after which others, kept for the broker after this one: a small
file.

Only a hint: a broker that does not find it learns anew. It is written by one task, off the loop, as
a whole, when a half hour is over and when the broker leaves; a file that makes no sense is set
aside. A broker that cannot write it goes on.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Final

import msgspec
import structlog

from broker.core.preload import SLOTS, Learned
from broker.state.disk import NO_SUCH_JSON, Disk, RealDisk, clear_parts, replacing

_log = structlog.get_logger(__name__)

# A thousand models take less.
FILE_BYTES_MAX: Final = 8 * 1024 * 1024

_VERSION: Final = 1


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    learned: Learned


def file_name(grpc_address: str) -> str:
    """Of the broker that listens there: two on one host do not share a file."""
    safe = "".join(each if each.isalnum() or each in ".-" else "_" for each in grpc_address)
    return f"learned-habits-{safe}.json"


class LearnedHabits:
    """See the module."""

    def __init__(self, file: Path, disk: Disk | None = None) -> None:
        self._file = file
        self._disk = disk or RealDisk()
        self._due: deque[Learned] = deque(maxlen=1)  # taken by whichever thread writes it
        self._writing = threading.Lock()
        self._changed = asyncio.Event()
        self._has_failed = False
        self.written = 0  # how often it was, or was tried

    def read(self) -> Learned | None:
        """What the broker before this one has learned; None where there is nothing to use."""
        try:
            if self._file.stat().st_size > FILE_BYTES_MAX:
                raise msgspec.DecodeError("too large")
            found = msgspec.json.decode(self._file.read_bytes(), type=_File)
            problem = _problem(found)
            if problem:
                raise msgspec.DecodeError(problem)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn("what the last broker learned of the use of models cannot be read", error)
            return None
        except NO_SUCH_JSON as error:
            self._warn("the file of what was learned of the use of models is broken", error)
            with suppress(OSError):
                self._file.replace(self._file.with_suffix(".broken"))
            return None
        return found.learned

    def keep(self, learned: Learned) -> None:
        """This is what is known now."""
        self._due.append(learned)
        self._changed.set()

    async def run(self) -> None:
        """Writes until cancelled, and then what is still to be written."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await asyncio.to_thread(self._write)
        finally:
            self._write()

    def _warn(self, what: str, error: Exception) -> None:
        _log.warning(what, file=str(self._file), problem=str(error))

    def _write(self) -> None:
        """What is known last, if it is not written yet: all or nothing, whatever happens meanwhile.
        A failure is told once. Who is cancelled leaves a thread that writes: the next one waits."""
        with self._writing:
            try:
                learned = self._due.pop()
            except IndexError:
                return
            try:
                self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                clear_parts(self._file)
                with replacing(self._disk, self._file) as part:
                    part.write(msgspec.json.encode(_File(_VERSION, learned)))
            except OSError as error:
                if not self._has_failed:
                    self._warn("what was learned of the use of models cannot be kept", error)
                self._has_failed = True
            else:
                self._has_failed = False
            self.written += 1


def _problem(found: _File) -> str:
    """What is wrong with what was read; "" where nothing is."""
    if found.version != _VERSION:
        return f"version {found.version} is not {_VERSION}"
    learned = found.learned
    if any(len(each) != SLOTS for each in (learned.days, *(m.needs for m in learned.models))):
        return f"a day has not {SLOTS // 2} slots"
    numbers = [*learned.days]
    for model in learned.models:
        numbers += [*model.needs, model.asked]
        numbers += [number for each in model.successors for number in (each.count, each.gap_s)]
    is_good = all(isfinite(each) and each >= 0 for each in numbers)
    return "" if is_good else "a number is below 0, or none"
