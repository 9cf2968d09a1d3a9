"""The names of topics, patterns of them, and who has asked for which.

A topic is 1 to 16 segments with ":" between them. In a pattern "*" stands for one segment, and "**"
at its end for one or more. The broker's own topics are one segment each; some have a second name,
the one that the seeds use. A pattern hears a topic if it fits any of its names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from broker.core.errors import InvariantBroken

SEGMENTS_MAX: Final = 16
LENGTH_MAX: Final = 200
PATTERNS_MAX: Final = 32
ONE: Final = "*"
REST: Final = "**"
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._/@-]+")
_RULE: Final = "letters, digits and any of ._/@-"

CAPACITY: Final = "capacity"
LEVEL: Final = "level"
PRIORITY: Final = "priority"
MODELS: Final = "models"
REQUESTS: Final = "requests"
ALERTS: Final = "alerts"
HEALTH: Final = "health"

# The topics that the broker alone writes.
SYSTEM: Final = (CAPACITY, LEVEL, PRIORITY, MODELS, REQUESTS, ALERTS, HEALTH)
# Those that have a state, of which only the last event counts. "priority" has one for each scope.
WITH_STATE: Final = frozenset({CAPACITY, LEVEL, PRIORITY, MODELS, ALERTS})
# The seeds' names for them.
ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ollama:capacity:update": CAPACITY,
        "system:degradation:level": LEVEL,
        "agent:priority:change": PRIORITY,
    }
)
_NAMES: Final = {
    each: (each, *(alias for alias, topic in ALIASES.items() if topic == each)) for each in SYSTEM
}


def names_of(topic: str) -> tuple[str, ...]:
    """All names of a topic, the short one first."""
    return _NAMES.get(topic, (topic,))


def system_topic(name: str) -> str | None:
    """The broker's own topic that goes by this name; None where it is a free one."""
    return ALIASES.get(name, name if name in SYSTEM else None)


def topic_problem(name: str) -> str:
    """What is wrong with the name of a topic, "" where nothing is."""
    return _size_problem(name) or _segments_problem(name.split(":"))


def pattern_problem(pattern: str) -> str:
    """What is wrong with a pattern, "" where nothing is."""
    problem = _size_problem(pattern)
    if problem:
        return problem
    segments = pattern.split(":")
    if REST in segments[:-1]:
        return f'has "{REST}" before its end, where alone it may be'
    return _segments_problem([each for each in segments if each not in (ONE, REST)])


def _size_problem(name: str) -> str:
    if not 1 <= len(name) <= LENGTH_MAX:
        return f"has {len(name)} characters; 1 to {LENGTH_MAX}"
    count = name.count(":") + 1
    return f"has {count} segments; at most {SEGMENTS_MAX}" if count > SEGMENTS_MAX else ""


def _segments_problem(segments: list[str]) -> str:
    good = all(_SEGMENT.fullmatch(each) for each in segments)
    return "" if good else f'must be segments of {_RULE}, with ":" between them'


def fits(pattern: str, name: str) -> bool:
    """Does a valid pattern fit this very name?"""
    wanted, given = pattern.split(":"), name.split(":")
    if wanted[-1] == REST:
        if len(given) < len(wanted):
            return False
        given = given[: len(wanted) - 1]
        wanted.pop()
    return len(wanted) == len(given) and all(
        each in (ONE, segment) for each, segment in zip(wanted, given, strict=True)
    )


LISTENER = TypeVar("LISTENER")


class _Node(Generic[LISTENER]):
    """What follows after some segments: further ones, or who has asked for what ends here."""

    __slots__ = ("ends", "next", "rest")

    def __init__(self) -> None:
        self.next: dict[str, _Node[LISTENER]] = {}
        self.ends: dict[LISTENER, None] = {}
        self.rest: dict[LISTENER, None] = {}  # "**" comes here

    @property
    def is_bare(self) -> bool:
        return not (self.next or self.ends or self.rest)


class PatternTree(Generic[LISTENER]):
    """Listeners by their patterns. Finding those of a topic costs by its segments and by how many
    there are, not by how many patterns there are."""

    def __init__(self) -> None:
        self._root: _Node[LISTENER] = _Node()

    def add(self, listener: LISTENER, pattern: str) -> None:
        """Has it hear what fits this pattern. The same pattern again changes nothing."""
        self._holder(pattern.split(":"))[listener] = None

    def _holder(self, segments: list[str]) -> dict[LISTENER, None]:
        """Where the listeners of a pattern are kept, made where it is not there."""
        node = self._root
        for segment in segments:
            if segment == REST:
                return node.rest
            node = node.next.setdefault(segment, _Node())
        return node.ends

    def remove(self, listener: LISTENER, pattern: str) -> None:
        """Takes back what `add` did."""
        path = [self._root]
        segments = pattern.split(":")
        for segment in segments:
            if segment == REST:
                break
            following = path[-1].next.get(segment)
            if following is None:
                raise InvariantBroken(f"nobody has asked for {pattern!r}")
            path.append(following)
        last = path[-1]
        held = last.rest if segments[-1] == REST else last.ends
        if listener not in held:
            raise InvariantBroken(f"it has not asked for {pattern!r}")
        del held[listener]
        for parent, segment, node in reversed(
            list(zip(path, segments[: len(path) - 1], path[1:], strict=False))
        ):
            if node.is_bare:
                del parent.next[segment]

    def find(self, names: Iterable[str]) -> dict[LISTENER, None]:
        """Who hears a topic of these names, each once."""
        found: dict[LISTENER, None] = {}
        for name in names:
            for group in _groups(self._root, name.split(":"), 0):
                found.update(group)
        return found


def _groups(
    node: _Node[LISTENER], segments: list[str], depth: int
) -> Iterator[dict[LISTENER, None]]:
    """The listeners of each pattern below this node that fits the segments from `depth` on."""
    if depth == len(segments):
        yield node.ends
        return
    yield node.rest
    for segment in (segments[depth], ONE):
        following = node.next.get(segment)
        if following is not None:
            yield from _groups(following, segments, depth + 1)
