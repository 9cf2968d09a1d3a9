"""What a server says is anybody's text: on a terminal it must neither begin a line of its own nor
do anything but be read. Pure."""

from __future__ import annotations


def one_line(text: str) -> str:
    """The same on one line: a blank for what breaks or moves the line, its escape ("\\x1b") for
    whatever else cannot be shown."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode("ascii")
