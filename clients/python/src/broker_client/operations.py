"""What operators ask for and are told: whom it concerns, who is known, why a request waits.

Limits are the broker's to judge; only what the wire cannot express is an error here (ValueError).
"""

from __future__ import annotations

from dataclasses import dataclass

from broker_client.events import word_of
from broker_client.machine import level_number
from broker_client.pb.broker.v1 import admin_pb2, common_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """An agent that the broker remembers. Counts are since then.

    `weight` and `priority_best` hold boosts. `served_cost` is what it was served: tokens of prompts
    and answers, weighted as fairness weighs them. `requests_left` None: it has no bucket.
    """

    agent_id: str
    agent_type: str
    weight: float
    priority_best: int
    queued: int
    running: int
    arrived: int
    ended: int
    served_cost: int
    requests_left: float | None
    paused: bool
    blocked: bool
    boosted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A gate on a request's way in, and the numbers it judged by, in words."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestName:
    """Names a request among those of all agents."""

    agent_id: str
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overtaking:
    """Requests that came later and were started earlier, by one rule; `examples` are the last."""

    rule: str
    count: int
    examples: tuple[RequestName, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A call to a backend; times in milliseconds. `number` is 1 for the first. `first_token_ms` is
    None where no piece came. `reason` and `problem` say why it came to nothing, empty where it came
    to a good end or may yet; `backoff_ms` was waited after it. `continued`: from the text so far.
    """

    number: int
    backend: str
    model: str
    run_ms: float
    first_token_ms: float | None
    pieces: int
    reason: str
    problem: str
    backoff_ms: float
    continued: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The story of a request; times in milliseconds.

    `state` is of its life, or how it ended. `run_ms` is None where it was never started,
    `ended_ago_ms` where it is under way. `position` is 0 and `wait_reason` empty where it does not
    wait. `complete` False: more may have overtaken it than is remembered. `attempts` are the last
    of its calls to backends, the oldest first. `told_low_ms` and `told_high_ms`: the times after
    its arrival between which it would start, as it was told first; None where it was told none.
    `soft_deadline_ms`: within so long of its arrival its answer would be liked, None where that was
    not said; `soft_deadline_met` is None while that is open.
    `session_credit_ms`: how much older it counted as, for the part of its session that was done.
    `known_prompt_bytes`: how much of the beginning of its prompt a server had probably read before.
    `bound_ms`: it starts within so long of its arrival at most, as was stated then; None where no
    bound could be stated, which `bound_why` says why.
    `preemptions`: how often it was set aside for urgent work; `preemptible`: may that happen, or
    happen again? `chosen_because`: why its model, where it named an alias or only requirements.
    `preloaded_because`: why that was loaded before anybody asked, where it is the first to find it.
    """

    agent_id: str
    request_id: str
    model: str
    priority: int
    compartment: str
    state: str
    age_ms: float
    queue_wait_ms: float
    run_ms: float | None
    ended_ago_ms: float | None
    position: int
    wait_reason: str
    wait_detail: str
    changes: tuple[str, ...]
    gates: tuple[Gate, ...]
    overtakings: tuple[Overtaking, ...]
    complete: bool
    problem: str
    attempts: tuple[Attempt, ...]
    told_low_ms: float | None = None
    told_high_ms: float | None = None
    soft_deadline_ms: float | None = None
    soft_deadline_met: bool | None = None
    session_credit_ms: float = 0.0
    known_prompt_bytes: int = 0
    bound_ms: float | None = None
    bound_why: str = ""
    preemptions: int = 0
    preemptible: bool = False
    chosen_because: str = ""
    preloaded_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledRequest:
    """A request that was told to end: whose it was, and the state in which it was found."""

    agent_id: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """What reading the configuration again came to, in lines for people.

    `needs_restart` differs in the file but counts only after a restart. Where there are `problems`
    nothing was changed.
    """

    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]
    problems: tuple[str, ...]


def scope_message(agent_id: str, agent_type: str) -> admin_pb2.Scope | None:
    """Whom it concerns: an agent, a type, or with neither everybody. ValueError for both."""
    if agent_id and agent_type:
        raise ValueError("an agent_id and an agent_type exclude each other")
    if agent_id:
        return admin_pb2.Scope(agent_id=agent_id)
    return admin_pb2.Scope(agent_type=agent_type) if agent_type else None


def lasting_ms(for_s: float | None) -> int:
    """For how long, as the wire says it: there 0 means until resumed, which here is None."""
    if for_s is None:
        return 0
    for_ms = round(for_s * 1000)
    if not for_ms:
        raise ValueError(f"for_s is {for_s}; at least a millisecond, or None: until resumed")
    return for_ms


def boost_request(
    scope: admin_pb2.Scope | None,
    *,
    weight_factor: float | None,
    rate_factor: float | None,
    priority_best: int,
    for_s: float | None,
) -> admin_pb2.BoostRequest:
    """The message for a boost; what is None stays unset."""
    return admin_pb2.BoostRequest(
        scope=scope,
        weight_factor=weight_factor,
        rate_factor=rate_factor,
        priority_best=priority_best,
        for_ms=lasting_ms(for_s),
    )


