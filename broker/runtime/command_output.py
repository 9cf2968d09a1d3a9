"""What a command of the operator says, and whatever it leaves running after it.

To a file that is emptied whenever it has grown too large. Not to a pipe: that would kill a server
which the command leaves running as soon as the broker is gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
from typing import Final, Self

# Of what is said the last bytes are kept: an error comes last.
KEPT_BYTES_MAX: Final = 4096

# What may gather in the file, and how often it is looked at.
FILE_BYTES_MAX: Final = 1024 * 1024
LOOK_S: Final = 0.25


class CommandOutput:
    """A file without a name. Whoever has `descriptor` writes at its end, wherever that is."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed in `close`
        self.descriptor = self._file.fileno()
        # Else a writer would go on where it was, and leave a hole before that.
        flags = fcntl.fcntl(self.descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags | os.O_APPEND)
        self._said = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """What was said last is still known."""
        if not self._file.closed:
            self._said = self._last()
            self._file.close()

    @property
    def size_bytes(self) -> int:
        return os.fstat(self.descriptor).st_size

    def last_words(self) -> str:
        """The end of all that was said so far."""
        return self._last().decode(errors="replace").strip()

    async def keep_small(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self.size_bytes > FILE_BYTES_MAX:
                self._said = self._last()
                os.ftruncate(self.descriptor, 0)

    def _last(self) -> bytes:
        if self._file.closed:
            return self._said
        start = max(0, self.size_bytes - KEPT_BYTES_MAX)
        written = os.pread(self.descriptor, KEPT_BYTES_MAX, start)
        return (self._said + written)[-KEPT_BYTES_MAX:]
