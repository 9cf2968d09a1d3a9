"""Who runs and who waits on a simulated server of OpenAI's dialect.

Rules: so many run at once, over all models, as vLLM batches and llama-server has slots; who comes
later waits in turn, and is refused when as many wait as may. Who leaves, waiting or running, makes
room in the same step.
"""

from __future__ import annotations

from collections import deque


class Slots:
    """The book of slots. Identities are the caller's."""

    def __init__(self, count: int, queue_max: int) -> None:
        self._count = count
        self._queue_max = queue_max
        self._running: set[int] = set()
        self._waiting: deque[int] = deque()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def arrive(self, identity: int) -> bool | None:
        """True: it runs; False: it waits; None: there is no place, and it is not kept."""
        if len(self._running) < self._count:
            self._running.add(identity)
            return True
        if len(self._waiting) >= self._queue_max:
            return None
        self._waiting.append(identity)
        return False

    def leave(self, identity: int) -> int | None:
        """It is gone; the one that may run instead, if any."""
        if identity not in self._running:
            self._waiting.remove(identity)
            return None
        self._running.remove(identity)
        if not self._waiting:
            return None
        following = self._waiting.popleft()
        self._running.add(following)
        return following
