"""How long a request will run, told when it comes: what is known of whom, and for how long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core import sizes
from broker.core.requests import RequestKind, RequestSpec
from broker.core.sizes import Sizes
from tests.unit.core.scene import SECOND_NS, arrived, model, request, serving

MS = 1_000_000


def asked(
    agent: str = "a", *, limit: int = 0, prompt_bytes: int = 1_000, kind: str = "generate"
) -> RequestSpec:
    spec = request("r", agent=agent, size_bytes=prompt_bytes)
    return replace(spec, output_tokens_max=limit, kind=RequestKind(kind))


def note(
    known: Sizes, spec: RequestSpec, tokens: int, *, runner: str = "m", times: int = 1
) -> None:
    """It was served by a runner that reads a byte in 1 µs and writes a token in 10 ms."""
    read_ns = spec.prompt_bytes * 1_000
    for _ in range(times):
        known.served(runner, spec, read_ns + tokens * 10 * MS, read_ns, tokens)


def expected_tokens(known: Sizes, spec: RequestSpec, runner: str = "m") -> float:
    """The length of its answer by which its time is told."""
    return (known.expected_ns(runner, spec) - spec.prompt_bytes * 1_000) / (10 * MS)


def test_of_nothing_nothing_is_told() -> None:
    assert Sizes().expected_ns("m", asked()) == 0


def test_a_prompt_counts_by_its_length() -> None:
    known = Sizes()
    note(known, asked(prompt_bytes=1_000), 10)
    note(known, asked(prompt_bytes=3_000), 10)
    assert known.expected_ns("m", asked(prompt_bytes=8_000)) == 8 * MS + 100 * MS


def test_an_answer_counts_by_those_of_its_agent_with_a_like_limit() -> None:
    known = Sizes()
    note(known, asked("brief", limit=500), 20, times=100)
    note(known, asked("long", limit=500), 480, times=100)
    note(known, asked("long", limit=4_000), 3_000, times=100)
    brief, long = (expected_tokens(known, asked(each, limit=500)) for each in ("brief", "long"))
    assert 20 < brief < 90
    assert 400 < long <= 480
    assert 2_500 < expected_tokens(known, asked("long", limit=4_000)) <= 3_000


def test_of_an_agent_never_seen_what_others_use_with_such_a_limit_is_told() -> None:
    known = Sizes()
    note(known, asked("a", limit=500), 20)
    note(known, asked("b", limit=4_000), 600)
    assert expected_tokens(known, asked("new", limit=400)) == pytest.approx(20 * 400 / 500)
    assert expected_tokens(known, asked("new", limit=3_000)) == pytest.approx(450)
    assert 20 < expected_tokens(known, asked("new")) < 600


def test_a_first_answer_moves_little_and_many_do_much() -> None:
    known = Sizes()
    note(known, asked("a"), 100, times=100)
    note(known, asked("b"), 1_000)
    once = expected_tokens(known, asked("b"))
    assert 100 < once < 500
    note(known, asked("b"), 1_000, times=30)
    assert expected_tokens(known, asked("b")) > 800


def test_no_answer_is_taken_for_longer_than_was_asked_for() -> None:
    known = Sizes()
    note(known, asked(limit=500), 480, times=5)
    note(known, asked(), 480, times=5)
    assert expected_tokens(known, asked(limit=300)) == pytest.approx(288)
    assert expected_tokens(known, asked(limit=100)) == pytest.approx(100)


def test_a_limit_that_is_absurd_is_a_limit_like_others() -> None:
    known = Sizes()
    note(known, asked(limit=2**40), 100)
    assert expected_tokens(known, asked(limit=2**62)) == pytest.approx(100)


def test_a_runner_that_has_served_nobody_is_taken_for_one_like_the_others() -> None:
    known = Sizes()
    note(known, asked(), 50)
    assert expected_tokens(known, asked(), "unheard of") == pytest.approx(50)


def test_what_an_agent_uses_elsewhere_tells_nothing_of_this_runner() -> None:
    known = Sizes()
    note(known, asked("a"), 1_000, runner="other", times=10)
    note(known, asked("b"), 10)
    assert expected_tokens(known, asked("a")) == pytest.approx(10)


def test_answers_that_nobody_counted_take_as_long_as_they_do() -> None:
    known = Sizes()
    known.served("m", asked(), 3 * SECOND_NS, SECOND_NS, 0)
    assert known.expected_ns("m", asked()) == 3 * SECOND_NS


def test_an_embedding_is_its_prompt() -> None:
    known = Sizes()
    note(known, asked(), 500)
    known.served("m", asked(kind="embed"), 30 * MS, 0, 0)
    assert known.expected_ns("m", asked(kind="embed", prompt_bytes=2_000)) == 60 * MS


def test_a_request_without_text_takes_as_long_as_its_answer() -> None:
    known = Sizes()
    note(known, asked(prompt_bytes=0), 10)
    assert known.expected_ns("m", asked(prompt_bytes=0)) == 100 * MS


def test_whoever_was_not_heard_of_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "AUTHORS_MAX", 3)
    known = Sizes()
    for agent in "abcad":
        note(known, asked(agent), 1_000 if agent in "ab" else 10, times=50)
    assert len(known) == 3
    own, forgotten = (expected_tokens(known, asked(agent)) for agent in "ab")
    assert forgotten < 200 < own


def test_a_runner_that_no_backend_has_any_more_is_forgotten() -> None:
    known = Sizes()
    note(known, asked(), 10)
    note(known, asked(), 500, runner="gone")
    known.keep({"m"})
    assert len(known) == 1
    assert expected_tokens(known, asked("b")) == pytest.approx(10)


def test_a_request_knows_its_size_from_when_it_comes() -> None:
    scene = serving(model("m"))
    scene.turn(arrived("before"))
    assert scene.engine.records["a", "before"].service_ns == 0
    scene.ends("before")
    scene.measured(2 * SECOND_NS, samples=30, output_tokens=10)
    scene.turn(arrived("after"))
    size_ns = scene.engine.records["a", "after"].service_ns
    assert SECOND_NS < size_ns <= 3 * SECOND_NS
