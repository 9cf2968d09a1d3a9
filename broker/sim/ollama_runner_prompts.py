"""What a simulated runner remembers of prompts: one per slot, and older ones in host memory.

Rules: a request takes the free slot whose prompt shares the longest beginning with its own, else
the one unused for longest; a longer match in host memory is brought back first. At least one token
is always read again. All is lost with the process. Source: reference/OLLAMA.md §7.7.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

# Beginnings shorter than this are not looked up in host memory, which is kept by them.
_KEY_TOKENS = 16


def common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens two prompts begin with in common.

    Halving compares slices, which costs a fraction of a loop over tokens.
    """
    known, most = 0, min(len(a), len(b))
    if most == 0 or a[0] != b[0]:
        return 0
    if a[:most] == b[:most]:
        return most
    while most - known > 1:
        middle = (known + most) // 2
        if a[known:middle] == b[known:middle]:
            known = middle
        else:
            most = middle
    return known


class Slot:
    """One place for a running request, with the prompt last read there."""

    __slots__ = ("busy", "prompt", "used")

    def __init__(self) -> None:
        self.prompt: tuple[int, ...] = ()
        self.busy = False
        self.used = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a request runs, how many of its tokens are known there, and whether they come back
    from host memory."""

    slot: Slot
    cached: int
    restored: bool


class PromptMemory:
    """The slots of one runner and the older prompts that it keeps in host memory."""

    def __init__(self, slots: int, *, capacity_tokens: int) -> None:
        self.slots = [Slot() for _ in range(slots)]
        self._uses = 0
        self._capacity_tokens = capacity_tokens
        self._older: OrderedDict[tuple[int, ...], None] = OrderedDict()
        self._older_by_key: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        self._older_tokens = 0

    def take(self, prompt: tuple[int, ...]) -> Place:
        """Gives the best free slot to a prompt; there must be one."""
        slot, known = self._best(prompt)
        older = self._older_by_key.get(prompt[:_KEY_TOKENS], ()) if prompt else ()
        remembered = max((common_prefix(prompt, other) for other in older), default=0)
        restored = remembered > known
        if len(slot.prompt) > known:
            self._keep(slot.prompt)
        slot.prompt, slot.busy = prompt, True
        self._uses += 1
        slot.used = self._uses
        cached = min(max(known, remembered), max(0, len(prompt) - 1))
        return Place(slot=slot, cached=cached, restored=restored)

    def _best(self, prompt: tuple[int, ...]) -> tuple[Slot, int]:
        best, best_known = None, -1
        for slot in self.slots:
            if slot.busy:
                continue
            known = common_prefix(prompt, slot.prompt)
            if best is None or (known, -slot.used) > (best_known, -best.used):
                best, best_known = slot, known
        if best is None:
            raise RuntimeError("no free slot to take")
        return best, best_known

    def _keep(self, prompt: tuple[int, ...]) -> None:
        if len(prompt) < _KEY_TOKENS or len(prompt) > self._capacity_tokens:
            return
        if prompt in self._older:
            self._older.move_to_end(prompt)
            return
        self._older[prompt] = None
        self._older_by_key.setdefault(prompt[:_KEY_TOKENS], []).append(prompt)
        self._older_tokens += len(prompt)
        while self._older_tokens > self._capacity_tokens:
            self._forget(self._older.popitem(last=False)[0])

    def _forget(self, prompt: tuple[int, ...]) -> None:
        self._older_tokens -= len(prompt)
        same_key: Sequence[tuple[int, ...]] = self._older_by_key[prompt[:_KEY_TOKENS]]
        left = [other for other in same_key if other != prompt]
        if left:
            self._older_by_key[prompt[:_KEY_TOKENS]] = left
        else:
            del self._older_by_key[prompt[:_KEY_TOKENS]]
