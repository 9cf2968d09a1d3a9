"""Which downloads of models wait or run, for the broker after this one: a small file.

It is written as a whole, off the loop, before whoever asked for a download hears of it: what was
acknowledged is gone on with. A file that makes no sense is set aside. A broker that cannot write it
goes on, and says so once until it can again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from broker.core.pull_entries import PullEntry
from broker.state.disk import NO_SUCH_JSON, Disk, RealDisk, clear_parts, replacing

_log = structlog.get_logger(__name__)

# A file of this size is none of ours: a thousand downloads take less.
FILE_BYTES_MAX: Final = 2 * 1024 * 1024
_VERSION: Final = 1


class _Pull(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    backend: str
    agent_id: str
    asked_unix_ms: int
    is_urgent: bool
    completed_bytes: int
    total_bytes: int


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    pulls: tuple[_Pull, ...]


def file_name(grpc_address: str) -> str:
    """Of the broker that listens there: two on one host do not share a file."""
    safe = "".join(each if each.isalnum() or each in ".-" else "_" for each in grpc_address)
    return f"pulls-{safe}.json"


class PullList:
    """See the module; a `PullStore`."""

    def __init__(self, file: Path, disk: Disk | None = None) -> None:
        self._file = file
        self._disk = disk or RealDisk()
        self._due = b""  # what was asked for last, and which one it is
        self._number = self._written = 0
        self._writing: asyncio.Task[None] | None = None
        self._has_failed = False

    def read(self) -> tuple[PullEntry, ...]:
        try:
            if self._file.stat().st_size > FILE_BYTES_MAX:
                raise msgspec.DecodeError("too large")
            found = msgspec.json.decode(self._file.read_bytes(), type=_File)
            if found.version != _VERSION:
                raise msgspec.DecodeError(f"version {found.version} is not {_VERSION}")
        except FileNotFoundError:
            return ()
        except OSError as error:
            self._warn("the downloads that the last broker left cannot be read", error)
            return ()
        except NO_SUCH_JSON as error:
            self._warn("the file of the downloads that the last broker left is broken", error)
            with suppress(OSError):
                self._file.replace(self._file.with_suffix(".broken"))
            return ()
        return tuple(PullEntry(**msgspec.structs.asdict(each)) for each in found.pulls)

    async def write(self, entries: Sequence[PullEntry]) -> None:
        pulls = tuple(
            _Pull(
                name=each.name,
                backend=each.backend,
                agent_id=each.agent_id,
                asked_unix_ms=each.asked_unix_ms,
                is_urgent=each.is_urgent,
                completed_bytes=each.completed_bytes,
                total_bytes=each.total_bytes,
            )
            for each in entries
        )
        self._due = msgspec.json.encode(_File(_VERSION, pulls))
        self._number += 1
        number = self._number
        # One at a time, so that the last one asked for is the last one written, and to its end even
        # where the caller has left.
        while self._written < number:
            if self._writing is None:
                self._writing = asyncio.ensure_future(self._write_due())
                self._writing.add_done_callback(self._over)
            await asyncio.shield(self._writing)

    async def _write_due(self) -> None:
        number = self._number
        await asyncio.to_thread(self._write, self._due)
        self._written = number

    def _over(self, _: asyncio.Task[None]) -> None:
        self._writing = None

    def _warn(self, what: str, error: Exception) -> None:
        _log.warning(what, file=str(self._file), problem=str(error))

    def _write(self, content: bytes) -> None:
        """All or nothing, whatever happens meanwhile. A failure is told once."""
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            clear_parts(self._file)
            with replacing(self._disk, self._file) as part:
                part.write(content)
        except OSError as error:
            if not self._has_failed:
                self._warn("the list of downloads cannot be kept for the broker's successor", error)
            self._has_failed = True
        else:
            self._has_failed = False
