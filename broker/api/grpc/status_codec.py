"""The present state of everything as its message."""

from __future__ import annotations

from broker.api.grpc.codec import WAIT_REASON, whole_ms
from broker.api.grpc.level_codec import (
    LEVEL,
    age_ms,
    encode_gpu,
    encode_host,
    encode_level,
    encode_sensor,
)
from broker.api.grpc.model_codec import encode_place
from broker.core.model_list import ListState
from broker.core.pace import Waits, Work
from broker.core.preloads import PreloadsView
from broker.core.requests import RequestKey
from broker.core.snapshot import BackendView, RequestView
from broker.core.tally import PriorityTally
from broker.core.views import (
    AlertView,
    BreakerView,
    EstimatesView,
    LevelView,
    PreemptionView,
    WaitView,
)
from broker.services.status import Status
from broker_client.pb.broker.v1 import admin_pb2 as pb


def encode_status(status: Status) -> pb.GetStatusResponse:
    """The whole state as its message."""
    snapshot = status.snapshot
    encoded = pb.GetStatusResponse(
        version=status.version,
        uptime_s=status.uptime_ns / 1e9,
        draining=snapshot.draining,
        level=LEVEL[status.level.level],
        queued=snapshot.queued,
        queued_max=snapshot.queued_max,
        running=snapshot.running,
        outcomes=[
            pb.OutcomeCount(outcome=outcome.value, count=count)
            for outcome, count in snapshot.outcomes.items()
        ],
        priorities=[
            _encode_priority(priority, tally, status.waits.queue_wait_of.get(priority))
            for priority, tally in snapshot.priorities.items()
        ],
        backends=[_encode_backend(each, status) for each in snapshot.backends],
        requests=[_encode_request(each, status) for each in snapshot.requests],
        standing=snapshot.standing,
        standing_max=snapshot.standing_max,
        agents=snapshot.agents,
        paused=snapshot.paused,
        bulkheads=[
            pb.BulkheadStatus(
                compartment=each.name, running=each.running, running_max=each.running_max
            )
            for each in snapshot.bulkheads
        ],
        refusals=[
            pb.RefusalCount(reason=reason, count=count)
            for reason, count in snapshot.refusals.items()
        ],
        tokens_per_s=sum(status.tokens_per_s.values()),
    )
    _add_machine(encoded, status.level, snapshot.at_ns)
    _add_pace(encoded, status.waits, snapshot.estimates, status.work)
    encoded.preemptions.CopyFrom(_encode_preemptions(snapshot.preemptions))
    encoded.preloads.CopyFrom(_encode_preloads(snapshot.preloads))
    encoded.model_list.CopyFrom(_encode_model_list(status.model_list))
    encoded.alerts.extend(encode_alert(each, snapshot.at_ns) for each in status.alerts)
    return encoded


def _encode_preemptions(view: PreemptionView) -> pb.PreemptionStatus:
    return pb.PreemptionStatus(
        count=view.count, wasted_s=view.wasted_ns / 1e9, left_s=view.left_ns / 1e9
    )


def _encode_preloads(view: PreloadsView) -> pb.PreloadStatus:
    return pb.PreloadStatus(
        enabled=view.is_enabled,
        held_because=view.held_because,
        made=view.made,
        used=view.used,
        wasted=view.wasted,
        hit_percent=view.hit_percent,
    )


def _encode_model_list(state: ListState) -> pb.ModelListStatus:
    return pb.ModelListStatus(
        downloaded=state.downloaded,
        downloadable=state.downloadable,
        freshness=state.freshness.value,
        age_ms=state.age_ms,
        refreshing=state.is_refreshing,
        problem=state.problem,
        next_ms=state.next_ms,
        bytes_per_s=state.bytes_per_s or 0.0,
        file=state.file,
    )


def _add_machine(encoded: pb.GetStatusResponse, level: LevelView, now_ns: int) -> None:
    encoded.level_status.CopyFrom(encode_level(level, now_ns))
    encoded.gpus.extend(encode_gpu(each) for each in level.gpus)
    encoded.sensors.extend(encode_sensor(each, now_ns) for each in level.sensors)
    if level.host is not None:
        encoded.host.CopyFrom(encode_host(level.host))


