"""Rates that others make void, and types that no id reaches."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.config.contradictions import contradictions
from broker.config.load import load
from broker.config.schema import AgentsConfig, AgentTypeConfig, Config
from tests.unit.config.problems import NO_ENVIRONMENT, problems_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "broker.toml"


def one_type(everybody: str, of_type: str) -> str:
    return (
        f"[agents]\ndefault_type = ''\n{everybody}\n"
        f"[[agents.types]]\nname = 'cat'\nmatch = ['cat-*']\n{of_type}\n"
    )


def types(*globs: str, default: str = "") -> str:
    """Types a, b, ... with these globs, each as TOML writes the inside of an array."""
    tables = (
        f"[[agents.types]]\nname = '{name}'\nmatch = [{inside}]\n"
        for name, inside in zip("abcd", globs, strict=False)
    )
    return f"[agents]\ndefault_type = '{default}'\n" + "".join(tables)


AGENT_ALL = "as no agent can have more than all agents together"
AGENT_TYPE = "as no agent can have more than all of its type together"
TYPE_ALL = "as no type can have more than all agents together"
HERE = "agents.types[0]"


@pytest.mark.parametrize(
    ("everybody", "of_type", "problems"),
    [
        (
            "",
            "all_requests_per_minute = 9\nall_requests_burst = 1\n"
            "requests_per_minute = 9\nrequests_burst = 500",
            [
                f"{HERE}.requests_burst: is 500; must be at most {HERE}.all_requests_burst (1), "
                f"{AGENT_TYPE}"
            ],
        ),
        (
            "requests_per_minute = 1\nrequests_burst = 1",
            "requests_per_minute = 1000\nrequests_burst = 500",
            [
                f"{HERE}.requests_per_minute: is 1000; must be at most agents.requests_per_minute "
                f"(1), {AGENT_ALL}",
                f"{HERE}.requests_burst: is 500; must be at most agents.requests_burst (1), "
                f"{AGENT_ALL}",
            ],
        ),
        (
            "tokens_per_minute = 10",
            "tokens_per_minute = 500",
            [
                f"{HERE}.tokens_per_minute: is 500; must be at most agents.tokens_per_minute (10), "
                f"{AGENT_ALL}"
            ],
        ),
        (
            "tokens_per_minute = 10\ntokens_burst = 5",
            "all_tokens_per_minute = 500\nall_tokens_burst = 6.5",
            [
                f"{HERE}.all_tokens_per_minute: is 500; must be at most agents.tokens_per_minute "
                f"(10), {TYPE_ALL}",
                f"{HERE}.all_tokens_burst: is 6.5; must be at most agents.tokens_burst (5), "
                f"{TYPE_ALL}",
            ],
        ),
        (  # the lowest of two bounds, so that one change is enough
            "requests_per_minute = 2",
            "requests_per_minute = 4\nall_requests_per_minute = 3",
            [
                f"{HERE}.requests_per_minute: is 4; must be at most agents.requests_per_minute "
                f"(2), {AGENT_ALL}",
                f"{HERE}.all_requests_per_minute: is 3; must be at most agents.requests_per_minute "
                f"(2), {TYPE_ALL}",
            ],
        ),
        (  # a burst of nothing is named once
            "",
            "requests_burst = 3\nall_requests_per_minute = 2\nall_requests_burst = 2",
            [
                f"{HERE}.requests_burst: is 3, and there is no requests_per_minute that it could "
                "be a burst of"
            ],
        ),
    ],
)
def test_a_rate_that_another_makes_void(
    file: Path, everybody: str, of_type: str, problems: list[str]
) -> None:
    file.write_text(one_type(everybody, of_type))
    assert problems_of(file) == problems


@pytest.mark.parametrize(
    "text",
    [
        one_type(
            "requests_per_minute = 5\nrequests_burst = 2",
            "requests_per_minute = 5\nrequests_burst = 2\n"
            "all_requests_per_minute = 5\nall_requests_burst = 2",
        ),
        # Each burst that is left out is one minute's worth, and nobody wrote that.
        one_type("requests_per_minute = 5\nrequests_burst = 2", "requests_per_minute = 5"),
        one_type("requests_per_minute = 5", "requests_per_minute = 5\nrequests_burst = 9"),
        # The seeds' types have more each, and nobody wrote them.
        "[agents]\nrequests_per_minute = 5\nrequests_burst = 5",
    ],
)
def test_rates_that_go_together(file: Path, text: str) -> None:
    file.write_text(text)
    assert load(file, NO_ENVIRONMENT) != Config()


@pytest.mark.parametrize(
    ("text", "index", "before"),
    [
        (types("'*'", "'b-*'"), 1, '"a"'),
        (types("'*'", "'*'"), 1, '"a"'),
        (types("'a'", "'**'", "'c?[d]'"), 2, '"b"'),
        (types("'x-[ab]?'", "'y'", "'x-[ab]?'"), 2, '"a"'),
        (types("'x-*'", "'x-y-*', 'x-[!a]z'"), 1, '"a"'),
        (types("'x-*'", "'*-y'", "'x-1', 'z*-y', 'x-2'"), 2, '"a", "b"'),
        (types("'*'", "'b-*'", default="b"), 1, '"a"'),
    ],
)
def test_a_type_that_no_id_reaches(file: Path, text: str, index: int, before: str) -> None:
    file.write_text(text)
    assert problems_of(file) == [
        f"agents.types[{index}].match: is never reached, as every id that it fits is of a type "
        f"before it ({before}); put the narrower type first, or take this one out"
    ]


@pytest.mark.parametrize(
    "text",
    [
        types("'b-*'", "'*'"),
        types("'b-*'", "'b-*', 'c'"),
        types("'b-*'", "'*-b'", "'*b*'"),
        types("'?'", "'*'"),  # as texts, the first matches the second
        types("'*]'", "'x[ab]'"),  # likewise
        types("'b-*'", "'b-*'", default="b"),  # it has what no glob fits
    ],
)
def test_a_type_that_some_id_reaches(file: Path, text: str) -> None:
    file.write_text(text)
    assert load(file, NO_ENVIRONMENT) != Config()


def test_a_type_that_could_not_be_read_covers_nothing(file: Path) -> None:
    file.write_text(types("'x'", "'y'").replace("['x']", "['x']\nweight = 0"))
    assert problems_of(file) == ["agents.types[0].weight: is 0; must be at least 0.001"]


IDS = ["".join(letters) for length in range(4) for letters in product("ab]-", repeat=length)]
GLOBS = st.text("ab*?[]!-", min_size=1, max_size=4) | st.sampled_from(["a*", "*]", "[ab]", "a?"])


@given(matches=st.lists(st.lists(GLOBS, min_size=1, max_size=2), min_size=2, max_size=4))
def test_no_id_reaches_what_is_called_unreachable(matches: list[list[str]]) -> None:
    config = Config(
        agents=AgentsConfig(
            default_type="",
            types=tuple(
                AgentTypeConfig(name=name, match=tuple(globs))
                for name, globs in zip("abcd", matches, strict=False)
            ),
        )
    )
    called = {each.path[2] for each in contradictions(config) if each.path[-1] == "match"}
    reached = set()
    for agent_id in IDS:
        fitting = (
            index
            for index, globs in enumerate(matches)
            if any(fnmatchcase(agent_id, glob) for glob in globs)
        )
        reached.add(next(fitting, None))
    assert not called & reached
