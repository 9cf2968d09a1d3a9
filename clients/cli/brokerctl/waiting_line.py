"""Says on standard error what a request waits for, so that standard output holds the answer alone.

On a terminal one line is rewritten; without one each change is a line.
"""

from __future__ import annotations

import sys

import click

from broker_client import Event, Queued, Requeued, Retrying, SlowDown, Started
from brokerctl.figures import duration_text, span_text
from brokerctl.one_line import one_line

ERASE_LINE = "\r\x1b[K"


class WaitingLine:
    """Follows the events of one generation."""

    def __init__(self, *, is_terminal: bool | None = None) -> None:
        self._is_terminal = sys.stderr.isatty() if is_terminal is None else is_terminal
        self._is_shown = False
        self._last = ""

    def show(self, event: Event) -> None:
        """Shows an event that is about waiting; clears the line on any other."""
        text = one_line(waiting_text(event))
        if not text:
            self.clear()
        elif self._is_terminal and not is_lasting(event):
            click.echo(f"{ERASE_LINE}{text}", err=True, nl=False, color=True)
            self._is_shown = True
        elif text != self._last:
            self.clear()
            click.echo(text, err=True)
            self._last = text

    def clear(self) -> None:
        """Takes the line away."""
        if self._is_shown:
            click.echo(ERASE_LINE, err=True, nl=False, color=True)
            self._is_shown = False


def is_lasting(event: Event) -> bool:
    """Is it worth keeping on the screen after the next event?"""
    return isinstance(event, Started | Requeued | Retrying)


def eta_text(queued: Queued) -> str:
    """When it starts, as far as is known: "about 31.0 s (20 to 45 s)"; empty where nothing is."""
    if queued.eta_ms is None:
        return ""
    if queued.eta_low_ms is None or queued.eta_high_ms is None:
        return f"about {duration_text(queued.eta_ms)}"  # a broker of an older version
    span = span_text(queued.eta_low_ms, queued.eta_high_ms)
    return f"about {duration_text(queued.eta_ms)} ({span})"


def waiting_text(event: Event) -> str:
    """The words for an event; empty where there is nothing to say."""
    match event:
        case Queued():
            eta = eta_text(event)
            eta = f", {eta}" if eta else ""
            detail = f": {event.detail}" if event.detail else ""
            return f"waiting, position {event.position}{eta}{detail}"
        case Started():
            model = event.model
            if event.substituted_for:
                model = f"{model} instead of {event.substituted_for}"
            # Why it was chosen says already which it is and what was changed for that.
            because = f"; {event.chosen_because}" if event.chosen_because else ""
            notes = because + "".join(
                f"; {each}" for each in event.changes if each not in event.chosen_because
            )
            attempt = f", attempt {event.attempt}" if event.attempt > 1 else ""
            return f"{model} on {event.backend}{attempt}{notes}"
        case Requeued():
            void = "; what came so far is void" if event.discard_before_seq else ""
            return f"back in the queue: {event.reason}{void}"
        case Retrying():
            return f"{event.error}; trying again in {duration_text(event.delay_s * 1000)}"
        case SlowDown():
            return f"the broker asks for less for {duration_text(event.retry_after_ms)}"
        case _:
            return ""
