"""The line that each request leaves in the log."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from broker.core.breaker import BreakerState
from broker.core.content import EmbedContent, GenerateContent, Message, Prompt
from broker.core.effects import TellBreaker, TellHealing, TellLevel, TellSwitch
from broker.core.healing import HealingStep
from broker.core.level import Level
from broker.core.requests import Outcome, RequestKind
from broker.core.residency import SwitchStep
from broker.observability.request_log import PROMPT_CHARS_MAX, RequestLog, shown_prompt
from tests.unit.observability.ended import attempt_failed, preempted, refused, report


def line(log: RequestLog, **other: Any) -> dict[str, Any]:
    """The one line of such a request."""
    with capture_logs() as logged:
        log.request_ended(report(**other))
    (only,) = logged
    return dict(only)


def test_a_completed_request_says_who_what_where_and_how_long() -> None:
    assert line(RequestLog()) == {
        "event": "request ended",
        "log_level": "info",
        "request_id": "r1",
        "agent": "opus-1",
        "agent_type": "opus",
        "kind": "generate",
        "model": "m:latest",
        "backend": "b",
        "priority": 5,
        "load_level": "normal",
        "outcome": "completed",
        "queue_wait_ms": 30.0,
        "load_wait_ms": 20.0,
        "first_token_ms": 100.0,
        "per_token_ms": 12.0,
        "total_ms": 800.0,
        "prompt_tokens": 7,
        "output_tokens": 50,
    }


def test_what_a_replay_needs_is_told_where_it_is_known() -> None:
    found = line(RequestLog(), session_id="s1", expected_calls=4, allowed_ns=60_000_000_000)
    assert (found["session"], found["expected_calls"]) == ("s1", 4)
    assert found["deadline_ms"] == 60_000.0
    assert "soft_deadline_ms" not in found
    found = line(RequestLog(), soft_ns=30_000_000_000, soft_met=False)
    assert (found["soft_deadline_ms"], found["soft_deadline_met"]) == (30_000.0, False)


def test_what_was_changed_is_told_where_anything_was() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    found = line(
        RequestLog(),
        substituted_for="big:70b",
        chosen_for="fast",
        changes=("max_tokens 4096 -> 512",),
        level=Level.LEVEL_1,
        tries=2,
        traceparent=f"00-{trace}-00f067aa0ba902b7-01",
    )
    assert found["substituted_for"] == "big:70b"
    assert found["chosen_for"] == "fast"
    assert found["changes"] == ("max_tokens 4096 -> 512",)
    assert (found["load_level"], found["tries"], found["trace_id"]) == ("1", 2, trace)


@pytest.mark.parametrize("outcome", Outcome)
def test_what_an_operator_may_have_to_look_at_is_a_warning(outcome: Outcome) -> None:
    normal = {Outcome.COMPLETED, Outcome.CANCELLED, Outcome.REFUSED}
    found = line(RequestLog(), outcome=outcome)
    assert found["log_level"] == ("info" if outcome in normal else "warning")
    assert found["outcome"] == outcome.value


def test_a_refusal_has_its_reason_and_no_times() -> None:
    with capture_logs() as logged:
        RequestLog().request_ended(refused("RATE_LIMITED"))
    found = logged[0]
    assert (found["reason"], found["message"]) == ("RATE_LIMITED", "no")
    assert not any(name.endswith(("_ms", "_tokens")) for name in found)


def test_no_prompt_unless_it_is_asked_for() -> None:
    assert "secret" not in str(line(RequestLog()))
    assert line(RequestLog(shows_prompts=True))["prompt"] == "a secret"


def test_switched_off_only_levels_are_told() -> None:
    log = RequestLog(tells_requests=False)
    with capture_logs() as logged:
        log.request_ended(report())
        told = TellLevel(level=Level.LEVEL_1, before=Level.NORMAL, why="the queue is full")
        log.level_changed(told)
    (only,) = logged
    assert only == {
        "event": "level changed",
        "log_level": "warning",
        "now": "1",
        "before": "normal",
        "why": "the queue is full",
    }


def test_a_level_that_stays_as_an_operator_wants_it_is_no_warning() -> None:
    with capture_logs() as logged:
        told = TellLevel(level=Level.LEVEL_1, before=Level.LEVEL_1, why="an operator set it")
        RequestLog().level_changed(told)
    (only,) = logged
    assert (only["event"], only["log_level"]) == ("level stays", "info")
    assert (only["now"], only["why"]) == ("1", "an operator set it")


def test_what_is_shown_of_each_kind_of_request() -> None:
    talk = (Message(role="system", content="be nice"), Message(role="user", content="hello"))
    assert shown_prompt(GenerateContent(input=talk)) == "hello"
    assert shown_prompt(EmbedContent(inputs=("first", "second"))) == "first"
    long = shown_prompt(GenerateContent(input=Prompt(text="x" * 10_000)))
    assert long == "x" * PROMPT_CHARS_MAX + "..."


def test_an_embedding_is_called_one() -> None:
    assert line(RequestLog(), kind=RequestKind.EMBED, first_token_ns=0)["kind"] == "embed"


def test_an_attempt_has_its_line_where_it_is_repeated_else_its_request_has() -> None:
    with capture_logs() as logged:
        RequestLog().attempt_failed(attempt_failed())
        RequestLog().attempt_failed(attempt_failed(is_retried=False))
        RequestLog(tells_requests=False).attempt_failed(attempt_failed())
    (found,) = logged
    assert (found["event"], found["attempt"], found["pieces"]) == ("attempt failed", 1, 3)
    assert (found["reason"], found["backoff_ms"]) == ("BACKEND_FAILED", 40.0)


def test_what_was_set_aside_for_urgent_work_has_its_line() -> None:
    with capture_logs() as logged:
        RequestLog().attempt_preempted(preempted())
        RequestLog(tells_requests=False).attempt_preempted(preempted())
    (found,) = logged
    assert (found["event"], found["request_id"]) == ("set aside for urgent work", "r1")
    assert (found["pieces"], found["wasted_ms"]) == (3, 5_000.0)


@pytest.mark.parametrize("state", BreakerState)
def test_a_breaker_that_is_not_closed_is_a_warning(state: BreakerState) -> None:
    told = TellBreaker(
        backend="b",
        model="m",
        before=BreakerState.HALF_OPEN,
        after=state,
        why="the probe",
        until_ns=None,
    )
    with capture_logs() as logged:
        RequestLog().breaker_changed(told)
    (found,) = logged
    assert found["log_level"] == ("info" if state is BreakerState.CLOSED else "warning")
    assert (found["backend"], found["model"], found["why"]) == ("b", "m", "the probe")


@pytest.mark.parametrize("step", SwitchStep)
def test_what_goes_otherwise_with_a_switch_is_a_warning(step: SwitchStep) -> None:
    told = TellSwitch(backend="b", model="m", step=step, detail="others took it")
    with capture_logs() as logged:
        RequestLog().switching(told)
    (found,) = logged
    is_usual = step in (SwitchStep.LOADED_AHEAD, SwitchStep.PRELOADED)
    assert found["log_level"] == ("debug" if is_usual else "warning")
    assert (found["backend"], found["model"], found["detail"]) == ("b", "m", "others took it")


@pytest.mark.parametrize("step", HealingStep)
def test_what_is_done_about_a_wedged_model_is_told_with_its_evidence(step: HealingStep) -> None:
    told = TellHealing(backend="b", model="m", step=step, evidence="silent for 4 s")
    with capture_logs() as logged:
        RequestLog().healing(told)
    (found,) = logged
    is_well = step in {HealingStep.CURED, HealingStep.RESTARTED}
    assert found["log_level"] == ("info" if is_well else "warning")
    assert found["evidence"] == "silent for 4 s"
