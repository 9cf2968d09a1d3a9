"""Server-sent events: bytes in, events out, wherever the network cuts them.

Rules: an event ends with an empty line, whichever of LF and CRLF ends the lines; comments are
left out (servers send them so that a connection does not idle), and so is a byte order mark before
the first line. A field name that the standard
does not know makes the stream unreadable instead of being passed over: it may have been words. Two
things that servers do and the standard does not: a field `error` (llama-server until 2025), and a
bare JSON object where events were promised. Source: html.spec.whatwg.org, 9.2.6.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import Final, NamedTuple

from broker.backends.error_text import IS_THIS_THE_API, is_page

ERROR: Final = "error"
_DATA: Final = b"data: "
_PASSED_OVER: Final = frozenset({b"id", b"retry"})


class Event(NamedTuple):
    """What one event carries. `kind` is "" where the server did not name it."""

    kind: str
    data: bytes


class EventSplitter:
    """Cuts a stream of bytes into events. Once `problem` is set the bytes are no events, or one of
    them is over the limit: nothing more can be read."""

    __slots__ = ("_bytes_max", "_data", "_has_begun", "_held", "_kind", "_size", "problem")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held = bytearray()  # the line that has begun and not ended
        self._data: list[bytes] = []  # of the event that has begun
        self._size = 0
        self._kind = ""
        self._has_begun = False  # a line was read, so that no byte order mark can come
        self.problem = ""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes, as far as it can be read."""
        if self._is_one_event(data):
            self._has_begun = True
            return [Event("", data[len(_DATA) : -2])]
        lines = data.split(b"\n")
        rest = lines.pop()
        held = self._held
        if held and lines:
            held += lines[0]
            lines[0] = bytes(held)
            held.clear()
        # The buffer grows in place, so that a long line in short parts is not copied each time.
        held += rest
        events: list[Event] = []
        for line in lines:
            self._take(line.removesuffix(b"\r"), events)
            if self.problem:
                return events
        if len(held) + self._size > self._bytes_max:
            self._overflow()
        return events

    def _is_one_event(self, data: bytes) -> bool:
        """Is this exactly one plain event, as nearly every read is?"""
        return (
            data.startswith(_DATA)
            and data.endswith(b"\n\n")
            and data.find(b"\n") == len(data) - 2
            and len(data) <= self._bytes_max
            and not (self._held or self._data or self._kind)
        )

    def end(self) -> list[Event]:
        """What stands after the last empty line: an event too, when the stream is over."""
        events: list[Event] = []
        rest = bytes(self._held).removesuffix(b"\r")
        self._held.clear()
        if rest:
            self._take(rest, events)
        self._take(b"", events)
        return events

    def _take(self, line: bytes, events: list[Event]) -> None:
        if not self._has_begun:
            self._has_begun = True
            line = line.removeprefix(BOM_UTF8)
        if not line:
            if self._data:
                data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                events.append(Event(self._kind, data))
            self._data, self._size, self._kind = [], 0, ""
            return
        self._size += len(line)
        if self._size > self._bytes_max:
            self._overflow()
            return
        if line.startswith(b"{"):
            self._data.append(line)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"error":
            self._kind = ERROR
            self._data.append(value)
        elif name == b"event":
            self._kind = value.decode("utf-8", "replace")
        elif name and name not in _PASSED_OVER:
            shown = line[:40].decode("utf-8", "replace")
            self.problem = f"a line of the answer cannot be read: {shown!r}"
            if is_page(shown):
                self.problem += f": {IS_THIS_THE_API}"

    def _overflow(self) -> None:
        self._held.clear()
        self.problem = f"an event of the answer is over {self._bytes_max} bytes"
