"""What service managers, load balancers and tools ask: health, readiness, metrics, reflection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from broker.core.errors import BackendUnreachable
from tests.integration.daemon import RunningDaemon, read_until, running_daemon
from tests.integration.wire_requests import generate

SERVICES = ("broker.v1.Admin", "broker.v1.Inference", "broker.v1.Models", "broker.v1.PubSub")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[RunningDaemon]:
    async with running_daemon() as running:
        yield running


async def health_of(daemon: RunningDaemon, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(daemon.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    status: int = answer.status
    return status


async def test_every_service_is_serving_until_the_broker_leaves(daemon: RunningDaemon) -> None:
    for name in ("", *SERVICES):
        assert await health_of(daemon, name) == SERVING
    watch = health_pb2_grpc.HealthStub(daemon.channel).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == SERVING
    await daemon.parts.grpc.leave()
    assert (await watch.read()).status == NOT_SERVING
    for name in ("", *SERVICES):
        assert await health_of(daemon, name) == NOT_SERVING
    watch.cancel()


async def test_an_unknown_service_has_no_health(daemon: RunningDaemon) -> None:
    try:
        await health_of(daemon, "broker.v1.Nothing")
    except grpc.aio.AioRpcError as error:
        code = error.code()
    assert code is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_and_describes_the_services(daemon: RunningDaemon) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(daemon.channel)
    asked = reflection_pb2.ServerReflectionRequest
    answers = stub.ServerReflectionInfo(
        iter([asked(list_services=""), asked(file_containing_symbol="broker.v1.Inference")])
    )
    listed, described = await answers.read(), await answers.read()
    names = {each.name for each in listed.list_services_response.service}
    expected = {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert names == expected
    files = described.file_descriptor_response.file_descriptor_proto
    assert any(b"GenerateRequest" in each for each in files)


async def test_an_unknown_method_is_unimplemented(daemon: RunningDaemon) -> None:
    ask: Any = daemon.channel.unary_unary
    for method in ("/broker.v1.Inference/Nothing", "/broker.v1.Jobs/Submit"):
        try:
            await ask(method)(b"")
        except grpc.aio.AioRpcError as error:
            code = error.code()
        assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_the_process_is_well_though_it_may_not_be_ready(daemon: RunningDaemon) -> None:
    assert await daemon.get("/healthz") == (200, "ok\n")
    assert await daemon.get("/readyz") == (200, "ready\n")
    daemon.backend.problem = BackendUnreachable("nobody listens there")
    await daemon.until_status(lambda status: not status.backends[0].up)
    assert await daemon.get("/healthz") == (200, "ok\n")
    why = "no backend answers: b: nobody listens there\n"
    assert await daemon.get("/readyz") == (503, why)
    assert (await daemon.get("/nothing"))[0] == 404


async def metrics_of(daemon: RunningDaemon) -> dict[tuple[str, str], float]:
    """Every sample by its name and its labels' values."""
    status, text = await daemon.get("/metrics")
    assert status == 200
    return {
        (sample.name, " ".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_count_what_happened(daemon: RunningDaemon) -> None:
    before = await metrics_of(daemon)
    assert before["broker_queue_limit", ""] == 1000
    assert before["broker_backend_up", "b"] == 1
    assert before["broker_requests_ended_total", "completed"] == 0
    stream = daemon.inference.Generate(generate(priority=2))
    await read_until(stream, "started")
    during = await metrics_of(daemon)
    assert during["broker_requests_running", "2"] == 1
    assert during["broker_model_resident", "b talk:latest"] == 1
    (await daemon.backend.calls.get()).complete()
    await read_until(stream, "done")
    after = await metrics_of(daemon)
    assert after["broker_requests_running", "2"] == 0
    assert after["broker_requests_ended_total", "completed"] == 1
    assert after["broker_requests_started_total", "2"] == 1
    assert after["broker_queue_wait_seconds_sum", "2"] > 0
    assert after["broker_queue_wait_seconds_count", "2"] == 1
    assert after["broker_model_loads_total", "b"] == 1
    assert after["broker_model_load_seconds_total", "b"] > 0


async def test_a_broker_that_leaves_is_not_ready_and_says_so(daemon: RunningDaemon) -> None:
    daemon.parts.driver.drain(1_000_000_000)
    assert await daemon.get("/readyz") == (503, "the broker is leaving\n")
    assert await daemon.get("/healthz") == (200, "ok\n")
    assert (await metrics_of(daemon))["broker_draining", ""] == 1
