"""The key for a server's API, kept out of everything that is shown.

Servers echo what they were sent, most of all a key that they do not take, and their words go to
agents, logs and `explain`. What a model writes is left as it is: it was never told the key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from broker.core.errors import BrokerError

# A shorter one keeps nothing secret, and to strike it out would spoil other words.
LENGTH_MIN: Final = 4
HIDDEN: Final = "***"


class ApiKey:
    """One key; an empty one is none."""

    __slots__ = ("_bytes", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._bytes = text.encode()

    @property
    def headers(self) -> dict[str, str]:
        """What goes with every call."""
        return {"Authorization": f"Bearer {self._text}"} if self._text else {}

    def struck_from(self, body: bytes) -> bytes:
        """The body of an error, before anything is cut from it: half a key is too much."""
        return body.replace(self._bytes, HIDDEN.encode()) if self._is_secret else body

    def struck_out(self, text: str) -> str:
        return text.replace(self._text, HIDDEN) if self._is_secret else text

    @contextmanager
    def kept(self) -> Iterator[None]:
        """No error that leaves this says the key."""
        try:
            yield
        except BrokerError as error:
            if self._text in error.message and self._is_secret:
                error.message = self.struck_out(error.message)
                error.args = (error.message,)
            raise

    @property
    def _is_secret(self) -> bool:
        return len(self._text) >= LENGTH_MIN