def level_request(level: str | None, for_s: float | None) -> admin_pb2.SetLevelRequest:
    """The message that sets a level; None: that leaves it to the load. ValueError where there is
    no such level."""
    number = common_pb2.DEGRADATION_LEVEL_UNSPECIFIED if level is None else level_number(level)
    return admin_pb2.SetLevelRequest(level=number, for_ms=lasting_ms(for_s))


def watch_request(requests_max: int, interval_s: float) -> admin_pb2.WatchStatusRequest:
    """The message that asks for the state again and again. There 0 means the usual interval, so
    that nothing that rounds to it may be asked for."""
    interval_ms = round(interval_s * 1000)
    if not interval_ms:
        raise ValueError(f"interval_s is {interval_s}; at least 0.1")
    return admin_pb2.WatchStatusRequest(requests_max=requests_max, interval_ms=interval_ms)


def agent_of(message: admin_pb2.Agent) -> Agent:
    """The wire's agent, typed."""
    has_bucket = message.HasField("requests_left")
    return Agent(
        agent_id=message.agent_id,
        agent_type=message.agent_type,
        weight=message.weight,
        priority_best=message.priority_best,
        queued=message.queued,
        running=message.running,
        arrived=message.arrived,
        ended=message.ended,
        served_cost=message.served_cost,
        requests_left=message.requests_left if has_bucket else None,
        paused=message.paused,
        blocked=message.blocked,
        boosted=message.boosted,
    )


def explanation_of(message: admin_pb2.ExplainResponse) -> Explanation:
    """The wire's answer, typed."""
    soft = message.soft_deadline
    return Explanation(
        agent_id=message.agent_id,
        request_id=message.request_id,
        model=message.model,
        priority=message.priority,
        compartment=message.compartment,
        state=message.state,
        age_ms=message.age_ms,
        queue_wait_ms=message.queue_wait_ms,
        run_ms=message.run_ms if message.HasField("run_ms") else None,
        ended_ago_ms=message.ended_ago_ms if message.HasField("ended_ago_ms") else None,
        position=message.position,
        wait_reason=wait_reason_of(message),
        wait_detail=message.wait_detail,
        changes=tuple(message.changes),
        gates=tuple(
            Gate(name=each.name, passed=each.passed, detail=each.detail) for each in message.gates
        ),
        overtakings=tuple(
            Overtaking(
                rule=each.rule,
                count=each.count,
                examples=tuple(
                    RequestName(agent_id=name.agent_id, request_id=name.request_id)
                    for name in each.examples
                ),
            )
            for each in message.overtakings
        ),
        complete=message.complete,
        problem=message.problem,
        attempts=tuple(attempt_of(each) for each in message.attempts),
        told_low_ms=message.told_low_ms if message.HasField("told_low_ms") else None,
        told_high_ms=message.told_high_ms if message.HasField("told_high_ms") else None,
        soft_deadline_ms=soft.within_ms if message.HasField("soft_deadline") else None,
        soft_deadline_met=soft.met if soft.HasField("met") else None,
        session_credit_ms=message.session_credit_ms,
        known_prompt_bytes=message.known_prompt_bytes,
        bound_ms=message.bound_ms if message.HasField("bound_ms") else None,
        bound_why=message.bound_why,
        preemptions=message.preemptions,
        preemptible=message.preemptible,
        chosen_because=message.chosen_because,
        preloaded_because=message.preloaded_because,
    )


def attempt_of(message: admin_pb2.Attempt) -> Attempt:
    """The wire's attempt, typed."""
    return Attempt(
        number=message.number,
        backend=message.backend,
        model=message.model,
        run_ms=message.run_ms,
        first_token_ms=message.first_token_ms if message.HasField("first_token_ms") else None,
        pieces=message.pieces,
        reason=message.reason,
        problem=message.problem,
        backoff_ms=message.backoff_ms,
        continued=message.continued,
    )


def drain_request(timeout_s: float | None, backend: str) -> admin_pb2.DrainRequest:
    """The message that has the broker, or one backend of it, finish its work."""
    if backend and timeout_s is not None:
        raise ValueError("a backend is drained for as long as its work takes: no timeout_s with it")
    request = admin_pb2.DrainRequest(backend=backend)
    if timeout_s is not None:
        request.timeout_ms = round(timeout_s * 1000)
    return request


def resume_request(agent_id: str, agent_type: str, backend: str) -> admin_pb2.ResumeRequest:
    """The message that ends what was asked for with the same scope, or the drain of a backend."""
    scope = scope_message(agent_id, agent_type)
    if backend and scope is not None:
        raise ValueError("a backend goes with no agent_id and no agent_type")
    return admin_pb2.ResumeRequest(scope=scope, backend=backend)


def wait_reason_of(message: admin_pb2.ExplainResponse) -> str:
    """What it waits for in a word; empty where it does not wait."""
    if not message.wait_reason:
        return ""
    return word_of(common_pb2.WaitReason.DESCRIPTOR, message.wait_reason, "WAIT_REASON_")


def cancelled_of(message: admin_pb2.CancelRequestResponse) -> CancelledRequest:
    """The wire's answer, typed."""
    return CancelledRequest(agent_id=message.agent_id, state=message.state)


def reload_of(message: admin_pb2.ReloadResponse) -> Reload:
    """The wire's answer, typed."""
    return Reload(
        changed=tuple(message.changed),
        needs_restart=tuple(message.needs_restart),
        problems=tuple(message.problems),
    )
