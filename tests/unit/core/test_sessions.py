"""A session's next call counts as older by what the session has come to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core import sessions
from broker.core.queueing import AgentOrder, QueuePolicy
from broker.core.sessions import IDLE_NS, Sessions
from broker.core.stimuli import Arrived
from broker.core.story import Rule
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, Scene, model, request, serving
from tests.unit.core.story_scene import story

CREDIT_NS = 10 * SECOND_NS
QUEUE = QueuePolicy(session_credit_ns=CREDIT_NS)


def comes(
    scene: Scene, name: str, *, agent: str = "a", session: str = "", expected: int = 0
) -> None:
    spec = request(name, agent=agent, deadline_ns=60 * MINUTE_NS)
    scene.turn(Arrived(replace(spec, session_id=session, expected_calls=expected)))


def begun(queue: QueuePolicy = QUEUE, *, expected: int = 2) -> Scene:
    """Session s of agent a has had its first call, of 4 s; "running" of agent x runs."""
    scene = serving(model("m"), queue=queue)
    comes(scene, "first", session="s", expected=expected)
    scene.wait(4 * SECOND_NS)
    scene.ends("first")
    comes(scene, "running", agent="x")
    return scene


@pytest.mark.parametrize(("after_s", "first"), [(4, "next"), (6, "new")])
def test_the_call_of_a_session_half_done_counts_as_older_by_half_the_credit(
    after_s: int, first: str
) -> None:
    scene = begun()
    comes(scene, "new", agent="b")
    scene.wait(after_s * SECOND_NS)
    comes(scene, "next", session="s", expected=2)
    assert scene.order().split()[1] == first


@pytest.mark.parametrize(("after_s", "first"), [(3, "next"), (5, "new")])
def test_where_nobody_said_how_many_calls_there_are_their_time_counts(
    after_s: int, first: str
) -> None:
    scene = begun(expected=0)
    comes(scene, "new", agent="b")
    scene.wait(after_s * SECOND_NS)
    comes(scene, "next", session="s")
    assert scene.order().split()[1] == first


def test_it_goes_before_a_new_session_of_its_own_agent_too() -> None:
    scene = begun()
    comes(scene, "new", session="t", expected=2)
    scene.wait(4 * SECOND_NS)
    comes(scene, "next", session="s", expected=2)
    assert scene.order() == "running next new"


def test_calls_of_one_session_stay_in_their_order() -> None:
    scene = serving(model("m", slots=2), queue=QUEUE)
    comes(scene, "running", session="s", expected=2)
    comes(scene, "too", session="s", expected=2)
    comes(scene, "early", session="s", expected=2)
    scene.ends("running")
    comes(scene, "another", session="s", expected=2)
    comes(scene, "late", session="s", expected=2)  # with a credit, as one call is done
    assert scene.order() == "too early another late"


def test_a_long_call_that_is_over_makes_the_next_no_younger_than_without_a_session() -> None:
    scene = serving(model("m"), queue=replace(QUEUE, size_handicap=3.0))
    for session, name, size_bytes in (("", "sample", 100), ("s", "long", 4_000)):
        spec = request(name, size_bytes=size_bytes, deadline_ns=60 * MINUTE_NS)
        scene.turn(Arrived(replace(spec, session_id=session, expected_calls=2 * bool(session))))
        scene.wait(2 * SECOND_NS)
        scene.ends(name)
    comes(scene, "running", agent="x")
    spec = request("new", size_bytes=200, deadline_ns=60 * MINUTE_NS)
    scene.turn(Arrived(spec))
    comes(scene, "next", session="s", expected=2)
    assert scene.order() == "running next new"


def test_by_deadline_an_agents_own_requests_know_no_credit() -> None:
    scene = begun(QueuePolicy(session_credit_ns=CREDIT_NS, agent_order=AgentOrder.DEADLINE))
    comes(scene, "new", session="t", expected=2)
    scene.wait(SECOND_NS)
    comes(scene, "next", session="s", expected=2)
    assert scene.order() == "running new next"


def test_a_credit_of_nothing_lets_sessions_play_no_part() -> None:
    scene = begun(QueuePolicy(session_credit_ns=0))
    comes(scene, "new", agent="b")
    comes(scene, "next", session="s", expected=2)
    assert scene.order() == "running new next"


def test_another_agents_session_of_the_same_name_is_another() -> None:
    scene = begun()
    comes(scene, "next", agent="b", session="s", expected=2)
    assert story(scene, "next", "b").credit_ns == 0


def test_explain_tells_the_credit() -> None:
    scene = begun()
    comes(scene, "next", session="s", expected=4)
    assert story(scene, "next").credit_ns == CREDIT_NS // 4


def test_who_is_passed_for_a_session_hears_so() -> None:
    scene = begun()
    comes(scene, "new", agent="b")
    scene.wait(1)
    comes(scene, "next", session="s", expected=2)
    scene.order()
    assert [each.rule for each in story(scene, "new", "b").overtaken] == [Rule.SESSION]


def test_the_last_word_on_the_number_of_calls_counts() -> None:
    known = Sessions()
    spec = replace(request("r"), session_id="s")
    session = known.called(replace(spec, expected_calls=4), 0)
    known.served(spec, SECOND_NS)
    known.called(spec, 1)  # says nothing
    assert session.credit_ns(100) == 25
    known.called(replace(spec, expected_calls=2), 1)
    assert session.credit_ns(100) == 50
    for _ in range(8):
        known.served(spec, SECOND_NS)
    assert session.credit_ns(100) == 90  # longer than expected: one is left, as far as is known


def test_attained_service_is_worth_no_more_than_the_most() -> None:
    known = Sessions()
    spec = replace(request("r"), session_id="s")
    session = known.called(spec, 0)
    known.served(spec, 70)
    assert (session.credit_ns(100), session.credit_ns(60)) == (70, 60)


def test_a_session_that_idled_is_another() -> None:
    known = Sessions()
    spec = replace(request("r"), session_id="s")
    known.called(spec, 0)
    known.served(spec, SECOND_NS)
    assert known.called(spec, IDLE_NS - 1).calls == 1
    assert known.called(spec, 2 * IDLE_NS - 1).calls == 0
    assert len(known) == 1


def test_the_session_not_called_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 2)
    known = Sessions()
    for name in ("s", "t", "s", "u"):
        known.called(replace(request("r"), session_id=name), 0)
    assert len(known) == 2
    assert known.find("a", "t") is None
    assert known.find("a", "s") is not None


@pytest.mark.parametrize("credit_ns", [-1, 60_000_000_001])
def test_a_credit_is_bounded(credit_ns: int) -> None:
    with pytest.raises(ValueError, match="the credit of sessions"):
        QueuePolicy(session_credit_ns=credit_ns)
