"""The page that explains a request, for one that waits, runs, is over, or never got in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker_client import Attempt, Explanation, Gate, Overtaking, RequestName
from brokerctl.explain import STATES, page

WAITS = Explanation(
    agent_id="opus-1",
    request_id="r-1",
    model="qwen3:8b",
    priority=5,
    compartment="opus",
    state="queued",
    age_ms=2500.0,
    queue_wait_ms=2500.0,
    run_ms=None,
    ended_ago_ms=None,
    position=3,
    wait_reason="slot",
    wait_detail="a slot of qwen3:8b",
    changes=(),
    gates=(),
    overtakings=(),
    complete=True,
    problem="",
    attempts=(),
)


def test_one_that_waits() -> None:
    assert page(WAITS) == [
        "request r-1 of agent opus-1 waits at position 3: a slot of qwen3:8b",
        "  model qwen3:8b, priority 5, compartment opus",
        "  came 2.5 s ago",
        "nobody overtook it",
    ]


def test_one_that_named_no_model_hears_why_it_got_this_one() -> None:
    because = "tiny:latest: the smallest of 3 that fit, resident on gpu0"
    lines = page(replace(WAITS, model="small", chosen_because=because))
    assert lines[1] == "  model small, priority 5, compartment opus"
    assert f"  chosen: {because}" in lines
    assert page(replace(WAITS, model=""))[1].startswith("  a model by its requirements, priority")


def test_what_it_shares_with_others() -> None:
    told = replace(WAITS, session_credit_ms=7_500.0, known_prompt_bytes=4_096)
    assert page(told)[3:5] == [
        "  counted as 7.5 s older, for the part of its session that was done",
        "  the first 4 KiB of its prompt had probably been read before",
    ]


@pytest.mark.parametrize(("met", "words"), [(None, ""), (True, ": met"), (False, ": missed")])
def test_by_when_it_would_have_its_answer(met: bool | None, words: str) -> None:
    found = page(replace(WAITS, soft_deadline_ms=30_000.0, soft_deadline_met=met))[3]
    assert found == f"  soft deadline 30.0 s after it came{words}"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, "said 20 to 45 s, has waited 2.5 s"),
        ({"run_ms": 1.0, "queue_wait_ms": 31_000.0}, "said 20 to 45 s, waited 31.0 s"),
        ({"ended_ago_ms": 1.0}, "said 20 to 45 s, left after 2.5 s"),
        ({"told_low_ms": 40_000.0, "told_high_ms": 90_000.0}, None),
    ],
)
def test_what_it_was_told_stands_beside_what_came_of_it(
    change: dict[str, float], line: str | None
) -> None:
    told = replace(WAITS, told_low_ms=20_000.0, told_high_ms=45_000.0)
    found = page(replace(told, **change))[3]  # type: ignore[arg-type]  # each is a float
    assert found == f"  {line or 'said 40.0 s to 1 min 30 s, has waited 2.5 s'}"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, "starts within 45.0 s at most, as stated when it came"),
        ({"run_ms": 1.0}, "was to start within 45.0 s at most, as stated when it came"),
        (
            {"run_ms": 1.0, "queue_wait_ms": 46_000.0},
            "was to start within 45.0 s at most, as stated when it came, which it did not",
        ),
        ({"ended_ago_ms": 1.0}, "was to start within 45.0 s at most, as stated when it came"),
        ({"bound_ms": None, "bound_why": "too much comes"}, "no bound on its wait: too much comes"),
    ],
)
def test_the_bound_on_its_wait(change: dict[str, float], line: str) -> None:
    bounded = replace(WAITS, bound_ms=45_000.0)
    found = page(replace(bounded, **change))[3]  # type: ignore[arg-type]  # as the fields have it
    assert found == f"  {line}"


@pytest.mark.parametrize(
    ("times", "may_be", "line"),
    [
        (0, True, "may be set aside for urgent work"),
        (1, True, "was set aside for urgent work 1 time, and may be again"),
        (2, False, "was set aside for urgent work 2 times, and is not again"),
    ],
)
def test_how_often_it_was_set_aside(times: int, may_be: bool, line: str) -> None:
    assert page(replace(WAITS, preemptions=times, preemptible=may_be))[3] == f"  {line}"


def test_one_that_runs_says_what_was_changed() -> None:
    runs = replace(
        WAITS,
        state="streaming",
        position=0,
        wait_detail="",
        queue_wait_ms=500.0,
        run_ms=2000.0,
        changes=("priority lowered from 1 to 5",),
    )
    assert page(runs)[0] == "request r-1 of agent opus-1 runs; tokens come"
    assert page(runs)[2:4] == [
        "  came 2.5 s ago, waited 500 ms, has run 2.0 s",
        "  changed: priority lowered from 1 to 5",
    ]


def test_one_that_is_over() -> None:
    over = replace(
        WAITS,
        state="failed",
        position=0,
        wait_detail="",
        run_ms=1000.0,
        ended_ago_ms=60_000.0,
        problem="the backend broke",
    )
    assert page(over)[0] == "request r-1 of agent opus-1 failed: the backend broke"
    assert page(over)[2] == "  came 2.5 s ago, waited 2.5 s, ran 1.0 s, ended 1 min 0 s ago"


def test_one_that_was_refused_names_the_gate_with_its_numbers() -> None:
    refused = replace(
        WAITS,
        state="refused",
        compartment="",
        position=0,
        queue_wait_ms=0.0,
        ended_ago_ms=2500.0,
        wait_detail="",
        problem="10 requests a minute are used up",
        gates=(
            Gate(name="request bucket", passed=True, detail=""),
            Gate(name="backpressure", passed=False, detail="1000 of 1000 wait"),
        ),
    )
    assert page(refused) == [
        "request r-1 of agent opus-1 was refused: 10 requests a minute are used up",
        "  model qwen3:8b, priority 5",
        "  came 2.5 s ago and was told so at once",
        "gates on its way in:",
        "  passed   request bucket",
        "  said no  backpressure    1000 of 1000 wait",
    ]


@pytest.mark.parametrize("state", ["refused", "expired"])
def test_one_that_never_ran_says_how_long_it_stood(state: str) -> None:
    never = replace(WAITS, state=state, position=0, ended_ago_ms=500.0, queue_wait_ms=2000.0)
    said = "  came 2.5 s ago, was never started, and given up after 2.0 s, ended 500 ms ago"
    assert page(never)[2] == said


def test_who_overtook_it_by_rule_and_what_is_forgotten() -> None:
    name = RequestName(agent_id="sonnet-2", request_id="q")
    found = replace(
        WAITS,
        overtakings=(
            Overtaking(rule="a better priority", count=12, examples=(name,)),
            Overtaking(rule="its model is resident", count=1, examples=(name,)),
            Overtaking(rule="a bulkhead", count=2, examples=()),
        ),
        complete=False,
    )
    assert page(found)[3:] == [
        "overtaken by at least 15 requests that came later and started earlier, by this rule:",
        "  12  a better priority (lately q of sonnet-2)",
        "   1  its model is resident (q of sonnet-2)",
        "   2  a bulkhead",
    ]
    assert page(replace(WAITS, complete=False))[-1] == "who overtook it is forgotten"


@pytest.mark.parametrize("state", [*STATES, "a state of a newer broker"])
def test_every_state_makes_a_sentence(state: str) -> None:
    assert page(replace(WAITS, state=state))[0].startswith("request r-1 of agent opus-1 ")


FIRST = Attempt(
    number=1,
    backend="gpu0",
    model="qwen3:8b",
    run_ms=1200.0,
    first_token_ms=300.0,
    pieces=12,
    reason="BACKEND_FAILED",
    problem="connection reset",
    backoff_ms=250.0,
    continued=False,
)
SECOND = replace(
    FIRST,
    number=2,
    backend="spare",
    pieces=0,
    first_token_ms=None,
    reason="",
    problem="",
    backoff_ms=0.0,
    continued=True,
)


def test_the_attempts_are_a_table() -> None:
    lines = page(replace(WAITS, attempts=(FIRST, SECOND)))
    start = lines.index("attempts:")
    assert lines[start : start + 4] == [
        "attempts:",
        "  no  backend  model       ran  first piece  pieces  came to",
        "   1  gpu0     qwen3:8b  1.2 s       300 ms      12  BACKEND_FAILED: connection reset; "
        "then 250 ms of waiting",
        "   2  spare    qwen3:8b  1.2 s                    0  from the text so far; no failure",
    ]


def test_attempts_that_are_forgotten_are_not_denied() -> None:
    assert "attempts, the last ones:" in page(replace(WAITS, attempts=(SECOND,) * 2))


def test_a_single_attempt_that_goes_well_needs_no_table() -> None:
    only = replace(SECOND, number=1)
    assert page(replace(WAITS, attempts=(only,))) == page(WAITS)


def test_one_that_was_tried_and_given_up_as_it_waited_again() -> None:
    lost = Attempt(
        number=2,
        backend="gpu0",
        model="qwen3:8b",
        run_ms=900.0,
        first_token_ms=100.0,
        pieces=20,
        reason="BACKEND_FAILED",
        problem="broke off",
        backoff_ms=0.0,
        continued=False,
    )
    over = replace(
        WAITS,
        state="expired",
        position=0,
        ended_ago_ms=500.0,
        queue_wait_ms=2000.0,
        attempts=(lost,),
    )
    said = "  came 2.5 s ago, was waiting again after 2 attempts, and given up after 2.0 s"
    assert page(over)[2].startswith(said)


def test_what_a_server_said_neither_breaks_the_page_nor_rules_the_terminal() -> None:
    broken = replace(
        WAITS, state="failed", position=0, wait_detail="", problem="a\nb\x00c\x1b[31md\r\te\u202ef"
    )
    lines = page(broken)
    assert lines[0].endswith("failed: a b\\x00c\\x1b[31md  e\\u202ef")
    assert all(each.isprintable() for each in lines)
