"""Topics: which names are good, which patterns fit, and who is found."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import InvariantBroken
from broker.core.topics import (
    ALIASES,
    SYSTEM,
    WITH_STATE,
    PatternTree,
    fits,
    names_of,
    pattern_problem,
    system_topic,
    topic_problem,
)

SEGMENT = st.sampled_from(("a", "b", "c.d", "E_1", "x/y@z-0"))
NAME = st.lists(SEGMENT, min_size=1, max_size=4).map(":".join)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    """Valid patterns of few segments, so that many of them fit."""
    segments = draw(st.lists(st.one_of(SEGMENT, st.just("*")), min_size=0, max_size=4))
    if not segments or draw(st.booleans()):
        segments.append("**")
    return ":".join(segments)


def by_expression(pattern: str, name: str) -> bool:
    """The same question, answered by a regular expression."""
    parts = []
    for segment in pattern.split(":"):
        parts.append({"*": "[^:]+", "**": ".+"}.get(segment, re.escape(segment)))
    return re.fullmatch(":".join(parts), name) is not None


@given(patterns(), NAME)
def test_a_pattern_fits_what_its_expression_matches(pattern: str, name: str) -> None:
    assert pattern_problem(pattern) == ""
    assert fits(pattern, name) == by_expression(pattern, name)


@given(st.lists(patterns(), max_size=12), st.sets(st.integers(0, 11)), NAME)
def test_those_found_are_those_whose_pattern_fits(
    given_patterns: list[str], leavers: set[int], name: str
) -> None:
    tree: PatternTree[int] = PatternTree()
    for listener, pattern in enumerate(given_patterns):
        tree.add(listener, pattern)
        tree.add(listener, pattern)  # again: no other than once
    for listener in leavers & set(range(len(given_patterns))):
        tree.remove(listener, given_patterns[listener])
    stay = set(range(len(given_patterns))) - leavers
    assert set(tree.find([name])) == {
        each for each in stay if by_expression(given_patterns[each], name)
    }


@given(st.lists(patterns(), max_size=12))
def test_who_left_leaves_nothing_behind(given_patterns: list[str]) -> None:
    tree: PatternTree[int] = PatternTree()
    for listener, pattern in enumerate(given_patterns):
        tree.add(listener, pattern)
    for listener, pattern in enumerate(given_patterns):
        tree.remove(listener, pattern)
    assert tree._root.is_bare


def test_a_listener_of_several_patterns_is_found_once() -> None:
    tree: PatternTree[str] = PatternTree()
    for pattern in ("a:b", "a:*", "**", "*:b"):
        tree.add("one", pattern)
    tree.add("two", "a:*")
    assert list(tree.find(["a:b"])) == ["one", "two"]


@pytest.mark.parametrize("pattern", ["a", "a:b", "*", "**", "a:**"])
def test_what_nobody_asked_for_cannot_be_taken_back(pattern: str) -> None:
    tree: PatternTree[str] = PatternTree()
    tree.add("one", "a:b:c")
    with pytest.raises(InvariantBroken):
        tree.remove("one", pattern)


@pytest.mark.parametrize(
    ("pattern", "name", "does"),
    [
        ("**", "a", True),
        ("**", "a:b:c", True),
        ("a:**", "a", False),  # one or more
        ("a:**", "a:b", True),
        ("*", "a:b", False),
        ("*:*", "a:b", True),
        ("a", "ab", False),
    ],
)
def test_what_the_wildcards_stand_for(pattern: str, name: str, does: bool) -> None:
    assert fits(pattern, name) is does


@pytest.mark.parametrize("name", ["a", "x" * 200, ":".join("s" * 16), "ollama:capacity:update"])
def test_a_good_name_is_a_topic_and_a_pattern(name: str) -> None:
    assert topic_problem(name) == pattern_problem(name) == ""


@pytest.mark.parametrize("name", ["", "x" * 201, ":".join("s" * 17), "a b", "a::b", "ü", "a\n"])
def test_a_bad_name_is_neither(name: str) -> None:
    assert topic_problem(name)
    assert pattern_problem(name)


@pytest.mark.parametrize("pattern", ["*", "**", "a:*", "*:*", "a:**", "*:**"])
def test_a_pattern_with_wildcards_is_no_topic(pattern: str) -> None:
    assert pattern_problem(pattern) == ""
    assert topic_problem(pattern)


@pytest.mark.parametrize("pattern", ["**:a", "a:**:b", "a*", "***", "**:**"])
def test_a_wildcard_has_its_place(pattern: str) -> None:
    assert pattern_problem(pattern)


def test_the_seeds_names_are_other_names_of_the_brokers_topics() -> None:
    assert dict(ALIASES) == {
        "ollama:capacity:update": "capacity",
        "system:degradation:level": "level",
        "agent:priority:change": "priority",
    }
    for alias, topic in ALIASES.items():
        assert system_topic(alias) == system_topic(topic) == topic
        assert names_of(topic) == (topic, alias)
    assert system_topic("capacity:mine") is None
    assert names_of("mine") == ("mine",)
    assert set(SYSTEM) > WITH_STATE
