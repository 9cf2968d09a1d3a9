"""The list of models over a restart: a file that other programs can read, and one beside it.

The first has the seeds' form (`model_cache_json.py`) and nothing else. When it was written, and by
which version, is in the second, MODEL_CACHE.meta.json, which names the contents that it speaks of.
They are written in this order, each as a whole: killed in between, the second speaks of other
contents, and then nobody knows how old the first one is. It is used all the same.

What is no such file is set aside. Brokers that share the file take turns in one another's places,
and never mix.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from errno import EINVAL
from pathlib import Path
from stat import S_ISFIFO
from typing import Final

import msgspec
import structlog

from broker.core.kept_models import KeptBackend, KeptList, KeptModel, KeptTimes
from broker.state.disk import NO_SUCH_JSON, Disk, Part, RealDisk, clear_parts, replacing
from broker.state.model_cache_json import Reading, decoded, encoded, is_ours

_log = structlog.get_logger(__name__)

FILE_NAME: Final = "model_cache.json"
# A quarter of a million names with all that is known of them take a fifth of this.
FILE_BYTES_MAX: Final = 512 * 1024 * 1024
BROKEN_MAX: Final = 3  # files set aside; of more the oldest go
_VERSION: Final = 1

# Encoding gives way: so long in one go, then so long the others. Python itself would let the loop
# wait for 5 ms each time.
_WORK_S: Final = 0.0003
_REST_S: Final = 0.0005
_WRITTEN_AT_ONCE: Final = 64 * 1024


class _Beside(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the second file says of the first, which has so many bytes with this sum."""

    version: int
    bytes: int
    crc32: int
    library_unix_ms: int | None
    backends: dict[str, KeptBackend]


class ModelCache:
    """See the module."""

    def __init__(
        self,
        file: Path,
        disk: Disk | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._file = file
        self._beside = file.with_name(f"{file.stem}.meta.json")
        self._disk = disk or RealDisk()
        self._sleep = sleep
        self._clock = clock
        self._contents: tuple[int, int] | None = None  # bytes and sum of what is there, if ours
        self._has_failed = False

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return str(self._file)

    def read(self) -> KeptList | None:
        """What was kept last; None where nothing was, or nothing that can be read."""
        clear_parts(self._file)
        clear_parts(self._beside)
        try:
            status = self._file.stat()
            if S_ISFIFO(status.st_mode):  # who opens it would wait for one who writes
                raise OSError(EINVAL, "it is a pipe", str(self._file))
            if status.st_size > FILE_BYTES_MAX:
                raise msgspec.DecodeError(f"it is larger than {FILE_BYTES_MAX} bytes")
            content = self._file.read_bytes()
            bases = decoded(content)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn("the list of models of the last run cannot be read", error)
            return None
        except NO_SUCH_JSON as error:
            self._warn("the list of models of the last run is broken; it is set aside", error)
            self._set_aside()
            return None
        self._contents = len(content), zlib.crc32(content)
        times = self._times(self._contents)
        if times is None:
            self._contents = None
            # Another program's file is as old as it looks. Of ours, nobody knows.
            written_ms = None if is_ours(bases) else int(status.st_mtime * 1000)
            times = KeptTimes(library_unix_ms=written_ms)
        return KeptList(models=_Told(Reading(bases), self._file), times=times)

    def _times(self, contents: tuple[int, int]) -> KeptTimes | None:
        """What the second file says, if it speaks of these contents."""
        try:
            found = msgspec.json.decode(self._beside.read_bytes(), type=_Beside)
        except FileNotFoundError:
            return None
        except (OSError, *NO_SUCH_JSON) as error:
            self._warn("how old the list of models of the last run is cannot be read", error)
            return None
        if found.version != _VERSION or (found.bytes, found.crc32) != contents:
            return None
        return KeptTimes(library_unix_ms=found.library_unix_ms, backends=found.backends)

    async def write(self, models: Iterator[KeptModel], times: KeptTimes) -> bool:
        """Keeps these from now on, all or nothing; False where it could not, which is told once."""
        return await asyncio.to_thread(self._tried, lambda: self._write(models, times))

    async def write_times(self, times: KeptTimes) -> bool:
        """The list is the same, and this old."""
        if self._contents is None:
            return False
        contents = self._contents
        return await asyncio.to_thread(self._tried, lambda: self._write_beside(contents, times))

    def _tried(self, write: Callable[[], None]) -> bool:
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write()
        except OSError as error:
            if not self._has_failed:
                self._warn("the list of models cannot be kept for the next run", error)
            self._has_failed = True
            return False
        self._has_failed = False
        return True

    def _write(self, models: Iterator[KeptModel], times: KeptTimes) -> None:
        clear_parts(self._file)
        self._contents = None
        with replacing(self._disk, self._file) as part:
            contents = self._write_all(part, models)
        self._write_beside(contents, times)
        self._contents = contents

    def _write_all(self, part: Part, models: Iterator[KeptModel]) -> tuple[int, int]:
        total, crc = 0, 0
        waiting = bytearray(b"{")
        before = b"\n"
        rests_at = self._clock() + _WORK_S
        for model in models:
            waiting += before + encoded(model)
            before = b",\n"
            if len(waiting) >= _WRITTEN_AT_ONCE:
                total, crc = total + len(waiting), zlib.crc32(waiting, crc)
                part.write(bytes(waiting))
                waiting.clear()
            if self._clock() >= rests_at:
                self._sleep(_REST_S)
                rests_at = self._clock() + _WORK_S
        waiting += b"\n}\n"
        part.write(bytes(waiting))
        return total + len(waiting), zlib.crc32(waiting, crc)

    def _write_beside(self, contents: tuple[int, int], times: KeptTimes) -> None:
        beside = _Beside(
            version=_VERSION,
            bytes=contents[0],
            crc32=contents[1],
            library_unix_ms=times.library_unix_ms,
            backends=dict(times.backends),
        )
        clear_parts(self._beside)
        with replacing(self._disk, self._beside) as part:
            part.write(msgspec.json.encode(beside))

    def _set_aside(self) -> None:
        with suppress(OSError):
            self._file.replace(self._file.with_suffix(f".{time.time_ns()}.broken"))
            kept = sorted(self._file.parent.glob(f"{self._file.stem}.*.broken"))
            for old in kept[:-BROKEN_MAX]:
                old.unlink()

    def _warn(self, what: str, error: Exception) -> None:
        _log.warning(what, file=str(self._file), problem=str(error))


class _Told:
    """The models of the file; at their end it is told how many made no sense."""

    def __init__(self, reading: Reading, file: Path) -> None:
        self._reading = reading
        self._file = file

    def __iter__(self) -> Iterator[KeptModel]:
        yield from self._reading
        if self._reading.left_out:
            _log.warning(
                "parts of the list of models of the last run make no sense; they are left out",
                file=str(self._file),
                count=self._reading.left_out,
            )
