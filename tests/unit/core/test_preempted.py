"""What becomes of a request that was set aside, and of the slot that it had."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.effects import (
    AbortAttempt,
    Finish,
    StartAttempt,
    TellAttemptFailed,
    TellPreempted,
    TellQueued,
    TellRequeued,
    WaitReason,
)
from broker.core.errors import BackendBusy, BackendFailed
from broker.core.lifecycle import State
from broker.core.requests import OnInterruption, Outcome
from broker.core.snapshot import take_snapshot
from broker.core.stimuli import (
    Arrived,
    AttemptEnded,
    BackendDrainAsked,
    DrainAsked,
    FirstToken,
    PauseAsked,
    PolicyChanged,
    ResumeAsked,
    Scope,
)
from broker.core.story import explain
from tests.unit.core.preemption_scene import (
    GRACE_NS,
    busy,
    closed,
    come,
    scene_of,
    set_aside,
    stream,
)
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    cancel,
    finished,
    nothing_remains,
    of,
    request,
    started,
)

LOW = ("a", "low")


def test_its_slot_is_free_after_a_time_of_grace_and_goes_to_the_urgent_one() -> None:
    scene = busy()
    come(scene, "new", 1)
    effects = closed(scene, "low")
    assert started(effects) == []
    assert of(effects, TellRequeued) == [TellRequeued(LOW, "urgent work takes its slot")]
    assert scene.engine.records[LOW].state is State.REQUEUED
    assert started(scene.wait(GRACE_NS)) == ["new"]
    assert scene.engine.records[LOW].state is State.QUEUED
    assert started(scene.ends("new")) == ["low"]
    assert finished(scene.ends("low")) == [("low", Outcome.COMPLETED)]
    assert nothing_remains(scene)


def test_a_client_that_waits_is_told_for_what() -> None:
    scene = busy()
    come(scene, "new", 1)
    [first] = of(closed(scene, "low"), TellQueued)
    assert first.reason is WaitReason.BACKOFF
    assert first.detail == "the end of its call, then its turn: urgent work takes its slot"
    told = [each for each in of(scene.wait(GRACE_NS), TellQueued) if each.key == LOW]
    assert told[0].reason is WaitReason.SLOT


def test_where_no_grace_is_needed_the_slot_is_free_at_once() -> None:
    scene = busy()
    policy = scene.engine.policy
    no_grace = replace(policy.placement, slot_grace_ns=0)
    scene.turn(PolicyChanged(replace(policy, placement=no_grace)))
    come(scene, "new", 1)
    assert started(closed(scene, "low")) == ["new"]
    assert started(scene.ends("new")) == ["low"]


def test_the_urgent_one_has_the_slot_though_others_have_aged_past_it() -> None:
    """Else what was set aside, or whoever waits for longer, would have it."""
    scene = scene_of()
    come(scene, "low", 9)
    come(scene, "older", 5, agent="b")
    scene.wait(50 * SECOND_NS)
    assert set_aside(scene, come(scene, "new", 1, agent="c")) == ["low"]
    closed(scene, "low")
    assert started(scene.wait(GRACE_NS)) == ["new"]
    assert started(scene.ends("new", agent="c")) == ["older"]


def test_what_was_set_aside_keeps_its_rank_and_its_age() -> None:
    scene = scene_of()
    come(scene, "low", 9)
    scene.wait(5 * SECOND_NS)
    come(scene, "next", 9)
    come(scene, "other", 9, agent="b")
    since_ns = scene.engine.records[LOW].head_since_ns
    come(scene, "new", 1, agent="c")
    closed(scene, "low")
    scene.wait(GRACE_NS)
    record = scene.engine.records[LOW]
    assert scene.engine.backlog._queue.head_since(record.entry) == since_ns
    assert started(scene.ends("new", agent="c")) == ["low"]


def test_where_the_urgent_one_has_gone_it_takes_its_slot_again() -> None:
    scene = busy()
    come(scene, "new", 1)
    scene.turn(cancel("new"))
    closed(scene, "low")
    assert started(scene.wait(GRACE_NS)) == ["low"]


def test_the_best_of_the_urgent_ones_has_the_slot() -> None:
    scene = busy()
    come(scene, "u2", 2, agent="b")
    come(scene, "u1", 1, agent="c")
    closed(scene, "low")
    assert started(scene.wait(GRACE_NS)) == ["u1"]


# What came so far


@pytest.mark.parametrize("way", [OnInterruption.FAIL, OnInterruption.RESTART])
def test_what_was_read_of_it_is_void_and_it_begins_anew(way: OnInterruption) -> None:
    """Its owner let it be set aside, whatever may be done when an attempt is lost."""
    scene = scene_of()
    come(scene, "low", 9, on_interruption=way)
    stream(scene, "low")
    scene.wait(5 * SECOND_NS)
    come(scene, "new", 1)
    [told] = of(closed(scene, "low", pieces=3), TellRequeued)
    assert told.voids_pieces
    scene.wait(GRACE_NS)
    [start] = of(scene.ends("new"), StartAttempt)
    assert (start.key, start.number, start.continues) == (LOW, 2, False)


def test_it_goes_on_from_its_text_where_its_caller_allows_that() -> None:
    scene = scene_of()
    come(scene, "low", 9, on_interruption=OnInterruption.CONTINUE, output_tokens_max=10)
    stream(scene, "low")
    scene.wait(5 * SECOND_NS)
    come(scene, "new", 1)
    [told] = of(closed(scene, "low", pieces=3), TellRequeued)
    assert not told.voids_pieces
    scene.wait(GRACE_NS)
    [start] = of(scene.ends("new"), StartAttempt)
    assert (start.continues, start.output_tokens_max) == (True, 7)


def test_where_nothing_can_go_on_from_its_text_it_begins_anew() -> None:
    scene = scene_of()
    come(scene, "low", 9, on_interruption=OnInterruption.CONTINUE)
    stream(scene, "low")
    scene.wait(5 * SECOND_NS)
    come(scene, "new", 1)
    [told] = of(closed(scene, "low", pieces=3, is_continuable=False), TellRequeued)
    assert told.voids_pieces


def test_what_was_void_before_does_not_forbid_a_retry_later() -> None:
    """Of the attempt that fails no piece has come."""
    scene = scene_of()
    come(scene, "low", 9)
    stream(scene, "low")
    scene.wait(5 * SECOND_NS)
    come(scene, "new", 1)
    closed(scene, "low", pieces=3)
    scene.wait(GRACE_NS)
    scene.ends("new")
    scene.turn(AttemptEnded(scene.attempt("low"), BackendFailed("500")))
    assert started(scene.wait(MINUTE_NS)) == ["low"]


# It has failed nobody


def test_it_counts_as_no_failure_and_as_no_try() -> None:
    scene = busy()
    come(scene, "new", 1)
    effects = closed(scene, "low")
    engine = scene.engine
    assert of(effects, TellAttemptFailed) == []
    assert engine.backends["b1"].retries == 0
    assert engine.retries.left("b1") == engine.policy.retry.budget_max
    assert len(engine.breakers) == 0
    record = engine.records[LOW]
    assert (record.tries, record.tries_free, record.preemptions) == (1, 1, 1)
    scene.wait(GRACE_NS)
    scene.ends("new")
    for _ in range(engine.policy.retry.tries_max - 1):  # it may still be tried as often
        scene.turn(AttemptEnded(scene.attempt("low"), BackendBusy("503")))
        assert started(scene.wait(MINUTE_NS)) == ["low"]


def test_its_agent_does_not_pay_for_it_and_its_tokens_stay_reserved() -> None:
    scene = scene_of()
    scene.measured(SECOND_NS, agent="b", prompt_tokens=100, output_tokens=50)
    come(scene, "low", 9, agent="b")
    agent = scene.engine.agents.find("b")
    assert agent is not None
    served = agent.served_cost
    scene.wait(20 * SECOND_NS)
    come(scene, "new", 1)
    closed(scene, "low", agent="b", pieces=40)
    record = scene.engine.records["b", "low"]
    assert record.owed is not None
    scene.wait(GRACE_NS)
    assert record.owed is None
    assert agent.served_cost == served
    scene.ends("new")
    scene.ends("low", agent="b", prompt_tokens=100, output_tokens=50)
    assert agent.served_cost > served


def test_who_observes_is_told_what_it_cost() -> None:
    scene = busy()
    come(scene, "new", 1)
    [told] = of(closed(scene, "low"), TellPreempted)
    report = told.report
    assert (report.key, report.backend, report.priority) == (LOW, "b1", 9)
    assert (report.number, report.times, report.voids_pieces) == (1, 1, False)
    assert report.waste_ns == 5 * SECOND_NS + GRACE_NS
    assert report.run_ns == 5 * SECOND_NS
    view = take_snapshot(scene.engine, scene.now_ns).preemptions
    assert (view.count, view.wasted_ns) == (1, report.waste_ns)


# Other ends


def test_what_ends_well_before_its_call_is_closed_is_complete() -> None:
    scene = busy()
    come(scene, "new", 1)
    effects = scene.ends("low")
    assert finished(effects) == [("low", Outcome.COMPLETED)]
    assert started(effects) == ["new"]


def test_what_fails_before_its_call_is_closed_has_failed() -> None:
    scene = busy()
    come(scene, "new", 1)
    effects = scene.ends("low", BackendFailed("500"))
    assert [each.report.reason for each in of(effects, TellAttemptFailed)] == ["BACKEND_FAILED"]
    assert started(effects) == ["new"]
    assert scene.engine.records[LOW].preemptions == 0


def test_what_is_cancelled_while_its_call_is_closed_is_closed_once() -> None:
    scene = busy()
    come(scene, "new", 1)
    effects = scene.turn(cancel("low"))
    assert finished(effects) == [("low", Outcome.CANCELLED)]
    assert of(effects, AbortAttempt) == []
    assert started(closed(scene, "low")) == []
    assert started(scene.wait(GRACE_NS)) == ["new"]


def test_what_is_cancelled_in_its_time_of_grace_leaves_its_slot_when_that_is_over() -> None:
    scene = busy()
    come(scene, "new", 1)
    closed(scene, "low")
    assert finished(scene.turn(cancel("low"))) == [("low", Outcome.CANCELLED)]
    assert started(scene.wait(GRACE_NS)) == ["new"]
    scene.ends("new")
    assert nothing_remains(scene)


def test_a_token_that_was_on_its_way_changes_nothing() -> None:
    scene = busy()
    come(scene, "new", 1)
    scene.turn(FirstToken(scene.attempt("low")))
    [told] = of(closed(scene, "low", pieces=1), TellRequeued)
    assert told.voids_pieces


def test_it_waits_again_also_while_the_broker_leaves() -> None:
    scene = busy()
    come(scene, "new", 1)
    scene.turn(DrainAsked(scene.now_ns + MINUTE_NS))
    closed(scene, "low")
    assert started(scene.wait(GRACE_NS)) == ["new"]
    assert started(scene.ends("new")) == ["low"]


def test_its_story_tells_how_often_and_by_what() -> None:
    scene = busy()
    assert explain(scene.engine, LOW, scene.now_ns).is_preemptible
    come(scene, "new", 1)
    closed(scene, "low")
    story = explain(scene.engine, LOW, scene.now_ns)
    assert (story.preemptions, story.is_preemptible) == (1, True)
    [attempt] = story.attempts
    assert (attempt.reason, attempt.problem) == ("PREEMPTED", "urgent work takes its slot")
    assert not explain(scene.engine, ("a", "new"), scene.now_ns).is_preemptible


def test_what_failed_it_before_has_no_say_in_when_it_starts_again() -> None:
    scene = scene_of(backends=2)
    scene.turn(BackendDrainAsked("b2", True))
    come(scene, "low", 9)
    scene.turn(BackendDrainAsked("b2", False))
    scene.ends("low", BackendBusy("busy", retry_after_ns=MINUTE_NS))
    scene.wait(2 * SECOND_NS)
    scene.turn(BackendDrainAsked("b1", True))
    come(scene, "new", 1)
    closed(scene, "low")
    assert started(scene.wait(GRACE_NS)) == ["new"]
    [again] = of(scene.ends("new"), StartAttempt)
    assert (again.key, again.backend) == (LOW, "b2")


def test_it_has_not_been_failed_there_and_goes_back_to_what_its_session_has_read() -> None:
    scene = scene_of(slots=2, backends=2)
    come(scene, "low", 9, session="s")
    for number in range(3):
        come(scene, f"other{number}", 5, agent="b")
    scene.wait(5 * SECOND_NS)
    where = scene.engine.attempts[scene.attempt("low")].backend
    assert set_aside(scene, come(scene, "new", 1, agent="c")) == ["low"]
    closed(scene, "low")
    scene.turn(PauseAsked(scope=Scope(agent_id="a")))
    scene.wait(GRACE_NS)
    while scene.engine.attempts:
        scene.end_one()
    [again] = of(scene.turn(ResumeAsked(scope=Scope(agent_id="a"))), StartAttempt)
    assert (again.key, again.backend) == (LOW, where)


def test_who_got_a_slot_so_is_remembered_there_like_anybody() -> None:
    scene = scene_of(slots=2, backends=2)
    for number in range(4):
        come(scene, f"low{number}", 9, agent=f"a{number}")
    scene.wait(5 * SECOND_NS)
    [name] = set_aside(scene, come(scene, "new", 1, agent="b", session="s", prefixes=(7,)))
    attempt = scene.attempt(name, name.replace("low", "a"))
    where = scene.engine.attempts[attempt].backend
    closed(scene, name, agent=name.replace("low", "a"))
    scene.wait(GRACE_NS)
    scene.ends("new", agent="b")
    while scene.engine.attempts:
        scene.end_one()
    [next_] = of(come(scene, "next", 1, agent="b", session="s"), StartAttempt)
    [alike] = of(come(scene, "alike", 1, agent="c", session="t", prefixes=(7,)), StartAttempt)
    assert (next_.backend, alike.backend) == (where, where)


def test_what_could_not_be_in_time_any_more_ends_when_it_would_wait_again() -> None:
    """While it ran that was nobody's business."""
    scene = scene_of()
    scene.measured(10 * SECOND_NS)
    until_ns = scene.now_ns + 40 * SECOND_NS
    scene.turn(Arrived(replace(request("low", priority=9, deadline_ns=until_ns), preemptible=True)))
    scene.wait(37 * SECOND_NS)
    come(scene, "new", 1)
    effects = closed(scene, "low") + scene.wait(GRACE_NS)
    assert finished(effects) == [("low", Outcome.EXPIRED)]
    [ended] = of(effects, Finish)
    assert "can be answered in time no longer" in str(ended.error)
