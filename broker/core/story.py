"""The story of a request: which gates it passed, who overtook it, what it waits for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from broker.core.admission import GateName
from broker.core.announcements import PLAYED_FORWARD_MAX, wait_reason
from broker.core.dispatch import changes_made, chosen_because, substitution
from broker.core.engine import Engine
from broker.core.errors import RequestUnknown
from broker.core.estimates import SAMPLES_MIN
from broker.core.journal import Ended, Refused, Start
from broker.core.lifecycle import WAITS, State
from broker.core.offers import is_held as mask_holds
from broker.core.quota import NOT_COUNTED
from broker.core.record import PAST_MAX, Attempt, Passage, Record
from broker.core.requests import Outcome, RequestKey
from broker.core.retries import view_of
from broker.core.views import AttemptView, Explanation, GateView, OvertakingView

EXAMPLES_MAX: Final = 3
NO_LIMIT: Final = "no limit"  # of the agent's own


class Rule:
    """Why one request may start before another that came earlier."""

    PLACEMENT: Final = "placement: the model it needs was resident, or was loaded first"
    CONTEXT: Final = "placement: it fits the context that was loaded"
    ROOM: Final = "queue full: this request stood in the waiting room"
    PAUSE: Final = "pause: an operator held this agent back"
    BULKHEAD: Final = "bulkhead: this request's compartment was full"
    LEVEL: Final = "level: this request was held back"
    OWN_ORDER: Final = "order among this agent's own requests"
    PRIORITY: Final = "priority: its own is better"
    AGEING: Final = "ageing: a first request of its class had waited for longer"
    BOOST: Final = "fair share: an operator boosted its agent"
    SESSION: Final = (
        "session or fair share: more of its session is done, or its agent had been served less"
    )
    SIZE: Final = "size or fair share: it is shorter, or its agent had been served less"
    FAIR_SHARE: Final = (
        "fair share: its agent had been served less, or as much and had waited for longer"
    )


def explain(engine: Engine, key: RequestKey, now_ns: int) -> Explanation:
    """See `Explanation`. RequestUnknown where nothing is known of it any more."""
    record = engine.records.get(key)
    if record is not None:
        return _under_way(engine, record, now_ns)
    journal = engine.ledger.journal
    ended, refused = journal.ended.get(key), journal.refused.get(key)
    if refused is not None and (ended is None or ended.at_ns <= refused.at_ns):
        return _refused(refused, now_ns)
    if ended is not None:
        return _told(engine, ended.record, ended.attempt, now_ns, ended)
    raise RequestUnknown(f"agent {key[0]!r} has no request {key[1]!r} that is remembered")


def requests_called(engine: Engine, request_id: str) -> list[RequestKey]:
    """Requests with this id that can be explained, of whatever agent."""
    journal = engine.ledger.journal
    known = (*engine.records, *journal.ended, *journal.refused)
    return sorted({key for key in known if key[1] == request_id})


def _under_way(engine: Engine, record: Record, now_ns: int) -> Explanation:
    return _told(engine, record, record.attempt, now_ns, None)


def _told(
    engine: Engine, record: Record, attempt: Attempt | None, now_ns: int, ended: Ended | None
) -> Explanation:
    reason, detail, position = "", "", 0
    if ended is None and record.state in WAITS:
        why, detail = wait_reason(record, engine.backends, engine.backlog, now_ns)
        reason, position = why.value, _position(engine, record, now_ns)
    until = attempt.id if attempt else ended.starts_before + 1 if ended else None
    overtaken, is_complete = _overtaken(engine, record, until)
    return Explanation(
        key=record.spec.key,
        model=record.spec.model if record.sent is None else record.sent.model,
        chosen_because=chosen_because(record),
        priority=record.priority,
        compartment=engine.bulkheads.name(record.compartment),
        state=ended.outcome.value if ended else record.state.value,
        arrived_ns=record.arrived_ns,
        started_ns=attempt.started_ns if attempt else 0,
        ended_ns=ended.at_ns if ended else 0,
        at_ns=now_ns,
        position=position,
        wait_reason=reason,
        wait_detail=detail,
        changes=_changes(record, attempt),
        gates=tuple(_gates(record.passage)),
        overtaken=overtaken,
        is_complete=is_complete,
        problem=ended.problem if ended else "",
        attempts=_attempts(record, attempt, ended),
        preemptions=record.preemptions,
        is_preemptible=ended is None and engine.preemptions.may_be_set_aside(record),
        told_ns=_told_first(record),
        soft_ns=record.soft_ns,
        soft_met=record.soft_met if ended else _soft_met_so_far(record, now_ns),
        bound_ns=record.bound.ns if record.bound is not None else None,
        bound_why=record.bound.why if record.bound is not None else "",
        credit_ns=record.credit_ns,
        known_bytes=record.known_bytes,
        preloaded_because=_preloaded_because(record, attempt),
    )


def _preloaded_because(record: Record, attempt: Attempt | None) -> str:
    """Why its model was loaded before anybody asked, where it is the first that found it there."""
    if attempt is None or attempt.residency.ahead_for != record.spec.key:
        return ""
    return attempt.residency.ahead_because


def _soft_met_so_far(record: Record, now_ns: int) -> bool | None:
    """While it is under way only that it is late can be known."""
    due_ns = record.spec.soft_deadline_ns
    return False if due_ns and now_ns > due_ns else None


def _told_first(record: Record) -> tuple[int, int] | None:
    """Between which moments after it came its first word said that it would start."""
    word = record.first_word
    return None if word is None else (word.interval.low_ns, word.interval.high_ns)


def _changes(record: Record, attempt: Attempt | None) -> tuple[str, ...]:
    if record.answered or attempt is None:
        return record.answered or substitution(record)
    return changes_made(attempt)


def _attempts(
    record: Record, attempt: Attempt | None, ended: Ended | None
) -> tuple[AttemptView, ...]:
    """Its last calls: those that came to nothing, and the one that did not, or has not yet."""
    if attempt is None or (record.past and record.past[-1].number == attempt.number):
        return record.past
    reason, problem = (ended.reason, ended.problem) if ended else ("", "")
    return (*record.past, view_of(attempt, reason, problem))[-PAST_MAX:]


def _refused(refused: Refused, now_ns: int) -> Explanation:
    spec = refused.spec
    return Explanation(
        key=spec.key,
        model=spec.model,
        priority=spec.priority,
        compartment="",
        state=Outcome.REFUSED.value,
        arrived_ns=refused.at_ns,
        started_ns=0,
        ended_ns=refused.at_ns,
        at_ns=now_ns,
        position=0,
        wait_reason="",
        wait_detail="",
        changes=(),
        gates=tuple(_gates(refused.passage, refused.problem)),
        overtaken=(),
        is_complete=True,
        problem=refused.problem,
    )


def _position(engine: Engine, record: Record, now_ns: int) -> int:
    """Where it stands; as it was last told where it is further back than is worked out."""
    if record.state is not State.QUEUED:
        return record.told_position
    order = engine.backlog.forward(record.line[0], now_ns, PLAYED_FORWARD_MAX)
    for position, each in enumerate(order, start=1):
        if each is record:
            return position
    return record.told_position


# Gates


def _gates(passage: Passage, problem: str = "") -> Iterator[GateView]:
    """The gates in their order, up to the one that said no."""
    for name, detail in _details(passage):
        if name == passage.stopped_at:
            has_numbers = detail not in ("", NO_LIMIT)  # a bucket that the agent shares said no
            text = f"{problem} ({detail})" if has_numbers else problem
            yield GateView(name=name, passed=False, detail=text)
            return
        yield GateView(name=name, passed=True, detail=detail)


def _details(passage: Passage) -> Iterator[tuple[str, str]]:
    for name in (GateName.IDEMPOTENCY, GateName.DRAINING, GateName.IDENTITY, GateName.VALIDATION):
        yield name, ""
    left = passage.requests_left
    yield GateName.REQUEST_BUCKET, NO_LIMIT if left is None else f"{left:.1f} requests left"
    yield GateName.LEVEL, passage.offer
    if passage.is_answered:
        return
    yield GateName.TOKEN_BUCKET, _tokens_text(passage)
    yield GateName.BACKPRESSURE, _pressure_text(passage)
    yield GateName.FEASIBILITY, _feasibility_text(passage)


def _tokens_text(passage: Passage) -> str:
    left, reserved = passage.tokens_left, passage.tokens_reserved
    if reserved == NOT_COUNTED:
        return NO_LIMIT if left is None else f"{left:.0f} left"
    text = f"{reserved} tokens reserved"
    return text if left is None else f"{text}, {left:.0f} left"


def _pressure_text(passage: Passage) -> str:
    text = (
        f"{passage.queued} of {passage.queued_max} waited, {passage.agent_queued} of this agent, "
        f"{passage.queued_bytes} bytes"
    )
    if passage.displaced is not None:
        return f"{text}; displaced {passage.displaced[1]} of {passage.displaced[0]}"
    return f"{text}; stood in the waiting room" if passage.was_in_room else text


def _feasibility_text(passage: Passage) -> str:
    if passage.wait_ns is None and passage.samples >= SAMPLES_MIN:
        return "not judged: nothing was measured that tells of so short an answer"
    if passage.wait_ns is None:
        return f"not judged: {passage.samples} samples are too few"
    load_ns = passage.load_ns
    load = f"{load_ns / 1e9:.1f} s of them until its model is loaded, " if load_ns else ""
    return (
        f"an answer takes about {passage.wait_ns / 1e9:.1f} s, {load}"
        f"{passage.remaining_ns / 1e9:.1f} s were left ({passage.samples} samples)"
    )


# Overtaking


def _overtaken(
    engine: Engine, record: Record, until: int | None
) -> tuple[tuple[OvertakingView, ...], bool]:
    """Who came later and started earlier, by rule; and whether that is all of it. `until`: the
    number of the start that was its own, or the first after its end."""
    starts = engine.ledger.journal.starts
    by_rule: dict[str, list[RequestKey]] = {}
    for start in starts:
        if start.attempt <= record.starts_before or start.arrived_ns <= record.arrived_ns:
            continue
        if until is not None and start.attempt >= until:
            break
        by_rule.setdefault(_rule(engine, record, start), []).append(start.key)
    is_complete = not starts or starts[0].attempt <= record.starts_before + 1
    views = (
        OvertakingView(rule=rule, count=len(keys), examples=tuple(keys[-EXAMPLES_MAX:]))
        for rule, keys in by_rule.items()
    )
    return tuple(sorted(views, key=lambda each: -each.count)), is_complete


def _rule(engine: Engine, record: Record, start: Start) -> str:
    """Which rule let this start before the record."""
    agent = record.agent
    if start.attempt <= record.starts_in_room:
        return Rule.ROOM
    if start.line[0] != record.line[0]:
        is_small = engine.backlog.offers.is_small_runner(record.line[0])
        return Rule.LEVEL if start.is_small_first and not is_small else Rule.PLACEMENT
    if agent.was_paused(start.at_ns):
        return Rule.PAUSE
    if start.closed >> record.compartment & 1 and start.compartment != record.compartment:
        return Rule.BULKHEAD
    if mask_holds(start.held, record.priority, record.compartment) and not mask_holds(
        start.held, start.priority, start.compartment
    ):
        return Rule.LEVEL
    if start.line != record.line:
        return Rule.CONTEXT
    if start.priority != record.priority:
        return Rule.PRIORITY if start.priority < record.priority else Rule.AGEING
    if start.compartment != record.compartment:
        return Rule.AGEING
    if start.key[0] == agent.id:
        return Rule.OWN_ORDER
    if start.was_boosted:
        return Rule.BOOST
    if start.credit_ns > record.credit_ns and engine.policy.queue.fairness_grain:
        return Rule.SESSION
    is_shorter = start.service_ns < record.service_ns and engine.policy.queue.fairness_grain
    return Rule.SIZE if is_shorter else Rule.FAIR_SHARE
