"""Pieces of an answer, put together: for a message to a client, and for an attempt that goes on."""

from __future__ import annotations

from typing import Final, NamedTuple

from broker.core.content import Piece, ToolCall

# Pieces that gathered are merged up to this many bytes of text per message, well below what gRPC
# carries at once and far above a token.
MESSAGE_TEXT_BYTES_MAX: Final = 64 * 1024


class Pieces(NamedTuple):
    """One or more pieces of the answer, merged. `seq` is the number of the first."""

    seq: int
    text: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    piece_count: int


class SoFar(NamedTuple):
    """What has come of an answer that stands."""

    text: str
    thinking: str
    has_tool_calls: bool
    is_whole: bool  # nothing of it was dropped


def merged(pieces: list[Piece], seq: int) -> Pieces:
    """In one message thinking comes before text and text before tool calls: where the order of the
    pieces is another, the message ends."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    size = count = 0
    for text, thinking, tool_calls in pieces:
        out_of_order = (thinking and (texts or calls)) or (text and calls)
        if count and (out_of_order or size >= MESSAGE_TEXT_BYTES_MAX):
            break
        if text:
            texts.append(text)
        if thinking:
            thoughts.append(thinking)
        calls.extend(tool_calls)
        size += len(text) + len(thinking)
        count += 1
    return Pieces(seq, "".join(texts), "".join(thoughts), tuple(calls), count)
