"""Puts a screen onto the terminal although standard output leads elsewhere.

A choice is there to be used by another command, `model=$(brokerctl models pick)`: its standard
output is a pipe, and often its standard input, too. While the screen is up all three lead to the
terminal; before the choice is printed they lead where they did.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Final

STREAMS: Final = (0, 2, 1)  # standard input and errors are the likeliest to be the terminal


def terminal_of_streams() -> int | None:
    """The descriptor of the first standard stream that is a terminal; None: none is."""
    return next((each for each in STREAMS if os.isatty(each)), None)


@contextlib.contextmanager
def on_terminal(found: int) -> Iterator[None]:
    """Has all standard streams lead to the terminal that descriptor `found` is of."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = [os.dup(each) for each in STREAMS]
    terminal = _opened(found)
    try:
        for each in STREAMS:
            os.dup2(terminal, each)
        yield
    finally:
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()
        for each, before in zip(STREAMS, saved, strict=True):
            os.dup2(before, each)
            os.close(before)
        os.close(terminal)


def _opened(found: int) -> int:
    """That terminal, for reading and writing: a shell may have opened it for one of them. Where it
    has no name here, as in some containers, it is taken as it is."""
    try:
        return os.open(os.ttyname(found), os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return os.dup(found)
