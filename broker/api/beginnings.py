"""What a prompt begins with, as numbers: by them the engine knows which prompts share a beginning.

The text is taken in the order in which a model's template puts it before the model, about: tools,
system text, messages. It is hashed up to each of a few lengths with a key that this process has
drawn, so that nobody can tell a text by its number. What ends a part is no part of texts, mostly:
where it is, prompts may be taken for alike that are not, which costs them the better server.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

from broker.core.content import GenerateContent, Message, Prompt
from broker.core.prefixes import PREFIX_BYTES

_KEY: Final = secrets.token_bytes(16)
_END: Final = b"\0"
_RAW: Final = b"raw\0"  # without the model's template: another beginning

# Of an image so much from its beginning and from its end tells it from others.
_IMAGE_BYTES: Final = 16_384


def beginnings_of(content: GenerateContent, text_bytes: int) -> tuple[int, ...]:
    """A number for each of PREFIX_BYTES that the prompt is as long as. `text_bytes`: its text."""
    if text_bytes < PREFIX_BYTES[0]:
        return ()  # most requests
    digest = blake2b(digest_size=8, key=_KEY)
    found: list[int] = []
    done, wanted = 0, PREFIX_BYTES[0]
    for part in _parts(content):
        rest = memoryview(part)
        while done + len(rest) >= wanted:
            digest.update(rest[: wanted - done])
            rest, done = rest[wanted - done :], wanted
            found.append(int.from_bytes(digest.digest()))
            if len(found) == len(PREFIX_BYTES):
                return tuple(found)
            wanted = PREFIX_BYTES[len(found)]
        digest.update(rest)
        done += len(rest)
    return tuple(found)


def _parts(content: GenerateContent) -> Iterator[bytes]:
    for tool in content.tools:
        for text in (tool.name, tool.description, tool.parameters_json):
            yield from _text(text)
    if isinstance(content.input, Prompt):
        yield from _of_prompt(content.input)
        return
    for message in content.input:
        yield from _of_message(message)


def _of_prompt(prompt: Prompt) -> Iterator[bytes]:
    if prompt.raw:
        yield _RAW
    yield from _text(prompt.system)
    yield from map(_mark, prompt.images)
    yield from _text(prompt.text)


def _of_message(message: Message) -> Iterator[bytes]:
    yield from _text(message.role)
    yield from map(_mark, message.images)
    for text in (message.thinking, message.content, message.tool_name):
        yield from _text(text)
    for call in message.tool_calls:
        yield from _text(call.name)
        yield from _text(call.arguments_json)


def _text(text: str) -> Iterator[bytes]:
    """No more of it than counts: a character is a byte or more."""
    yield text[: PREFIX_BYTES[-1]].encode()
    yield _END


def _mark(image: bytes) -> bytes:
    """An image by a few bytes: lengths are those of text, of which sizes and costs are told."""
    digest = blake2b(len(image).to_bytes(8), digest_size=16, key=_KEY)
    digest.update(image[:_IMAGE_BYTES])
    digest.update(image[-_IMAGE_BYTES:])
    return digest.digest()
