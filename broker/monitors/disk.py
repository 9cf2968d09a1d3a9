"""How much disk is free where a backend on this host keeps its models.

Asked for when it is needed, each time off the loop: a disk of the network may take its time.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

# Where Ollama keeps its models when nobody said otherwise: a user's server, a service of Linux's,
# and a container of its own.
OLLAMA_FOLDERS: Final = (
    "~/.ollama/models",
    "/usr/share/ollama/.ollama/models",
    "/root/.ollama/models",
)


class HostDisk:
    """`folders` says where each backend of this host keeps its models, "" where that is not said;
    a backend that it does not name is on another host. `usual` are the places to look in then."""

    def __init__(self, folders: Mapping[str, str], usual: tuple[str, ...] = OLLAMA_FOLDERS) -> None:
        self._folders = folders
        self._usual = usual

    async def free_bytes(self, backend: str) -> int | None:
        """None where it is not known."""
        folder = self._folders.get(backend)
        return None if folder is None else await asyncio.to_thread(self._free, folder)

    def _free(self, folder: str) -> int | None:
        for each in (folder,) if folder else self._usual:
            try:
                return shutil.disk_usage(Path(each).expanduser()).free
            except (OSError, RuntimeError):  # RuntimeError: nobody's home
                continue
        return None
