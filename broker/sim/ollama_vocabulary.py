"""The words and values that a simulated model draws from, each a pure function of a seed.

Rules: no state and no random module: the n-th word of a seed can be asked for by itself, so that an
answer without end is not kept anywhere. The same seed gives the same in every process.
"""

from __future__ import annotations

import hashlib
from typing import Final

from broker.sim.ollama_gojson import Json

_MASK: Final = 2**64 - 1
_SENTENCE_WORDS: Final = 11
_SCHEMA_DEPTH_MAX: Final = 16
_EMBED_SCALE: Final = 2.0**-63

_TEXT: Final = (
    "the a this that one each every some its our their these of in on at by for with from to into "
    "over under after before while because so then and but or if when where as agent model token "
    "queue server prompt answer context cache memory batch slot request stream result plan step "
    "task tool value number list table line word name state time signal order path graph node "
    "edge test case rule idea reason question problem change limit budget cost load rate share "
    "first next last small large short long early late warm cold idle busy ready simple clear "
    "stable fair open full empty is are was has holds takes gives keeps finds shows makes needs "
    "waits runs ends starts moves counts reads writes sends returns follows begins remains means "
    "here now again still only also often never always once twice likely exactly nearly together"
)
WORDS: Final = tuple(_TEXT.split())
_COUNT: Final = len(WORDS)


def mix(seed: int, index: int) -> int:
    """A well mixed 64-bit number for (seed, index): splitmix64 (Steele, Lea, Flood 2014)."""
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def seed_of(*parts: int | str) -> int:
    """One seed from several parts, the same in every process (hash() is not)."""
    text = "\x00".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def draw(seed: int, index: int, low: int, high: int) -> int:
    """A whole number between the two bounds, both included."""
    return low + mix(seed, index) % (max(low, high) - low + 1)


def piece(seed: int, index: int) -> str:
    """The n-th word of an answer as a token: a space, the word, a full stop now and then."""
    word = WORDS[mix(seed, index) % _COUNT]
    place = index % _SENTENCE_WORDS
    if place == 0:
        word = word.capitalize()
    return f" {word}." if place == _SENTENCE_WORDS - 1 else f" {word}"


def sample_of_schema(schema: Json, seed: int, depth: int = 0) -> Json:
    """A value that a JSON schema allows: every listed property, the first of every choice."""
    if not isinstance(schema, dict) or depth > _SCHEMA_DEPTH_MAX:
        return {} if depth == 0 else None
    if "const" in schema:
        return schema["const"]
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return choices[mix(seed, depth) % len(choices)]
    for key in ("anyOf", "oneOf", "allOf"):
        options = schema.get(key)
        if isinstance(options, list) and options:
            return sample_of_schema(options[0], seed, depth + 1)
    return _sample_of_type(schema, seed, depth)


def _sample_of_type(schema: dict[str, Json], seed: int, depth: int) -> Json:
    wanted = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(wanted, list):
        wanted = wanted[0] if wanted else "string"
    drawn = mix(seed, depth + 7)
    match wanted:
        case "object":
            listed = schema.get("properties")
            properties = listed if isinstance(listed, dict) else {}
            return {
                key: sample_of_schema(value, mix(seed, i), depth + 1)
                for i, (key, value) in enumerate(properties.items())
            }
        case "array":
            return [sample_of_schema(schema.get("items"), drawn, depth + 1)]
        case "integer":
            return drawn % 100
        case "number":
            return (drawn % 1000) / 8
        case "boolean":
            return drawn % 2 == 0
        case "null":
            return None
        case _:
            return WORDS[drawn % _COUNT]


def direction(seed: int, length: int) -> list[float]:
    """A vector whose parts lie between -1 and 1; not yet of length one."""
    return [mix(seed, i) * _EMBED_SCALE - 1.0 for i in range(length)]
