"""Characters beyond U+FFFF whose two halves come in two events, put together again.

JSON writes such a character as two escapes. A server that cuts its text by UTF-16 units, as one
written in JavaScript may, sends one half at the end of a piece and the other with the next; each
alone is no JSON that can be read. Source: RFC 8259 §7 and §8.2.
"""

from __future__ import annotations

import re
from typing import Final

_FIRST: Final = rb"\\u[dD][89abAB][0-9a-fA-F]{2}"
_SECOND: Final = rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
# What is whole is passed over first: an escaped backslash, a character of two halves.
_HALVES: Final = re.compile(
    rb"\\[^u]|" + _FIRST + _SECOND + rb"|(?P<first>" + _FIRST + rb")|(?P<second>" + _SECOND + rb")"
)
_REPLACEMENT: Final = rb"\ufffd"


class Halves:
    """Mends the events of one stream. `held` is the half that waits for its other one.

    A first half is moved to the next event that has a second one, and left out where none comes. A
    second one that has no first becomes U+FFFD, as it does wherever text is read.
    """

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = b""

    def mended(self, event: bytes) -> bytes:
        """The event, to be read once more; unchanged where halves are not what is wrong."""
        return _HALVES.sub(self._whole, event)

    def _whole(self, found: re.Match[bytes]) -> bytes:
        if found["first"]:
            alone, self.held = self.held, found["first"]
            return _REPLACEMENT if alone else b""
        if found["second"]:
            first, self.held = self.held, b""
            return first + found["second"] if first else _REPLACEMENT
        return found[0]
