"""Which models the broker had loaded, for the broker after it: a small file.

Only a hint, and used so: what it names is taken over if it is found resident, and nothing depends
on it being there. It is written by one task, off the loop, as a whole, a moment after a change; and
again from time to time, as it is believed only for as long as a model stays without being renewed.
A broker that cannot write it goes on, and its successor treats what it finds as strangers'.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from broker.state.disk import NO_SUCH_JSON

_log = structlog.get_logger(__name__)

# Changes within this are one write. Short: what a broker loads just before it is killed counts too.
GATHER_S: Final = 0.05

# A file of this size is none of ours: 64 backends with a thousand names each take less.
FILE_BYTES_MAX: Final = 8 * 1024 * 1024

# Of a keep_alive: how often the file is written where nothing changes.
BEATS_PER_KEEP_ALIVE: Final = 4


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One server. `seen_unix_s`: when the broker last knew them to be its own."""

    runners: tuple[str, ...]
    seen_unix_s: float


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    servers: dict[str, _Entry]  # by where they are: names are the operator's to change


_VERSION: Final = 1


def file_name(grpc_address: str) -> str:
    """Of the broker that listens there: two on one host do not share a file."""
    safe = "".join(each if each.isalnum() or each in ".-" else "_" for each in grpc_address)
    return f"owned-models-{safe}.json"


class OwnedModels:
    """See the module. Servers are told apart by their `url`."""

    def __init__(
        self, file: Path, keep_alive_s: float, unix_s: Callable[[], float] = time.time
    ) -> None:
        self._file = file
        self._keep_alive_s = keep_alive_s
        self._unix_s = unix_s
        self._entries: dict[str, _Entry] = {}
        self._held: set[str] = set()  # servers that this broker speaks for
        self._changed = asyncio.Event()
        self._has_failed = False
        self.beats = 0  # how often it was written, or tried

    def read(self) -> None:
        """What the broker before this one has left. A file that makes no sense is set aside."""
        try:
            if self._file.stat().st_size > FILE_BYTES_MAX:
                raise msgspec.DecodeError("too large")
            found = msgspec.json.decode(self._file.read_bytes(), type=_File)
            if found.version != _VERSION:
                raise msgspec.DecodeError(f"version {found.version} is not {_VERSION}")
        except FileNotFoundError:
            return
        except OSError as error:
            self._warn("which models the last broker had loaded cannot be read", error)
            return
        except NO_SUCH_JSON as error:
            self._warn("the file of the models that the last broker had loaded is broken", error)
            with suppress(OSError):
                self._file.replace(self._file.with_suffix(".broken"))
            return
        self._entries = dict(found.servers)

    def _warn(self, what: str, error: Exception) -> None:
        _log.warning(what, file=str(self._file), problem=str(error))

    def owned(self, url: str) -> tuple[str, ...]:
        """What the broker before this one had on this server, as far as it may still be there. A
        clock that was set makes it doubtful, in either direction."""
        entry = self._entries.get(url)
        if entry is None or abs(self._unix_s() - entry.seen_unix_s) > self._keep_alive_s:
            return ()
        return entry.runners

    def own(self, url: str, runners: tuple[str, ...]) -> None:
        """These are the broker's on this server from now on, all of them."""
        self._entries[url] = _Entry(runners, self._unix_s())
        self._held.add(url)
        self._changed.set()

    def leave(self, url: str) -> None:
        """The server was taken out of the configuration: what is there is no longer renewed."""
        self._held.discard(url)

    async def run(self) -> None:
        """Writes until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._keep_alive_s / BEATS_PER_KEEP_ALIVE):
                    await self._changed.wait()
                    await asyncio.sleep(GATHER_S)
            self._changed.clear()
            await asyncio.to_thread(self._write, self._encoded())
            self.beats += 1

    def _encoded(self) -> bytes:
        """What is to be written; what nobody speaks for any more is left out in time."""
        now_s = self._unix_s()
        for url in self._held:
            self._entries[url] = _Entry(self._entries[url].runners, now_s)
        self._entries = {
            url: each
            for url, each in self._entries.items()
            if each.runners and abs(now_s - each.seen_unix_s) <= self._keep_alive_s
        }
        self._held &= self._entries.keys()
        return msgspec.json.encode(_File(_VERSION, self._entries))

    def _write(self, content: bytes) -> None:
        """All or nothing, whatever happens meanwhile. A failure is told once."""
        part = self._file.with_suffix(".part")
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._file)
        except OSError as error:
            if not self._has_failed:
                self._warn("which models are the broker's cannot be kept for its successor", error)
            self._has_failed = True
