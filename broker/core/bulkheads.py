"""Bulkheads: how many requests of one compartment run at once.

They gate dispatch and not entry, as the seed's semaphores do: what exceeds a limit waits in the
queue, and others pass it. A compartment is a bit of the mask that the queue is asked with; batch
work always has one.
Source: the seed "Bulkhead Pattern for Resource Isolation".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from broker.core.agent_policy import BATCH, COMPARTMENTS_MAX

OPEN: Final = 0  # the compartment of all but batch work that no bulkhead limits


class Bulkheads:
    """`closed` holds the bits of the compartments that are full."""

    __slots__ = ("_bits", "_held", "_limits", "_running", "closed")

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.closed = 0
        self._bits: dict[str, int] = {}
        self._limits: dict[int, int] = {}
        self._running = [0] * (COMPARTMENTS_MAX + 1)
        self._held = [0] * (COMPARTMENTS_MAX + 1)  # requests under way that name this bit
        self.configure(limits)

    def fits(self, limits: Mapping[str, int]) -> bool:
        """Are there bits for these beside those that requests under way still name?"""
        held = {name for name, bit in self._bits.items() if self._is_used(bit)}
        return len(held | {*limits, BATCH}) <= COMPARTMENTS_MAX

    def configure(self, limits: Mapping[str, int]) -> None:
        """From now on these limits hold. What runs goes on, also where it is more than may.
        ValueError, and nothing changes, where they do not fit."""
        names = {BATCH: None, **limits}
        bits = {
            name: bit for name, bit in self._bits.items() if name in names or self._is_used(bit)
        }
        free = [bit for bit in range(1, COMPARTMENTS_MAX + 1) if bit not in bits.values()]
        for name in names:
            if name not in bits:
                if not free:
                    raise ValueError(f"more than {COMPARTMENTS_MAX} bulkheads are in use")
                bits[name] = free.pop(0)
        self._bits = bits
        self._limits = {bits[name]: limit for name, limit in limits.items()}
        self.closed = 0
        for bit in self._limits:
            self._close_or_open(bit)

    def bit(self, compartment: str) -> int:
        """The bit of a compartment; OPEN where it has none of its own."""
        return self._bits.get(compartment, OPEN)

    def name(self, bit: int) -> str:
        return next((name for name, each in self._bits.items() if each == bit), "")

    def running(self, bit: int) -> int:
        return self._running[bit]

    def limit(self, bit: int) -> int | None:
        return self._limits.get(bit)

    def limited(self) -> list[tuple[str, int, int]]:
        """(compartment, how many run, how many may) of each that has a limit."""
        return [
            (name, self._running[bit], self._limits[bit])
            for name, bit in self._bits.items()
            if bit in self._limits
        ]

    def is_closed(self, bit: int) -> bool:
        return bool(self.closed >> bit & 1)

    def hold(self, bit: int, change: int) -> None:
        """A request of this compartment is under way (+1), or no longer (-1)."""
        self._held[bit] += change

    def run(self, bit: int, change: int) -> bool:
        """One more runs (+1), or one less (-1). Has the compartment been closed or opened?"""
        self._running[bit] += change
        if bit not in self._limits:
            return False
        before = self.closed
        self._close_or_open(bit)
        return self.closed != before

    def _is_used(self, bit: int) -> bool:
        """What was cancelled is under way no longer, and may still run."""
        return bool(self._held[bit] or self._running[bit])

    def _close_or_open(self, bit: int) -> None:
        if self._running[bit] >= self._limits[bit]:
            self.closed |= 1 << bit
        else:
            self.closed &= ~(1 << bit)