def _add_pace(
    encoded: pb.GetStatusResponse, waits: Waits, estimates: EstimatesView, work: Work
) -> None:
    encoded.queue_wait.CopyFrom(_encode_wait(waits.queue_wait))
    encoded.first_token.CopyFrom(_encode_wait(waits.first_token))
    encoded.wait_estimates.judged = estimates.judged
    encoded.wait_estimates.inside = estimates.inside
    encoded.agents_working.extend(
        pb.AgentWork(
            agent_id=each.agent_id,
            agent_type=each.agent_type,
            queued=each.queued,
            running=each.running,
        )
        for each in work.agents
    )


def _encode_wait(view: WaitView) -> pb.WaitStatus:
    return pb.WaitStatus(count=view.count, p50_ms=view.p50_ns / 1e6, p99_ms=view.p99_ns / 1e6)


def encode_alert(view: AlertView, now_ns: int) -> pb.Alert:
    return pb.Alert(
        name=view.name,
        severity=view.severity,
        summary=view.summary,
        runbook=view.runbook,
        since_ms=age_ms(view.since_ns, now_ns),
    )


def _encode_priority(
    priority: int, tally: PriorityTally, waits: WaitView | None
) -> pb.PriorityStatus:
    mean_ns = tally.queue_wait_ns_sum / tally.started if tally.started else 0
    return pb.PriorityStatus(
        priority=priority,
        queued=tally.queued,
        running=tally.running,
        ended=tally.ended,
        queue_wait_ms_mean=mean_ns / 1e6,
        queue_wait_ms_max=tally.queue_wait_ns_max / 1e6,
        queue_wait=_encode_wait(waits) if waits else None,
    )


def _encode_backend(view: BackendView, status: Status) -> pb.BackendStatus:
    identity, now_ns = status.backends[view.name], status.snapshot.at_ns
    down_since_ns = None if view.up else identity.down_since_ns
    return pb.BackendStatus(
        name=view.name,
        kind=identity.kind,
        url=identity.url,
        up=view.up,
        problem=view.problem,
        version=identity.version,
        models=[
            pb.BackendModel(
                name=each.model,
                place=encode_place(view.name, each, status.unix_s, is_up=view.up),
                queued=each.queued,
            )
            for each in view.residents
        ],
        loads=view.loads,
        loads_failed=view.loads_failed,
        weight=view.weight,
        tags=view.tags,
        draining=view.is_draining,
        health=view.health.value,
        evidence=view.evidence,
        running=view.running,
        breakers=[_encode_breaker(each, now_ns) for each in view.breakers],
        retries=view.retries,
        retries_left=view.retries_left,
        sick_models=[
            pb.SickModel(model=each.model, retry_ms=_left_ms(each.retry_ns, now_ns), why=each.why)
            for each in view.sick
        ],
        restarts=view.restarts,
        loads_ahead=view.loads_ahead,
        drains_given_up=view.drains_given_up,
        memory_held=view.memory_held,
        vanished=view.vanished,
        vanished_lately=view.vanished_lately,
        down_ms=None if down_since_ns is None else age_ms(down_since_ns, now_ns),
    )


def _encode_breaker(view: BreakerView, now_ns: int) -> pb.BreakerStatus:
    until_ns = view.until_ns
    return pb.BreakerStatus(
        model=view.model,
        state=view.state.value,
        failures=view.failures,
        calls=view.calls,
        until_ms=None if until_ns is None else _left_ms(until_ns, now_ns),
        why=view.why,
    )


def _left_ms(until_ns: int, now_ns: int) -> int:
    return whole_ms(max(0, until_ns - now_ns))


def _encode_request(view: RequestView, status: Status) -> pb.RequestStatus:
    key: RequestKey = view.key
    encoded = pb.RequestStatus(
        request_id=key[1],
        agent_id=key[0],
        model=view.model,
        priority=view.priority,
        state=view.state.value,
        age_ms=(status.snapshot.at_ns - view.arrived_ns) / 1e6,
        tokens=status.pieces[key],
        backend=view.backend,
        wait_detail=view.wait_detail,
        compartment=view.compartment,
        tokens_per_s=status.tokens_per_s.get(key, 0.0),
        substitute=view.substitute,
    )
    if view.wait_reason is not None:
        encoded.wait_reason = WAIT_REASON[view.wait_reason]
    return encoded
