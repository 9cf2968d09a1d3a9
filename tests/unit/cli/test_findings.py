"""What the doctor finds: every finding that is not good has a next step."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from broker_client import (
    Alert,
    BackendModel,
    BackendStatus,
    BulkheadStatus,
    Model,
    ModelPlace,
    RequestStatus,
    Status,
    Unreachable,
    __version__,
)
from broker_client.errors import QueueFull, local_details
from broker_client.pb.broker.v1 import admin_pb2 as pb
from broker_client.pb.broker.v1 import common_pb2
from broker_client.status import status_of
from brokerctl.finding import Finding, Severity
from brokerctl.findings import examine, unreachable_finding

ADDRESS = "127.0.0.1:50434"
PLACE = ModelPlace(
    backend="gpu0",
    state="resident",
    slots=1,
    running=0,
    num_ctx=4096,
    memory_bytes=10,
    gpu_memory_bytes=10,
    managed=True,
    expires_ms=None,
)
BACKEND = BackendStatus(
    name="gpu0",
    kind="ollama",
    url="http://127.0.0.1:11434",
    up=True,
    problem="",
    version="0.31.1",
    models=(BackendModel(name="tiny:latest", place=PLACE, queued=0),),
    loads=2,
    loads_failed=0,
    weight=1.0,
    tags=(),
    draining=False,
    health="well",
    evidence="",
    running=0,
    breakers=(),
    retries=0,
    retries_left=10.0,
    sick_models=(),
    restarts=0,
)
HEALTHY = replace(
    status_of(
        pb.GetStatusResponse(
            version=__version__,
            uptime_s=5.0,
            level=common_pb2.DEGRADATION_LEVEL_NORMAL,
            level_status=pb.LevelStatus(level=common_pb2.DEGRADATION_LEVEL_NORMAL, automatic=True),
            queued_max=1000,
            running=1,
            standing_max=100,
            agents=1,
        )
    ),
    bulkheads=(BulkheadStatus(compartment="opus", running=1, running_max=10),),
    backends=(BACKEND,),
)
MODEL = Model(
    name="tiny:latest",
    capabilities=("completion",),
    size_bytes=1,
    parameter_size="",
    quantization="",
    family="",
    context_length_train=0,
    places=(PLACE,),
)
EMBEDDER = replace(MODEL, name="e:latest", capabilities=("embedding",))


@pytest.mark.parametrize(
    ("backend", "words", "step"),
    [
        (replace(BACKEND, vanished_lately=3), "models left", "another tool loads"),
        (replace(BACKEND, memory_held=1), "GPU memory of 1 model", "nvidia-smi"),
        (replace(BACKEND, drains_given_up=2), "2 times a model on", "drain_timeout_s"),
    ],
)
def test_what_goes_wrong_with_switches_is_found(
    backend: BackendStatus, words: str, step: str
) -> None:
    finding = only(replace(HEALTHY, backends=(backend,)))
    assert words in finding.text
    assert step in str(finding.next_step)


def test_losses_now_and_then_are_no_finding() -> None:
    assert (
        found(replace(HEALTHY, backends=(replace(BACKEND, vanished_lately=2, vanished=9),))) == []
    )


def found(status: Status, models: tuple[Model, ...] = (MODEL,)) -> list[Finding]:
    """All that is not good, each checked for a next step."""
    findings = [each for each in examine(status, models, ADDRESS) if each.severity.value != "good"]
    assert all(each.next_step for each in findings)
    return findings


def only(status: Status, models: tuple[Model, ...] = (MODEL,)) -> Finding:
    [finding] = found(status, models)
    return finding


def test_a_healthy_broker_has_no_findings_that_ask_for_anything() -> None:
    assert found(HEALTHY) == []
    texts = [each.text for each in examine(HEALTHY, (MODEL,), ADDRESS)]
    assert texts == [
        f"a broker answers at {ADDRESS}, version {__version__}",
        "backend gpu0 at http://127.0.0.1:11434 is up, version 0.31.1",
        "1 model, 1 of them for generating text",
        "the level is normal: everything is offered",
        "0 requests waiting, 1 running",
    ]


def test_no_broker() -> None:
    gone = Unreachable(local_details(grpc.StatusCode.UNAVAILABLE, "Connection refused"))
    finding = unreachable_finding(gone, ADDRESS)
    assert finding.severity is Severity.BAD
    assert finding.text == f"no broker answers at {ADDRESS}"
    assert "`brokerd`" in finding.next_step
    full = QueueFull(local_details(grpc.StatusCode.UNAVAILABLE, "the queue is full"))
    assert "the queue is full" in unreachable_finding(full, ADDRESS).text


def test_a_backend_that_is_down_and_why() -> None:
    down = replace(BACKEND, up=False, problem="connection refused")
    finding = only(replace(HEALTHY, backends=(down,)), models=())
    assert finding.severity is Severity.BAD
    assert finding.text.endswith("does not answer: connection refused")
    assert "ollama serve" in finding.next_step


def test_one_backend_down_beside_one_that_is_up() -> None:
    down = replace(BACKEND, name="gpu1", up=False)
    finding = only(replace(HEALTHY, backends=(BACKEND, down)))
    assert finding.text == "backend gpu1 at http://127.0.0.1:11434 does not answer"


def test_no_backend_at_all() -> None:
    assert only(replace(HEALTHY, backends=())).severity is Severity.BAD


def test_a_server_that_keeps_its_models_is_well() -> None:
    place = replace(PLACE, managed=False)
    held = BackendModel(name="big:70b", place=place, queued=0)
    keeper = replace(BACKEND, kind="openai", models=(held,))
    assert found(replace(HEALTHY, backends=(keeper,))) == []


def test_a_resident_that_others_loaded() -> None:
    place = replace(PLACE, managed=False)
    held = replace(BACKEND, models=(BackendModel(name="big:70b", place=place, queued=0),))
    finding = only(replace(HEALTHY, backends=(held,)))
    assert finding.severity is Severity.ODD
    assert finding.text.startswith("big:70b on gpu0 was loaded by others")
    assert "ollama stop big:70b" in finding.next_step


def test_loads_that_failed() -> None:
    finding = only(replace(HEALTHY, backends=(replace(BACKEND, loads_failed=1),)))
    assert finding.text == "1 load of 2 failed on gpu0"


def test_no_models_and_none_that_generate_text() -> None:
    assert only(HEALTHY, ()).severity is Severity.BAD
    assert only(HEALTHY, (EMBEDDER,)).severity is Severity.ODD


def test_a_broker_that_leaves_is_of_another_version_and_at_a_level() -> None:
    leaving = replace(HEALTHY, draining=True, version="9.9.9", level="1")
    assert [each.severity for each in found(leaving)] == [
        Severity.ODD,
        Severity.BAD,
        Severity.ODD,
    ]


WAITING = RequestStatus(
    request_id="r",
    agent_id="a",
    model="m",
    priority=5,
    state="queued",
    age_ms=1.0,
    tokens=0,
    backend="",
    wait_reason="no_room",
    wait_detail="",
    compartment="",
    tokens_per_s=0.0,
    substitute="",
)


def test_a_full_queue_and_what_its_requests_wait_for() -> None:
    down = replace(WAITING, wait_reason="backend_down")
    full = replace(HEALTHY, queued=1000, requests=(WAITING, WAITING, down))
    assert [each.text for each in found(full)] == [
        "the queue is full: 1000 requests wait",
        "2 requests wait for room that models loaded by others hold",
        "1 request waits for a backend that is down",
    ]
    standing = replace(full, standing=3, requests=())
    assert only(standing).text == (
        "the queue is full: 1000 requests wait, and 3 stand in the waiting room"
    )


def test_a_pause_is_odd_even_where_nothing_waits_for_its_end() -> None:
    paused = replace(HEALTHY, paused=("agent opus-1", "agents of type batch"))
    assert only(paused).text == (
        "operators have paused agent opus-1, agents of type batch; 0 requests wait for that to end"
    )
    held = replace(paused, requests=(replace(WAITING, wait_reason="paused"),))
    assert only(held).text.endswith("; 1 request waits for that to end")


@pytest.mark.parametrize(
    ("severity", "found_as"), [("warning", Severity.ODD), ("critical", Severity.BAD)]
)
def test_an_alert_is_as_bad_as_it_says(severity: str, found_as: Severity) -> None:
    alert = Alert(name="A", severity=severity, summary="s", runbook="see", since_ms=1_000)
    finding = only(replace(HEALTHY, alerts=(alert,)))
    assert (finding.severity, finding.text) == (found_as, "alert A fires for 1.0 s: s")


def test_a_bulkhead_is_odd_where_it_is_full_and_requests_wait_for_it() -> None:
    held = replace(WAITING, wait_reason="bulkhead", compartment="opus")
    full = BulkheadStatus(compartment="opus", running=10, running_max=10)
    assert found(replace(HEALTHY, bulkheads=(full,))) == []
    finding = only(replace(HEALTHY, bulkheads=(full,), requests=(held, held)))
    assert finding.text == ("bulkhead opus is full: 10 of at most 10 run, 2 requests wait for it")
    assert finding.severity is Severity.ODD
