"""What prompts have in common, and which servers have read it.

A server keeps the prompts that it has read, and reads of the next only what is new. Who begins
alike had better meet there: the same system text and tools, the same long document, the same
conversation. What a prompt begins with is told by hashes of its first bytes, at a few lengths each
four times the last; the engine sees these numbers and never a word. A server has read a beginning
if a prompt that begins so was started on it since its model was loaded there, and it is one of
the last `PREFIXES_MAX`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final

from broker.core.placement import BackendState
from broker.core.requests import RequestSpec
from broker.core.residency import Residency

# The lengths at which beginnings are told apart, in bytes of text. What is shorter than the first
# is read in no time, and what shares 64 KiB shares most of what it has.
PREFIX_BYTES: Final = (1_024, 4_096, 16_384, 65_536)

# Beginnings that are remembered: more than the prompts that any server keeps.
PREFIXES_MAX: Final = 20_000

# Servers that are remembered to have read the same one; the one that did so first is forgotten.
READERS_MAX: Final = 16

_Key = tuple[str, int]  # runner, hash


class Prefixes:
    """See the module. All steps take constant time for each length."""

    __slots__ = ("_backends", "_readers")

    def __init__(self, backends: Mapping[str, BackendState]) -> None:
        self._backends = backends
        # By server: when its model had been loaded that read it.
        self._readers: OrderedDict[_Key, dict[str, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._readers)

    def started(self, runner: str, spec: RequestSpec, backend: str, residency: Residency) -> None:
        """This server reads its prompt now."""
        for prefix in spec.prefixes:
            key = runner, prefix
            readers = self._readers.get(key)
            if readers is None:
                if len(self._readers) >= PREFIXES_MAX:
                    self._readers.popitem(last=False)
                readers = self._readers[key] = {}
            else:
                self._readers.move_to_end(key)
            readers.pop(backend, None)  # the last reader is the last of them
            if len(readers) >= READERS_MAX:
                del readers[next(iter(readers))]
            readers[backend] = residency.loaded_ns

    def readers(self, runner: str, spec: RequestSpec) -> Iterator[tuple[int, str, int]]:
        """(bytes, server, when its model had been loaded) of those that have read its beginning,
        most of it first, of equals the one that did so last."""
        for place in range(len(spec.prefixes) - 1, -1, -1):
            readers = self._readers.get((runner, spec.prefixes[place]))
            if readers is not None:
                for name in reversed(readers):
                    yield PREFIX_BYTES[place], name, readers[name]

    def known_bytes(self, runner: str, spec: RequestSpec, backend: str = "") -> int:
        """How much of its beginning this server has probably read; without one, any."""
        for known, name, loaded_ns in self.readers(runner, spec):
            if not backend or name == backend:
                there = self._backends.get(name)
                residency = None if there is None else there.resident(runner)
                if residency is not None and residency.loaded_ns == loaded_ns:
                    return known
        return 0
