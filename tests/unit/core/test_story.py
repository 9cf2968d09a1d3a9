"""The story of a request: its gates with their numbers, who overtook it by which rule, its end."""

from __future__ import annotations

import pytest

from broker.core.admission import GateName
from broker.core.agent_policy import AgentsPolicy, BucketPolicy
from broker.core.errors import BackendRefused, RequestUnknown
from broker.core.journal import ENDED_MAX, REFUSED_MAX
from broker.core.queueing import QueuePolicy
from broker.core.stimuli import (
    CancelAsked,
    CancelCause,
    DrainAsked,
)
from broker.core.story import requests_called
from tests.unit.core.gate_words import kind
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, Scene, arrived, model, serving
from tests.unit.core.story_scene import comes, house, story

STEP_NS = QueuePolicy().handicap_ns_per_priority


def gates(scene: Scene, name: str, agent: str = "a") -> dict[str, str]:
    return {each.name: each.detail for each in story(scene, name, agent).gates if each.passed}


def stopped(scene: Scene, name: str, agent: str = "a") -> tuple[str, str]:
    """The gate that said no, and what it said."""
    last = story(scene, name, agent).gates[-1]
    assert not last.passed
    return last.name, last.detail


# Gates


def test_whoever_was_let_in_passed_every_gate_in_order() -> None:
    scene = house()
    comes(scene, "r")
    names = [each.name for each in story(scene, "r").gates]
    assert names == [
        GateName.IDEMPOTENCY,
        GateName.DRAINING,
        GateName.IDENTITY,
        GateName.VALIDATION,
        GateName.REQUEST_BUCKET,
        GateName.LEVEL,
        GateName.TOKEN_BUCKET,
        GateName.BACKPRESSURE,
        GateName.FEASIBILITY,
    ]
    passed = gates(scene, "r")
    assert passed[GateName.REQUEST_BUCKET] == passed[GateName.TOKEN_BUCKET] == "no limit"
    assert passed[GateName.BACKPRESSURE] == "0 of 1000 waited, 0 of this agent, 0 bytes"
    assert passed[GateName.FEASIBILITY] == "not judged: 1 samples are too few"


def test_each_gate_says_the_numbers_it_judged_by() -> None:
    tokens = BucketPolicy(per_minute=600)
    types = (kind("metered", "a", per_minute=10, tokens=tokens), kind("any", "*"))
    scene = serving(model("m"), agents=AgentsPolicy(types=types), first_agent="x")
    scene.measured(agent="x", prompt_tokens=10, output_tokens=21)
    scene.turn(arrived("running", agent="x"))
    for name in ("r1", "r2"):
        comes(scene, name, deadline_ns=scene.now_ns + 30 * SECOND_NS)
    passed = gates(scene, "r2")
    assert passed[GateName.REQUEST_BUCKET] == "8.0 requests left"
    assert passed[GateName.TOKEN_BUCKET] == "30 tokens reserved, 540 left"
    assert passed[GateName.BACKPRESSURE] == "1 of 1000 waited, 1 of this agent, 100 bytes"
    words = "an answer takes about 1.9 s, 30.0 s were left (21 samples)"
    assert passed[GateName.FEASIBILITY] == words


def test_a_place_at_anothers_cost_is_told_by_both_stories() -> None:
    scene = house(queue=QueuePolicy(queued_max=2))
    for name in ("a1", "a2"):
        comes(scene, name)
    comes(scene, "r", agent="b")
    assert gates(scene, "r", "b")[GateName.BACKPRESSURE].endswith("; displaced a2 of a")
    displaced = story(scene, "a2")
    assert displaced.state == "displaced"
    assert displaced.problem.startswith("the queue is full and 2 requests of this agent wait")


def test_who_stood_in_the_waiting_room_is_told_so() -> None:
    scene = house(queue=QueuePolicy(queued_max=1))
    comes(scene, "a1")
    comes(scene, "r", agent="b", priority=1)
    waiting = story(scene, "r", "b")
    assert (waiting.state, waiting.wait_reason, waiting.position) == ("admitted", "QUEUE_FULL", 1)
    assert gates(scene, "r", "b")[GateName.BACKPRESSURE].endswith("; stood in the waiting room")


def test_a_refused_request_is_told_up_to_the_gate_that_said_no() -> None:
    scene = house(queue=QueuePolicy(queued_max=1, room_max=0))
    comes(scene, "a1")
    assert not comes(scene, "r", agent="b")
    told = story(scene, "r", "b")
    assert (told.state, told.position, told.started_ns) == ("refused", 0, 0)
    assert told.arrived_ns == told.ended_ns == scene.now_ns
    assert stopped(scene, "r", "b") == (
        GateName.BACKPRESSURE,
        "1 requests wait, of at most 1 (1 of 1 waited, 0 of this agent, 100 bytes)",
    )
    assert GateName.FEASIBILITY not in {each.name for each in told.gates}


@pytest.mark.parametrize("what", ["requests", "tokens"])
def test_an_empty_bucket_is_not_told_to_be_no_limit(what: str) -> None:
    tokens = BucketPolicy(per_minute=60, burst=10)
    types = (
        kind("metered", "a", per_minute=2) if what == "requests" else kind("m", "a", tokens=tokens),
        kind("any", "*"),
    )
    scene = house(agents=AgentsPolicy(types=types))
    scene.ends("running", agent="x")
    for name in ("r1", "r2"):
        comes(scene, name)
    scene.ends("r1", output_tokens=20, prompt_tokens=1)
    assert not comes(scene, "r3")
    gate, words = stopped(scene, "r3")
    if what == "requests":
        assert gate == GateName.REQUEST_BUCKET
        assert words == "this agent may send 2 requests a minute, 2 at once (0.0 requests left)"
    else:
        assert gate == GateName.TOKEN_BUCKET
        assert words == "this needs about 1 tokens, of 60 a minute, 10 at once (-12 left)"


