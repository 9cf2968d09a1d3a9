"""The memory that a container may use, as cgroup v2 tells within it; psutil knows the host's."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

# Within a container this is its own group; on the host it is the root, which has no limit. Limits
# of a single service are not read: those of the broker say nothing of Ollama's.
ROOT: Final = Path("/sys/fs/cgroup")

# What of the memory in use can be had back: the page cache, without what is shared memory.
_RECLAIMABLE: Final = frozenset({"inactive_file", "active_file", "slab_reclaimable"})


class ContainerMemory(NamedTuple):
    """Bytes that all in the container may use together, and those of them that are left."""

    limit_bytes: int
    available_bytes: int


def container_memory(root: Path = ROOT) -> ContainerMemory | None:
    """None where no limit is set, or none that can be read."""
    try:
        limit = (root / "memory.max").read_text().strip()
        if limit == "max":
            return None
        limit_bytes = int(limit)
        used_bytes = int((root / "memory.current").read_text())
        for line in (root / "memory.stat").read_text().splitlines():
            name, _, figure = line.partition(" ")
            if name in _RECLAIMABLE:
                used_bytes -= int(figure)
    except (OSError, ValueError):
        return None
    if limit_bytes <= 0:
        return None
    return ContainerMemory(limit_bytes, min(max(0, limit_bytes - used_bytes), limit_bytes))
