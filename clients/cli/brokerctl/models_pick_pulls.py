"""Downloads that were begun in the picker: how far each is stands in its row."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Final, Protocol

from broker_client import BrokerError, Pull
from brokerctl.explanation import sentence_of
from brokerctl.one_line import one_line

# As many as one looks after by hand; the broker has a bound of its own.
PULLS_MAX: Final = 8


class Pulling(Protocol):
    """What is asked of a client."""

    address: str

    def pull(self, name: str) -> AsyncGenerator[Pull, None]:
        """Downloads a model, and tells how it gets on until it is done."""


class Downloads:
    """`note` is told how each ended, `redraw` that what `text` says is otherwise."""

    def __init__(self, note: Callable[[str], None], redraw: Callable[[], None]) -> None:
        self._note = note
        self._redraw = redraw
        self._texts: dict[str, str] = {}

    def text(self, name: str) -> str:
        """How far it is, in a word or two; "" where it is not downloaded from here."""
        return self._texts.get(name, "")

    def may_begin(self, name: str) -> bool:
        """Is there room for one more, and is it not under way?"""
        return name not in self._texts and len(self._texts) < PULLS_MAX

    async def follow(self, client: Pulling, name: str) -> None:
        """Downloads one to its end. Where the screen is left before, the broker goes on with it."""
        self._say(name, "asked for")
        try:
            async for told in client.pull(name):
                self._say(name, pull_text(told))
        except BrokerError as error:
            self._note(f"{one_line(name)}: {sentence_of(error, client.address)}")
        else:
            self._note(f"{one_line(name)} is downloaded")
        del self._texts[name]
        self._redraw()

    def _say(self, name: str, text: str) -> None:
        if self._texts.get(name) != text:
            self._texts[name] = text
            self._redraw()


def pull_text(pull: Pull) -> str:
    """'pulling 42 %', 'waiting'."""
    if pull.state == "pulling" and pull.total_bytes:
        return f"pulling {pull.completed_bytes * 100 // pull.total_bytes} %"
    return one_line(pull.state)
