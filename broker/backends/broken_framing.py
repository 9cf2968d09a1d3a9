"""Answers whose HTTP framing breaks in the middle, told to whoever reads them.

aiohttp closes the connection at once when a chunk is none, and forgets the reader: who waits for
more of that answer would wait for ever. What it makes public is enough to notice: the end of the
connection, and whether the answer was told how it ended (seen with aiohttp 3.14).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp


class BrokenFraming(aiohttp.ClientPayloadError):
    """The connection is gone, and not by an end that HTTP knows."""


@contextmanager
def watching(response: aiohttp.ClientResponse) -> Iterator[None]:
    """While this lasts, whoever reads the answer hears it when its connection ends without a word.

    An answer that is whole has given its connection back and needs no watch.
    """
    connection = response.connection
    protocol = None if connection is None else connection.protocol
    if protocol is None:
        yield
        return
    content, closed = response.content, protocol.closed

    def tell(_closed: asyncio.Future[None] | None) -> None:
        if not content.is_eof() and content.exception() is None:
            content.set_exception(BrokenFraming("a chunk of the answer is none"))

    if closed is None or closed.done():
        tell(closed)
        yield
        return
    closed.remove_done_callback(_take_note)
    closed.add_done_callback(_take_note)  # once for each connection, and for as long as it lives
    closed.add_done_callback(tell)
    try:
        yield
    finally:
        closed.remove_done_callback(tell)


def _take_note(closed: asyncio.Future[None]) -> None:
    """asyncio complains of a failure that nobody has asked for; who reads hears of it elsewhere."""
    if not closed.cancelled():
        closed.exception()
