"""What operators ask for and are told, between the wire and the words of the core."""

from __future__ import annotations

from broker.api.grpc.codec import WAIT_REASON
from broker.core.effects import WaitReason
from broker.core.stimuli import Scope
from broker.core.views import AgentView, AttemptView, Explanation
from broker.services.operations import Boost
from broker_client.pb.broker.v1 import admin_pb2 as pb


def decode_scope(scope: pb.Scope) -> Scope:
    """A valid scope."""
    return Scope(agent_id=scope.agent_id, agent_type=scope.agent_type)


def decode_boost(request: pb.BoostRequest) -> Boost:
    """A valid boost."""
    return Boost(
        weight_factor=request.weight_factor if request.HasField("weight_factor") else 1.0,
        rate_factor=request.rate_factor if request.HasField("rate_factor") else 1.0,
        priority_best=request.priority_best,
    )


def decode_lasting(for_ms: int) -> int | None:
    """How long an operator's word holds, in nanoseconds; None: until it is taken back."""
    return for_ms * 1_000_000 if for_ms else None


def encode_agent(view: AgentView) -> pb.Agent:
    """An agent as its message."""
    return pb.Agent(
        agent_id=view.agent_id,
        agent_type=view.agent_type,
        weight=view.weight,
        priority_best=view.priority_best,
        queued=view.queued,
        running=view.running,
        arrived=view.arrived,
        ended=view.ended,
        served_cost=view.served_cost,
        requests_left=view.requests_left,
        paused=view.is_paused,
        blocked=view.is_blocked,
        boosted=view.is_boosted,
    )


def encode_explanation(story: Explanation) -> pb.ExplainResponse:
    """A story as its message: moments of the engine's clock become durations."""
    over_ns = story.ended_ns or story.at_ns
    encoded = pb.ExplainResponse(
        agent_id=story.key[0],
        request_id=story.key[1],
        model=story.model,
        priority=story.priority,
        compartment=story.compartment,
        state=story.state,
        age_ms=(story.at_ns - story.arrived_ns) / 1e6,
        queue_wait_ms=((story.started_ns or over_ns) - story.arrived_ns) / 1e6,
        position=story.position,
        wait_detail=story.wait_detail,
        changes=story.changes,
        gates=[
            pb.Gate(name=each.name, passed=each.passed, detail=each.detail) for each in story.gates
        ],
        overtakings=[
            pb.Overtaking(
                rule=each.rule,
                count=each.count,
                examples=[
                    pb.RequestName(agent_id=agent_id, request_id=request_id)
                    for agent_id, request_id in each.examples
                ],
            )
            for each in story.overtaken
        ],
        complete=story.is_complete,
        problem=story.problem,
        attempts=[_encode_attempt(each, story.at_ns) for each in story.attempts],
        bound_why=story.bound_why,
        session_credit_ms=story.credit_ns / 1e6,
        known_prompt_bytes=story.known_bytes,
        preloaded_because=story.preloaded_because,
        preemptions=story.preemptions,
        preemptible=story.is_preemptible,
        chosen_because=story.chosen_because,
    )
    if story.soft_ns:
        encoded.soft_deadline.within_ms = story.soft_ns / 1e6
        if story.soft_met is not None:
            encoded.soft_deadline.met = story.soft_met
    if story.told_ns is not None:
        encoded.told_low_ms, encoded.told_high_ms = (each / 1e6 for each in story.told_ns)
    if story.bound_ns is not None:
        encoded.bound_ms = story.bound_ns / 1e6
    if story.wait_reason:
        encoded.wait_reason = WAIT_REASON[WaitReason(story.wait_reason)]
    if story.started_ns:
        encoded.run_ms = (over_ns - story.started_ns) / 1e6
    if story.ended_ns:
        encoded.ended_ago_ms = (story.at_ns - story.ended_ns) / 1e6
    return encoded


def _encode_attempt(view: AttemptView, now_ns: int) -> pb.Attempt:
    encoded = pb.Attempt(
        number=view.number,
        backend=view.backend,
        model=view.model,
        run_ms=((view.ended_ns or now_ns) - view.started_ns) / 1e6,
        pieces=view.pieces,
        reason=view.reason,
        problem=view.problem,
        backoff_ms=view.backoff_ns / 1e6,
        continued=view.continued,
    )
    if view.first_token_ns:
        encoded.first_token_ms = (view.first_token_ns - view.started_ns) / 1e6
    return encoded
