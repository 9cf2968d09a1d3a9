"""Reads a stream as text alone. What was given out cannot be taken back, so a void piece that
already went out as text is an error; `stream` or `generate` are for callers who may meet that."""

from __future__ import annotations

import grpc

from broker_client.errors import StreamBroken, local_details
from broker_client.events import Chunk, Requeued
from broker_client.requests import Ask


def steady(ask: Ask) -> Ask:
    """The same request, not to be set aside for urgent work where it would begin anew, unless it
    says itself that it may be."""
    if "preemptible" in ask or ask.get("on_interruption") == "continue":
        return ask
    return {**ask, "preemptible": False}


class TextReader:
    """Turns chunks into text, in order."""

    def __init__(self) -> None:
        self._text_seq: int | None = None  # of the first piece that went out as text

    def read(self, event: Chunk | Requeued) -> str:
        """The text of this event; may be empty. StreamBroken where text given before is void."""
        if isinstance(event, Requeued):
            if self._text_seq is not None and event.discard_before_seq > self._text_seq:
                raise StreamBroken(
                    local_details(
                        grpc.StatusCode.ABORTED,
                        f"text that was already given is void: {event.reason}",
                    )
                )
            return ""
        if event.text and self._text_seq is None:
            self._text_seq = event.seq
        return event.text
