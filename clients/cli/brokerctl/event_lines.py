"""Events as lines for people. Pure."""

from __future__ import annotations

from typing import Final

from broker_client import Missed, Payload, TopicEvent
from broker_client.machine import LevelStatus
from broker_client.pubsub import (
    AlertsState,
    Capacity,
    HealthChange,
    ModelsState,
    PriorityChange,
    RequestChange,
    What,
)
from brokerctl.figures import counted, duration_text
from brokerctl.level_tables import held_text, is_held

# Of a payload so much is shown; the whole of it with --json.
SHOWN_MAX: Final = 120


def event_line(event: TopicEvent) -> str:
    """Local time, topic, and what happened; "now" instead of the number where it is the state."""
    at = event.at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    number = "now" if event.is_state else f"#{event.seq}"
    by = f" by {event.publisher}" if event.publisher else ""
    return f"{at} {number:>6} {event.topic}{by}: {what_text(event.what)}"


def missed_line(missed: Missed) -> str:
    """That events are missing here."""
    return f"(missed {counted(missed.count, 'event')}: this side read too slowly)"


def what_text(what: What) -> str:
    """What happened, in words."""
    match what:
        case LevelStatus():
            return level_text(what)
        case Capacity():
            return capacity_text(what)
        case PriorityChange():
            return priority_text(what)
        case ModelsState():
            held = [f"{each.name} {each.place.state}" for each in what.models]
            return ", ".join(held) or "no model is loaded"
        case RequestChange():
            return request_text(what)
        case AlertsState():
            return "; ".join(f"{each.name}: {each.summary}" for each in what.firing) or "none fires"
        case HealthChange():
            return health_text(what)
        case Payload():
            return payload_text(what)
        case None:
            return "of a kind that this brokerctl does not know"


def level_text(level: LevelStatus) -> str:
    """The level and why it holds."""
    if is_held(level):
        return f"{level.level}, {held_text(level)}"
    before = f", {level.level_before} before" if level.level_before else ""
    return f"{level.level}{before}" + (f": {level.why}" if level.why else "")


def capacity_text(capacity: Capacity) -> str:
    """How much there is to have."""
    text = (
        f"level {capacity.level}, {capacity.queued} of {capacity.queued_max} waiting, "
        f"{capacity.running} running in {counted(capacity.slots, 'slot')}"
    )
    if capacity.backends_down:
        text += f"; down: {', '.join(capacity.backends_down)}"
    return text


def priority_text(change: PriorityChange) -> str:
    """How somebody counts now."""
    whom = "everybody"
    if change.agent_id:
        whom = f"agent {change.agent_id}"
    elif change.agent_type:
        whom = f"agents of type {change.agent_type}"
    effects = []
    if change.weight_factor not in (0.0, 1.0):
        effects.append(f"weight x {change.weight_factor:g}")
    if change.rate_factor not in (0.0, 1.0):
        effects.append(f"rates x {change.rate_factor:g}")
    if change.priority_best:
        effects.append(f"priorities from {change.priority_best} on")
    effects += [word for word, holds in said_of(change) if holds]
    return f"{whom}: {', '.join(effects) or 'as configured'}"


def said_of(change: PriorityChange) -> tuple[tuple[str, bool], ...]:
    """What holds them back."""
    return ("blocked", change.blocked), ("paused", change.paused)


def request_text(change: RequestChange) -> str:
    """A step in a request's life, with what it took."""
    where = f" on {change.backend}" if change.backend else ""
    why = f" ({change.reason.lower().replace('_', ' ')})" if change.reason else ""
    times = [f"waited {duration_text(change.queue_wait_ms)}"]
    if change.first_token_ms is not None:
        times.append(f"first token after {duration_text(change.first_token_ms)}")
    if change.total_ms is not None:
        times.append(f"ended after {duration_text(change.total_ms)}")
    if change.usage.output_tokens:
        times.append(counted(change.usage.output_tokens, "token"))
    return (
        f"{change.agent_id} {change.request_id} {change.state}{why}, {change.model}{where}, "
        f"priority {change.priority}, {', '.join(times)}"
    )


def health_text(change: HealthChange) -> str:
    """What ails whom, or that it is over."""
    whom = f"{change.model} on {change.backend}" if change.model else change.backend
    often = f", restarted {counted(change.restarts, 'time')}" if change.restarts else ""
    why = f": {change.detail}" if change.detail else ""
    return f"{whom} {change.step.replace('_', ' ')}{often}{why}"


def payload_text(payload: Payload) -> str:
    """The beginning of it where it is text on one line, else its size."""
    size = counted(len(payload.data), "byte")
    kind = f" of {payload.content_type}" if payload.content_type else ""
    try:
        text = payload.data.decode()
    except UnicodeDecodeError:
        return f"{size}{kind}"
    if not text.isprintable():
        return f"{size}{kind}"
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}... ({size}{kind})"