def test_what_cannot_meet_its_deadline_is_told_with_its_numbers() -> None:
    scene = house()
    scene.ends("running", agent="x")
    scene.measured(10 * SECOND_NS, agent="x")
    assert not comes(scene, "r", deadline_ns=scene.now_ns + SECOND_NS)
    gate, words = stopped(scene, "r")
    assert gate == GateName.FEASIBILITY
    assert words.startswith("1.0 s are left, and by what was measured an answer takes")
    assert gates(scene, "r")[GateName.BACKPRESSURE] == (
        "0 of 1000 waited, 0 of this agent, 0 bytes"
    )


@pytest.mark.parametrize("why", ["unknown model", "deadline", "draining"])
def test_the_first_gates_say_no_without_numbers(why: str) -> None:
    scene = house()
    if why == "unknown model":
        comes(scene, "r", of_model="nothing")
        expected = (GateName.VALIDATION, "model 'nothing' is on no backend; nearest:")
    elif why == "deadline":
        comes(scene, "r", deadline_ns=0)
        expected = (GateName.VALIDATION, "the deadline had passed")
    else:
        scene.turn(DrainAsked(MINUTE_NS))
        comes(scene, "r")
        expected = (GateName.DRAINING, "the broker is leaving")
    gate, words = stopped(scene, "r")
    assert gate == expected[0]
    assert words.startswith(expected[1])


def test_another_content_under_an_id_in_use_does_not_hide_the_one_under_way() -> None:
    scene = house()
    comes(scene, "r")
    scene.turn(arrived("r", content=b"other"))
    assert story(scene, "r").state == "queued"
    scene.turn(CancelAsked(("a", "r"), CancelCause.BY_AGENT))
    assert story(scene, "r").state == "cancelled"


# Waiting, running, ended


def test_what_waits_is_told_where_it_stands_and_for_what() -> None:
    scene = house()
    for name, agent in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        comes(scene, name, agent)
    told = story(scene, "a2")
    assert (told.state, told.position, told.wait_reason) == ("queued", 3, "SLOT")
    assert told.wait_detail == "a free slot of m:latest on b1"
    assert (told.started_ns, told.ended_ns, told.problem) == (0, 0, "")


def test_what_runs_is_told_since_when_and_what_was_changed() -> None:
    scene = house(slots=2)
    scene.wait(SECOND_NS)
    comes(scene, "r", "low", priority=1)
    told = story(scene, "r", "low")
    assert (told.state, told.started_ns, told.position) == ("dispatched", scene.now_ns, 0)
    assert (told.wait_reason, told.priority) == ("", 6)
    assert told.changes == ("priority is 6 instead of 1, the best for this agent",)


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled", "expired"])
def test_what_has_ended_is_told_how_and_when(how: str) -> None:
    scene = house()
    comes(scene, "r", deadline_ns=MINUTE_NS)
    if how == "expired":
        scene.wait(MINUTE_NS - scene.now_ns)
    elif how == "cancelled":
        scene.turn(CancelAsked(("a", "r"), CancelCause.BY_AGENT))
    else:
        scene.ends("running", agent="x")
        scene.ends("r", BackendRefused("it broke", status=400) if how == "failed" else None)
    told = story(scene, "r")
    assert (told.state, told.ended_ns) == (how, scene.now_ns)
    problems = {
        "completed": "",
        "failed": "it broke",
        "cancelled": "its agent cancelled it",
        "expired": "the deadline passed after 60.0 s of waiting for a free slot of m:latest on b1",
    }
    assert told.problem == problems[how]


# What is remembered


def test_a_request_that_never_was_is_unknown() -> None:
    with pytest.raises(RequestUnknown):
        story(house(), "r")


def test_the_last_request_under_an_id_is_the_one_that_is_told() -> None:
    scene = house()
    comes(scene, "r")
    scene.order()
    assert story(scene, "r").state == "completed"
    comes(scene, "r", of_model="nothing")
    assert story(scene, "r").state == "refused"
    comes(scene, "r")
    assert story(scene, "r").state == "dispatched"


def test_requests_of_one_id_are_found_whatever_their_agents_and_ends() -> None:
    scene = house()
    for agent in ("a", "b"):
        comes(scene, "r", agent)
    scene.order()
    comes(scene, "r", "c")
    comes(scene, "r", "d", of_model="nothing")
    found = requests_called(scene.engine, "r")
    assert found == [("a", "r"), ("b", "r"), ("c", "r"), ("d", "r")]


def test_so_many_ended_ones_are_remembered_and_the_oldest_forgotten() -> None:
    scene = house(queue=QueuePolicy(queued_max=9))
    for number in range(ENDED_MAX + 5):
        scene.engine.handle(arrived(f"r{number}", agent="a"), 0)
        scene.engine.handle(CancelAsked(("a", f"r{number}"), CancelCause.BY_AGENT), 0)
    with pytest.raises(RequestUnknown):
        story(scene, "r4")
    assert story(scene, "r5").state == "cancelled"
    assert len(scene.engine.ledger.journal.ended) == ENDED_MAX


def test_a_flood_that_is_refused_pushes_no_others_story_out() -> None:
    scene = house()
    comes(scene, "mine")
    scene.order()
    for number in range(REFUSED_MAX + 5):
        scene.engine.handle(arrived(f"r{number}", agent="flood", deadline_ns=0), scene.now_ns)
    assert story(scene, "mine").state == "completed"
    assert len(scene.engine.ledger.journal.refused) == REFUSED_MAX
