"""What a simulated model of OpenAI's dialect says, decided before the first token exists.

Rules: the same model, prompt and seeds say the same; an answer that is to go on from a beginning of
its own goes on with the very same words; a model that was offered tools calls the first of them,
unless a result was given; a format brings JSON; a stop word or max_tokens ends it early.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Final

from broker.sim.ollama_gojson import Json
from broker.sim.ollama_vocabulary import direction, draw, piece, sample_of_schema, seed_of
from broker.sim.openai_requests import Asked

TOKENS_MIN: Final = 8
TOKENS_MAX: Final = 48
# Now and then a word that is more than one byte a character, as in any real answer.
_FOREIGN: Final = (" naïve", " €5", " 日本", " 😀")
_FOREIGN_EVERY: Final = 7
_PART_CHARACTERS: Final = 6  # of JSON in one token
_TOOL_RESULT: Final = "tool: "


class Finish(Enum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What one token adds: text, thinking, or a part of the call of a tool."""

    text: str = ""
    thinking: str = ""
    call_arguments: str = ""
    call_id: str = ""  # of the first part of a call only, as its name
    call_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    tokens: tuple[Token, ...]
    finish: Finish


def speech_of(asked: Asked, server_seed: int) -> Speech:
    """The whole answer to a request."""
    seed = seed_of(server_seed, asked.model.id, asked.prompt, asked.seed)
    if asked.tools and asked.model.calls_tools and _TOOL_RESULT not in asked.prompt:
        return _bounded(_call(asked.tools[0], seed), Finish.TOOL_CALLS, asked.max_tokens)
    thinking: tuple[Token, ...] = ()
    if asked.thinks:
        count = draw(seed, 1, 3, 9)
        thinking = tuple(Token(thinking=piece(seed + 1, index)) for index in range(count))
    if asked.schema is not None:
        text = json.dumps(sample_of_schema(asked.schema, seed), ensure_ascii=False)
        words = [text[i : i + _PART_CHARACTERS] for i in range(0, len(text), _PART_CHARACTERS)]
    else:
        # One that may be long is: a test that needs time asks for it.
        begun = _words_begun(seed, asked.begun)
        may_be = begun + asked.max_tokens if asked.max_tokens is not None else 0
        count = may_be if may_be > TOKENS_MAX else draw(seed, 0, TOKENS_MIN, TOKENS_MAX)
        words = [_word(seed, index) for index in range(begun, count)]
    words = _stopped(words, asked.stop)
    tokens = (*thinking, *(Token(text=word) for word in words))
    return _bounded(tokens, Finish.STOP, asked.max_tokens)


def vectors_of(asked: Asked, server_seed: int) -> list[list[float]]:
    """One vector of length one per input."""
    found = []
    for text in asked.inputs:
        raw = direction(seed_of(server_seed, asked.model.id, text), asked.dimensions)
        length = sum(part * part for part in raw) ** 0.5
        found.append([part / length for part in raw])
    return found


def _word(seed: int, index: int) -> str:
    if index % _FOREIGN_EVERY == _FOREIGN_EVERY - 1:
        return _FOREIGN[draw(seed, index, 0, len(_FOREIGN) - 1)]
    return piece(seed, index)


def _words_begun(seed: int, begun: str) -> int:
    """How many words of the answer stand there already; 0 where it did not begin so."""
    rest, count = begun, 0
    while rest:
        word = _word(seed, count)
        if not rest.startswith(word):
            return 0
        rest, count = rest[len(word) :], count + 1
    return count


def _stopped(words: list[str], stop: tuple[str, ...]) -> list[str]:
    """The words before the first stop word."""
    for index, word in enumerate(words):
        if any(mark and mark in word for mark in stop):
            return words[:index]
    return words


def _bounded(tokens: tuple[Token, ...], finish: Finish, max_tokens: int | None) -> Speech:
    if max_tokens is not None and len(tokens) >= max_tokens:
        return Speech(tokens=tokens[:max_tokens], finish=Finish.LENGTH)
    return Speech(tokens=tokens, finish=finish)


def _call(tool: Json, seed: int) -> tuple[Token, ...]:
    function = tool.get("function") if isinstance(tool, dict) else None
    known = function if isinstance(function, dict) else {}
    arguments = json.dumps(sample_of_schema(known.get("parameters") or {}, seed))
    parts = [
        arguments[i : i + _PART_CHARACTERS] for i in range(0, len(arguments), _PART_CHARACTERS)
    ]
    first = Token(call_id=f"call_{seed:016x}", call_name=str(known.get("name")))
    return (first, *(Token(call_arguments=part) for part in parts))
