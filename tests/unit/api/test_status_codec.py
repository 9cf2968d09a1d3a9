"""The present state as a message: every field of the level, of the machine and of the pace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.api.grpc.level_codec import (
    LEVEL,
    LEVEL_OF_NUMBER,
    encode_gpu,
    encode_host,
    encode_level,
    encode_sensor,
)
from broker.api.grpc.model_codec import encode_place
from broker.api.grpc.status_codec import encode_status
from broker.core.breaker import BreakerState
from broker.core.healing import Health
from broker.core.level import Level
from broker.core.lifecycle import State
from broker.core.model_list import ListState
from broker.core.pace import AgentWorkView, Waits, Work
from broker.core.residency import ResidencyState
from broker.core.sensing import GpuProcess, GpuSample, HostSample, SensorState
from broker.core.snapshot import BackendView, RequestView, ResidencyView, SickView, take_snapshot
from broker.core.tally import PriorityTally
from broker.core.views import AlertView, BreakerView, LevelView, LoadPart, SensorView, WaitView
from broker.services.status import BackendIdentity, Status
from broker_client.machine import gpu_of, level_number
from broker_client.pb.broker.v1 import admin_pb2 as pb
from broker_client.pb.broker.v1 import common_pb2, models_pb2
from broker_client.status import status_of
from tests.unit.core.scene import Scene

MS = 1_000_000
NOW_NS = 100_000 * MS
UNIX_S = 1_800_000_000.0
HOST = HostSample(
    at_ns=NOW_NS - 500 * MS,
    cpu_count=8,
    cpu_share=0.75,
    models_cpu_share=0.5,
    memory_total_bytes=2**36,
    memory_available_bytes=2**35,
    models_memory_bytes=2**34,
    swap_total_bytes=2**33,
    swap_used_bytes=2**32,
    swap_in_bytes_per_s=4096.0,
)
GPU = GpuSample(
    index=1,
    uuid="GPU-1",
    name="NVIDIA H200",
    memory_total_bytes=2**37,
    memory_used_bytes=2**36,
    utilization=0.0,
    temperature_c=61.0,
    power_w=350.5,
    power_limit_w=700.0,
    throttle_reasons=("power cap",),
    processes=(GpuProcess(pid=7, name="runner", memory_bytes=None, is_ours=True),),
    is_mig=True,
)
LEVEL_VIEW = LevelView(
    level=Level.LEVEL_2,
    before=Level.CRITICAL,
    is_automatic=False,
    since_ns=NOW_NS - 4_500 * MS,
    until_ns=NOW_NS + 60_000 * MS,
    why="set by hand",
    load=0.0,
    parts=(
        LoadPart(name="queue", share=0.2, value=200, limit=1000, at_ns=NOW_NS, detail="200 wait"),
        LoadPart(name="wait", share=0.5, value=300_000 * MS, limit=600_000 * MS, at_ns=NOW_NS),
        LoadPart(name="cpu", share=None, at_ns=NOW_NS - 9_000 * MS, detail="silent"),
    ),
    sensors=(
        SensorView(name="host", state=SensorState.OK, is_stale=False, detail="", at_ns=NOW_NS),
        SensorView(
            name="gpu", state=SensorState.ABSENT, is_stale=False, detail="no driver", at_ns=None
        ),
    ),
    host=HOST,
    gpus=(GPU,),
)
ONE_WAIT = WaitView(count=3, p50_ns=1_500_000, p99_ns=2_000 * MS)
KEY = ("opus-1", "r")
WAITS = Waits(
    queue_wait=ONE_WAIT,
    queue_wait_of={4: replace(ONE_WAIT, count=2)},
    first_token=replace(ONE_WAIT, count=1),
)
WORK = Work(
    streaming_since_ns={KEY: NOW_NS - 2_000 * MS},
    agents=(AgentWorkView(agent_id="opus-1", agent_type="opus", queued=3, running=2),),
)
ALERT = AlertView(
    name="QueueSaturation",
    severity="warning",
    summary="85 % of the queue is full",
    runbook="see who waits",
    since_ns=NOW_NS - 30_000 * MS,
)
REQUEST = RequestView(
    key=KEY,
    model="large:latest",
    priority=4,
    compartment="opus",
    state=State.STREAMING,
    arrived_ns=NOW_NS - 3_000 * MS,
    started_ns=NOW_NS - 2_500 * MS,
    backend="b",
    wait_reason=None,
    wait_detail="",
    substitute="tiny:latest",
)
RESIDENT = ResidencyView(
    model="tiny:latest",
    runner="blob",
    state=ResidencyState.RESIDENT,
    managed=True,
    slots=1,
    running=1,
    queued=2,
    num_ctx=4096,
    memory_bytes=2**30,
    gpu_memory_bytes=2**29,
    expires_unix_s=UNIX_S + 90.5,
)


def status(**changed: Any) -> Status:
    empty = take_snapshot(Scene().engine, NOW_NS)
    backend = BackendView(
        name="b",
        up=True,
        problem="",
        residents=(RESIDENT,),
        loads=1,
        loads_failed=0,
        load_ns_sum=0,
    )
    snapshot = replace(
        empty,
        requests=(REQUEST,),
        backends=(backend,),
        priorities={4: PriorityTally(queued=1), 9: PriorityTally(ended=1)},
    )
    whole = Status(
        version="1.2.3",
        uptime_ns=5_000 * MS,
        unix_s=UNIX_S,
        snapshot=snapshot,
        level=LEVEL_VIEW,
        waits=WAITS,
        work=WORK,
        alerts=(ALERT,),
        backends={"b": BackendIdentity(kind="fake", url="fake://", version="1")},
        pieces={KEY: 21},
        tokens_per_s={KEY: 10.0, ("opus-2", "unlisted"): 2.5},
        model_list=ListState(),
    )
    return replace(whole, **changed)


@pytest.mark.parametrize("level", Level)
def test_every_level_has_a_number_and_a_word_on_the_wire(level: Level) -> None:
    assert LEVEL_OF_NUMBER[LEVEL[level]] is level
    assert LEVEL[level] == level_number(level.word)
    assert LEVEL[level] != common_pb2.DEGRADATION_LEVEL_UNSPECIFIED


def test_a_level_set_by_hand() -> None:
    encoded = encode_level(LEVEL_VIEW, NOW_NS)
    assert encoded.level == common_pb2.DEGRADATION_LEVEL_2
    assert encoded.level_before == common_pb2.DEGRADATION_LEVEL_CRITICAL
    assert (encoded.automatic, encoded.since_ms, encoded.until_ms) == (False, 4_500, 60_000)
    assert encoded.why == "set by hand"
    assert encoded.HasField("load")


def test_a_level_that_was_never_another_and_has_no_end() -> None:
    calm = replace(LEVEL_VIEW, before=None, until_ns=None, is_automatic=True, load=None)
    encoded = encode_level(calm, NOW_NS)
    assert encoded.level_before == common_pb2.DEGRADATION_LEVEL_UNSPECIFIED
    assert encoded.automatic
    assert not encoded.HasField("until_ms")
    assert not encoded.HasField("load")


def test_the_parts_of_the_load_have_the_units_of_the_wire() -> None:
    queue, wait, cpu = encode_level(LEVEL_VIEW, NOW_NS).parts
    assert (queue.name, queue.known, queue.value, queue.limit) == ("queue", True, 200, 1000)
    assert (queue.share, queue.age_ms, queue.detail) == (0.2, 0, "200 wait")
    assert (wait.value, wait.limit, wait.share) == (300_000, 600_000, 0.5)
    assert (cpu.known, cpu.share, cpu.age_ms, cpu.detail) == (False, 0, 9_000, "silent")


def test_a_moment_that_has_not_come_is_no_negative_age() -> None:
    encoded = encode_level(replace(LEVEL_VIEW, since_ns=NOW_NS + MS, until_ns=NOW_NS - MS), NOW_NS)
    assert (encoded.since_ms, encoded.until_ms) == (0, 0)


def test_a_sensor_that_is_silent_is_stale_whatever_it_said_last() -> None:
    host, gpu = (encode_sensor(each, NOW_NS) for each in LEVEL_VIEW.sensors)
    assert host == pb.SensorStatus(name="host", state="ok", age_ms=0)
    assert gpu == pb.SensorStatus(name="gpu", state="absent", detail="no driver")
    silent = replace(LEVEL_VIEW.sensors[0], is_stale=True, at_ns=NOW_NS - 12_000 * MS)
    encoded = encode_sensor(silent, NOW_NS)
    assert (encoded.state, encoded.age_ms) == ("stale", 12_000)


def test_a_host_says_all_that_it_knows() -> None:
    assert encode_host(HOST) == pb.HostStatus(
        cpu_count=8,
        cpu_share=0.75,
        models_cpu_share=0.5,
        memory_total_bytes=2**36,
        memory_available_bytes=2**35,
        models_memory_bytes=2**34,
        swap_total_bytes=2**33,
        swap_used_bytes=2**32,
        swap_in_bytes_per_s=4096.0,
    )
    blind = encode_host(replace(HOST, models_cpu_share=None, models_memory_bytes=None))
    assert not blind.HasField("models_cpu_share")
    assert not blind.HasField("models_memory_bytes")


def test_a_gpu_says_all_that_it_knows() -> None:
    assert encode_gpu(GPU) == pb.GpuStatus(
        index=1,
        uuid="GPU-1",
        name="NVIDIA H200",
        memory_total_bytes=2**37,
        memory_used_bytes=2**36,
        utilization=0.0,
        temperature_c=61.0,
        power_w=350.5,
        power_limit_w=700.0,
        throttle_reasons=["power cap"],
        processes=[pb.GpuProcess(pid=7, name="runner", ours=True)],
        mig=True,
        processes_told=True,
    )
    blind = encode_gpu(replace(GPU, utilization=None, power_w=None, processes=None))
    assert not blind.HasField("utilization")
    assert not blind.HasField("power_w")
    assert not blind.processes
    assert not blind.processes_told


@pytest.mark.parametrize("processes", [None, ()])
def test_processes_that_nobody_may_ask_for_are_not_none_at_all(processes: tuple[()] | None) -> None:
    assert gpu_of(encode_gpu(replace(GPU, processes=processes))).processes == processes


def test_a_status_holds_the_level_the_machine_and_the_alerts() -> None:
    encoded = encode_status(status())
    assert encoded.level == encoded.level_status.level == common_pb2.DEGRADATION_LEVEL_2
    assert encoded.level_status == encode_level(LEVEL_VIEW, NOW_NS)
    assert encoded.host == encode_host(HOST)
    assert list(encoded.gpus) == [encode_gpu(GPU)]
    assert [each.name for each in encoded.sensors] == ["host", "gpu"]
    assert list(encoded.alerts) == [
        pb.Alert(
            name="QueueSaturation",
            severity="warning",
            summary="85 % of the queue is full",
            runbook="see who waits",
            since_ms=30_000,
        )
    ]
    assert not encode_status(status(level=replace(LEVEL_VIEW, host=None))).HasField("host")


def test_a_status_holds_waits_and_who_works() -> None:
    encoded = encode_status(status())
    assert encoded.queue_wait == pb.WaitStatus(count=3, p50_ms=1.5, p99_ms=2_000)
    assert encoded.first_token == pb.WaitStatus(count=1, p50_ms=1.5, p99_ms=2_000)
    started, never = encoded.priorities
    assert started.queue_wait == pb.WaitStatus(count=2, p50_ms=1.5, p99_ms=2_000)
    assert not never.HasField("queue_wait")
    assert list(encoded.agents_working) == [
        pb.AgentWork(agent_id="opus-1", agent_type="opus", queued=3, running=2)
    ]


def test_a_status_tells_how_estimates_came_true() -> None:
    whole = status()
    estimates = replace(whole.snapshot.estimates, judged=50, inside=41)
    encoded = encode_status(replace(whole, snapshot=replace(whole.snapshot, estimates=estimates)))
    assert encoded.wait_estimates == pb.EstimateStatus(judged=50, inside=41)
    read = status_of(encoded).wait_estimates
    assert (read.judged, read.inside) == (50, 41)


def test_rates_are_of_all_that_streams_also_what_is_not_listed() -> None:
    encoded = encode_status(status())
    assert encoded.tokens_per_s == 12.5
    (request,) = encoded.requests
    assert (request.tokens_per_s, request.tokens) == (10, 21)
    assert (request.model, request.substitute) == ("large:latest", "tiny:latest")
    silent = encode_status(status(tokens_per_s={}))
    assert (silent.tokens_per_s, silent.requests[0].tokens_per_s) == (0, 0)


def test_what_the_broker_says_the_client_reads() -> None:
    read = status_of(encode_status(status()))
    assert (read.level, read.level_status.level_before) == ("2", "critical")
    assert (read.level_status.load, read.level_status.until_ms) == (0.0, 60_000)
    assert read.host is not None
    assert read.host.models_cpu_share == 0.5
    (gpu,) = read.gpus
    assert gpu.processes is not None
    assert (gpu.utilization, gpu.processes[0].memory_bytes, gpu.mig) == (0.0, None, True)
    assert [each.age_ms for each in read.sensors] == [0, None]
    assert [each.runbook for each in read.alerts] == ["see who waits"]
    assert (read.priorities[0].queue_wait.count, read.priorities[1].queue_wait.count) == (2, 0)
    assert [each.queued for each in read.agents_working] == [3]
    assert (read.tokens_per_s, read.requests[0].substitute) == (12.5, "tiny:latest")
    assert read.backends[0].models[0].place.expires_ms == 90_500


@pytest.mark.parametrize(
    ("expires_unix_s", "expires_ms"),
    [(None, None), (UNIX_S + 1.5, 1_500), (UNIX_S - 60, 0), (1e300, 2**63 - 1)],
)
def test_a_resident_says_how_long_yet(expires_unix_s: float | None, expires_ms: int | None) -> None:
    place = encode_place("b", replace(RESIDENT, expires_unix_s=expires_unix_s), UNIX_S)
    assert (place.expires_ms if place.HasField("expires_ms") else None) == expires_ms


def test_without_a_clock_or_a_resident_nothing_is_said_of_expiry() -> None:
    assert not encode_place("b", RESIDENT).HasField("expires_ms")
    assert not encode_place("b", None, UNIX_S).HasField("expires_ms")


def test_of_a_backend_that_is_down_nothing_is_told_as_if_it_were_known() -> None:
    whole = status()
    (backend,) = whole.snapshot.backends
    snapshot = replace(whole.snapshot, backends=(replace(backend, up=False),))
    told = BackendIdentity(kind="", url="", version="", down_since_ns=NOW_NS - 3_000 * MS)
    (encoded,) = encode_status(replace(whole, snapshot=snapshot, backends={"b": told})).backends
    assert encoded.down_ms == 3_000
    assert {each.place.state for each in encoded.models} == {models_pb2.MODEL_STATE_UNKNOWN}
    (up,) = encode_status(replace(whole, backends={"b": told})).backends
    assert not up.HasField("down_ms")


def test_what_fails_on_a_backend_and_what_is_done_about_it() -> None:
    whole = status()
    (backend,) = whole.snapshot.backends
    breaker = BreakerView(
        model="m",
        state=BreakerState.OPEN,
        failures=5,
        calls=6,
        until_ns=NOW_NS + 2_500 * MS,
        why="5 of 6 calls failed",
    )
    closed = BreakerView(
        model="n", state=BreakerState.CLOSED, failures=1, calls=9, until_ns=None, why=""
    )
    backend = replace(
        backend,
        weight=2.0,
        tags=("big",),
        is_draining=True,
        health=Health.SUSPECT,
        evidence="a cure failed",
        running=3,
        sick=(SickView(model="s", retry_ns=NOW_NS - 1, why="no memory"),),
        breakers=(breaker, closed),
        retries=4,
        retries_left=1.5,
        restarts=1,
        loads_ahead=2,
        drains_given_up=3,
        memory_held=4,
        vanished=5,
        vanished_lately=6,
    )
    (encoded,) = encode_status(
        replace(whole, snapshot=replace(whole.snapshot, backends=(backend,)))
    ).backends
    assert (encoded.weight, list(encoded.tags), encoded.draining) == (2.0, ["big"], True)
    assert (encoded.health, encoded.evidence) == ("suspect", "a cure failed")
    assert (encoded.running, encoded.restarts) == (3, 1)
    assert (encoded.retries, encoded.retries_left) == (4, 1.5)
    assert (encoded.loads_ahead, encoded.drains_given_up, encoded.memory_held) == (2, 3, 4)
    assert (encoded.vanished, encoded.vanished_lately) == (5, 6)
    opened, shut = encoded.breakers
    assert (opened.state, opened.failures, opened.calls, opened.until_ms) == ("open", 5, 6, 2_500)
    assert (shut.state, shut.HasField("until_ms")) == ("closed", False)
    (sick,) = encoded.sick_models
    assert (sick.model, sick.retry_ms, sick.why) == ("s", 0, "no memory")
