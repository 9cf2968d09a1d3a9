"""How far a long benchmark is, for whoever waits before it: on standard error, never in a file."""

from __future__ import annotations

import sys
import time


class Progress:
    """A line for each part that is over, and on a terminal one that counts meanwhile."""

    def __init__(self, parts: int) -> None:
        self._parts = parts
        self._part = 0
        self._name = ""
        self._all = self._ended = self._in_time = 0
        self._began_s = time.monotonic()
        self._said_s = 0.0

    def begin(self, name: str, requests: int) -> None:
        """The next part."""
        self._part += 1
        self._name, self._all = name, requests
        self._ended = self._in_time = 0
        self._began_s = time.monotonic()

    def ended(self, *, is_in_time: bool) -> None:
        """One more request of this part."""
        self._ended += 1
        self._in_time += is_in_time
        now_s = time.monotonic()
        if sys.stderr.isatty() and now_s - self._said_s > 0.2:
            self._said_s = now_s
            self._say("\r", "")

    def over(self) -> None:
        """This part is."""
        self._say("\r" if sys.stderr.isatty() else "", "\n")

    def _say(self, begin: str, end: str) -> None:
        took_s = time.monotonic() - self._began_s
        text = (
            f"[{self._part}/{self._parts}] {self._name}: {self._ended} of {self._all} ended, "
            f"{self._in_time} in time, {took_s:.0f} s"
        )
        print(f"{begin}{text:<76}", end=end, file=sys.stderr, flush=True)
