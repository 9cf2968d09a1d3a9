"""What the operator says of agents, of their bulkheads and of the queue, and gets wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.config.load import load
from broker.config.schema import Config
from tests.unit.config.problems import NO_ENVIRONMENT, problems_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "broker.toml"


TYPE = "[agents]\ndefault_type = ''\n[[agents.types]]\nname = 'cat'\nmatch = ['cat-*']\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "requests_burst = 3",
            "agents.types[0].requests_burst: is 3, and there is no requests_per_minute that it "
            "could be a burst of",
        ),
        (
            "all_tokens_burst = 3.5",
            "agents.types[0].all_tokens_burst: is 3.5, and there is no all_tokens_per_minute that "
            "it could be a burst of",
        ),
        (
            "tokens_per_minute = 3\nall_tokens_per_minute = 2",
            "agents.types[0].tokens_per_minute: is 3; must be at most "
            "agents.types[0].all_tokens_per_minute (2), as no agent can have more than all of its "
            "type together",
        ),
        (
            "bulkhead = 'sonet'",
            'agents.types[0].bulkhead: is "sonet", and [bulkheads] has no such name; did you mean '
            "sonnet?",
        ),
        (
            "bulkhead = 'x'\n[bulkheads]",
            'agents.types[0].bulkhead: is "x", and [bulkheads] has no such name',
        ),
        (
            "[bulkheads]\ncats = 3",
            "bulkheads.cats: is the bulkhead of nothing: it is neither critical nor batch nor that "
            "of a type; did you mean cat?",
        ),
        (
            "[bulkheads]\nzzz = 3",
            "bulkheads.zzz: is the bulkhead of nothing: it is neither critical nor batch nor that "
            "of a type; known are batch, cat, critical",
        ),
    ],
)
def test_a_type_that_contradicts_itself_or_the_bulkheads(
    file: Path, text: str, problem: str
) -> None:
    file.write_text(TYPE + text)
    assert problems_of(file) == [problem]


@pytest.mark.parametrize(
    "text",
    [
        TYPE,  # the seeds' bulkheads stay, though no type uses them
        TYPE + "bulkhead = 'cat'",  # its own name needs no limit
        TYPE + "bulkhead = 'batch'",
        TYPE + "bulkhead = 'paws'\n[bulkheads]\npaws = 1\ncritical = 2",
        TYPE + "priority_best = 9",  # nobody may use the room, and nobody wrote that one may
        "[bulkheads]",
        "[limits]\nstreams_max = 50\nqueued_max = 50",  # less than the room, likewise
        "[limits]\nqueued_max = 5",  # and less than one agent may have by default
        "[queue]\nroom_priority_worst = 4\nroom_max = 0\n"
        "[agents]\ntypes = [{name = 'system', match = ['x'], priority_best = 5}]",
        "[agents]\nrequests_per_minute = 0.01\nrequests_burst = 1",
    ],
)
def test_what_is_no_contradiction(file: Path, text: str) -> None:
    file.write_text(text)
    assert load(file, NO_ENVIRONMENT) != Config()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("weight = 0", "is 0; must be at least 0.001"),
        ("weight = -1", "is -1; must be at least 0.001"),
        ("weight = 1e9", "is 1000000000.0; must be at most 1000.0"),
        ("weight = nan", "is nan; must be a finite number"),
        ("requests_per_minute = 0", "is 0; must be at least 0.01"),
        ("requests_per_minute = inf", "is inf; must be a finite number"),
        ("requests_per_minute = -inf", "is -inf; must be a finite number"),
        ("requests_per_minute = 1e10", "is 10000000000.0; must be at most 10000000.0"),
        ("requests_burst = 0.5", "is 0.5; must be at least 1.0"),
        ("all_tokens_per_minute = '5'", 'is "5"; must be a number'),
        ("all_tokens_per_minute = true", "is true; must be a number"),
        ("priority_best = 0", "is 0; must be at least 1"),
        ("priority_best = 11", "is 11; must be at most 10"),
        ("may_be_critical = 1", "is 1; must be true or false"),
        ("bulkhead = 'A b'", 'is "A b"; must match ^([a-z0-9][a-z0-9_.-]{0,62})?$'),
        ("request_burst = 1", "is no setting; did you mean requests_burst?"),
    ],
)
def test_a_type_with_an_absurd_setting(file: Path, text: str, problem: str) -> None:
    file.write_text(TYPE + text)
    setting = text.partition(" ")[0]
    assert problems_of(file) == [f"agents.types[0].{setting}: {problem}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[bulkheads]\nopus = 0", "bulkheads.opus: is 0; must be at least 1"),
        ("[bulkheads]\nopus = 1.5", "bulkheads.opus: is 1.5; must be a whole number"),
        ("[bulkheads]\nopus = 100_001", "bulkheads.opus: is 100001; must be at most 100000"),
        (
            "[bulkheads]\n'A b' = 1",
            'bulkheads."A b": is "A b"; must match ^[a-z0-9][a-z0-9_.-]{0,62}$',
        ),
        ("bulkheads = 3", "bulkheads: must be a table"),
        (
            "[bulkheads]\n" + "\n".join(f"b{number} = 1" for number in range(63)),
            "bulkheads: must have at most 52 entries",
        ),
        (
            "[queue]\nagent_order = 'luck'",
            "queue.agent_order: is \"luck\"; must be one of 'size', 'arrival' or 'deadline'",
        ),
        ("[queue]\ndeadline_margin = 0.5", "queue.deadline_margin: is 0.5; must be at least 1.0"),
        (
            "[queue]\ndeadline_margin = nan",
            "queue.deadline_margin: is nan; must be a finite number",
        ),
        ("[queue]\nslow_down_percent = 0", "queue.slow_down_percent: is 0; must be at least 1"),
        ("[queue]\nroom_wait_ms = 0", "queue.room_wait_ms: is 0; must be at least 1"),
        ("[agents]\nremembered_max = 99", "agents.remembered_max: is 99; must be at least 100"),
        ("[[backends]]\nmemory_gb = nan", "backends[0].memory_gb: is nan; must be a finite number"),
    ],
)
def test_an_absurd_limit(file: Path, text: str, problem: str) -> None:
    file.write_text(text)
    assert problems_of(file) == [problem]
