"""One line of the log for each request that ended: who, what, where, how, and how long.

Nothing of what was asked or answered is in it, unless the operator asks for prompts.
"""

from __future__ import annotations

from typing import Any, Final

import structlog

from broker.core.breaker import BreakerState
from broker.core.content import EmbedContent, GenerateContent, Prompt
from broker.core.effects import TellBreaker, TellHealing, TellLevel, TellSwitch
from broker.core.healing import HealingStep
from broker.core.observer import Observer
from broker.core.requests import Outcome
from broker.core.residency import SwitchStep
from broker.core.views import AttemptReport, PreemptionReport, RequestReport

# Of a prompt that is shown. The whole of a long one would drown the line.
PROMPT_CHARS_MAX: Final = 4_096

# These are as they should be; the others are what an operator may have to look at.
_WELL: Final = frozenset({HealingStep.CURED, HealingStep.RESTARTED})
_breakers: Final = structlog.get_logger("broker.breakers")
_switching: Final = structlog.get_logger("broker.switching")
_healing: Final = structlog.get_logger("broker.healing")
_AS_ASKED: Final = frozenset({Outcome.COMPLETED, Outcome.CANCELLED, Outcome.REFUSED})


class RequestLog(Observer):
    """An observer that writes. Without `tells_requests` it tells of levels alone."""

    def __init__(self, *, tells_requests: bool = True, shows_prompts: bool = False) -> None:
        self._tells_requests = tells_requests
        self._shows_prompts = shows_prompts
        self._log = structlog.get_logger("broker.requests")

    def request_ended(self, report: RequestReport) -> None:
        if not self._tells_requests:
            return
        tell = self._log.info if report.outcome in _AS_ASKED else self._log.warning
        tell("request ended", **self._fields(report))

    def _fields(self, report: RequestReport) -> dict[str, Any]:
        """Names and numbers. Times that never came are left out."""
        agent_id, request_id = report.key
        fields: dict[str, Any] = {
            "request_id": request_id,
            "agent": agent_id,
            "agent_type": report.agent_type,
            "kind": report.kind.value,
            "model": report.model,
            "backend": report.backend,
            "priority": report.priority,
            "load_level": report.level.word,
            "outcome": report.outcome.value,
        }
        if report.session_id:
            fields["session"] = report.session_id
        if report.expected_calls:
            fields["expected_calls"] = report.expected_calls
        if report.reason:
            fields["reason"] = report.reason
            fields["message"] = report.message
        fields.update(_times(report))
        if report.soft_met is not None:
            fields["soft_deadline_met"] = report.soft_met
        if report.backend:
            fields["prompt_tokens"] = report.prompt_tokens
            fields["output_tokens"] = report.output_tokens
        if report.tries > 1:
            fields["tries"] = report.tries
        if report.substituted_for:
            fields["substituted_for"] = report.substituted_for
        if report.chosen_for:
            fields["chosen_for"] = report.chosen_for
        if report.changes:
            fields["changes"] = report.changes
        if report.traceparent:
            fields["trace_id"] = report.traceparent[3:35]
        if self._shows_prompts:
            fields["prompt"] = shown_prompt(report.content)
        return fields

    def attempt_failed(self, report: AttemptReport) -> None:
        """One that is not tried again is told of with its request."""
        if not self._tells_requests or not report.is_retried:
            return
        self._log.info(
            "attempt failed",
            **_of_attempt(report),
            reason=report.reason,
            backoff_ms=_ms(report.backoff_ns),
        )

    def attempt_preempted(self, report: PreemptionReport) -> None:
        if not self._tells_requests:
            return
        self._log.info(
            "set aside for urgent work",
            **_of_attempt(report),
            wasted_ms=_ms(report.waste_ns),
        )

    def breaker_changed(self, told: TellBreaker) -> None:
        tell = _breakers.info if told.after is BreakerState.CLOSED else _breakers.warning
        tell(
            f"circuit breaker {told.after.value.replace('_', ' ')}",
            backend=told.backend,
            model=told.model,
            before=told.before.value,
            why=told.why,
        )

    def healing(self, told: TellHealing) -> None:
        tell = _healing.info if told.step in _WELL else _healing.warning
        tell(
            told.step.value.replace("_", " "),
            backend=told.backend,
            model=told.model,
            evidence=told.evidence,
        )

    def switching(self, told: TellSwitch) -> None:
        is_usual = told.step in (SwitchStep.LOADED_AHEAD, SwitchStep.PRELOADED)
        tell = _switching.debug if is_usual else _switching.warning
        tell(
            told.step.value.replace("_", " "),
            backend=told.backend,
            model=told.model,
            detail=told.detail,
        )

    def level_changed(self, told: TellLevel) -> None:
        log = structlog.get_logger("broker.level")
        if told.level is told.before:
            log.info("level stays", now=told.level.word, why=told.why)
            return
        log.warning("level changed", now=told.level.word, before=told.before.word, why=told.why)


def _of_attempt(report: AttemptReport | PreemptionReport) -> dict[str, object]:
    """What each line on an attempt says."""
    return {
        "request_id": report.key[1],
        "agent": report.key[0],
        "model": report.model,
        "backend": report.backend,
        "attempt": report.number,
        "message": report.message,
        "pieces": report.pieces,
    }


def _times(report: RequestReport) -> dict[str, float]:
    """In milliseconds, those that came."""
    times_ns = {
        "queue_wait_ms": report.queue_wait_ns if report.total_ns else None,
        "total_ms": report.total_ns or None,
        "deadline_ms": report.allowed_ns or None,
        "soft_deadline_ms": report.soft_ns or None,
        "load_wait_ms": report.load_wait_ns or None,
        "first_token_ms": report.first_token_ns or None,
        "per_token_ms": report.per_token_ns or None,
    }
    return {name: _ms(time_ns) for name, time_ns in times_ns.items() if time_ns is not None}


def shown_prompt(content: GenerateContent | EmbedContent) -> str:
    """The words of a request, for an operator who asked to see them: the prompt, the last message,
    or the first text to embed. Images are not words."""
    if isinstance(content, EmbedContent):
        words = content.inputs[0] if content.inputs else ""
    elif isinstance(content.input, Prompt):
        words = content.input.text
    else:
        words = content.input[-1].content if content.input else ""
    return words if len(words) <= PROMPT_CHARS_MAX else f"{words[:PROMPT_CHARS_MAX]}..."


def _ms(time_ns: int) -> float:
    return round(time_ns / 1e6, 3)
