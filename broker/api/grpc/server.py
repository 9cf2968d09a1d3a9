"""The gRPC server: every service, health and reflection on one port."""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import dataclass, field

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from broker.api.grpc.admin import AdminServicer
from broker.api.grpc.floods import Door, FloodLimits
from broker.api.grpc.inference import InferenceServicer
from broker.api.grpc.models import ModelsServicer
from broker.api.grpc.pubsub import PubSubServicer, add_pubsub_to_server
from broker.api.grpc.reading import register
from broker_client.pb.broker.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    pubsub_pb2,
)

# Calls beside those of requests, which the engine's own bound refuses with a reason before.
CALLS_SPARE = 256

PING_STRIKES_MAX = 2  # gRPC's own

SERVICE_NAMES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (inference_pb2, "Inference"),
        (models_pb2, "Models"),
        (admin_pb2, "Admin"),
        (pubsub_pb2, "PubSub"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Where to listen, and the transport's own bounds. `message_bytes_max` lies above the limit of
    a request, so that the broker itself answers one that is too large."""

    address: str = "127.0.0.1:50434"
    message_bytes_max: int = 12 * 1024 * 1024
    keepalive_time_ms: int = 30_000
    keepalive_timeout_ms: int = 10_000
    ping_interval_ms_min: int = 5_000
    concurrent_streams_max: int = 2_000  # of one connection
    calls_max: int = 10_000  # of all
    floods: FloodLimits = field(default_factory=FloodLimits)


class GrpcServer:
    """Owns the port. `start` binds it; health says SERVING until `leave`."""

    def __init__(
        self,
        settings: ServerSettings,
        inference: InferenceServicer,
        models: ModelsServicer,
        admin: AdminServicer,
        pubsub: PubSubServicer,
    ) -> None:
        self._settings = settings
        # The stub package knows only the synchronous half of this module.
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._server = grpc.aio.server(
            options=_options(settings),
            maximum_concurrent_rpcs=settings.calls_max + CALLS_SPARE,
        )
        door = Door(settings.floods)
        register(inference_pb2_grpc.add_InferenceServicer_to_server, inference, self._server, door)
        register(models_pb2_grpc.add_ModelsServicer_to_server, models, self._server, door)
        register(admin_pb2_grpc.add_AdminServicer_to_server, admin, self._server, door)
        register(add_pubsub_to_server, pubsub, self._server, door)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> int:
        """Binds and serves. Returns the port; OSError where the address cannot be had."""
        await _check_address(self._settings.address)
        port = self._server.add_insecure_port(self._settings.address)
        await self._server.start()
        for name in ("", *SERVICE_NAMES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def leave(self) -> None:
        """Health says NOT_SERVING from now on; calls are still answered, new work with a reason."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Ends every call that is left after `grace_s`, and frees the port."""
        await self._server.stop(grace_s)


async def _check_address(address: str) -> None:
    """Raises OSError with a reason where nobody could listen there: gRPC gives none, and writes
    lines of its own to standard error."""
    host, _, port = address.rpartition(":")
    refusals: list[OSError] = []
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        found, refusals = [], [error]
    for family, kind, protocol, _, where in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(where)
            except OSError as error:
                refusals.append(error)
    # Of a name's addresses one is enough, as for gRPC, but none may be another broker's.
    taken = [each for each in refusals if each.errno == errno.EADDRINUSE]
    if taken or len(refusals) >= max(1, len(found)):
        first = (taken or refusals)[0]
        raise OSError(first.errno, f"cannot listen on {address}: {first.strerror}") from first


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.message_bytes_max),
        # What is sent is bounded by what was asked for; the largest answer, vectors of many texts,
        # is larger than any request.
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", settings.concurrent_streams_max),
        ("grpc.keepalive_time_ms", settings.keepalive_time_ms),
        ("grpc.keepalive_timeout_ms", settings.keepalive_timeout_ms),
        # Agents wait for minutes on an idle stream and ping meanwhile; that is no abuse.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", settings.ping_interval_ms_min),
        # Whoever pings more often this many times in a row is told so and loses its connection.
        ("grpc.http2.max_ping_strikes", PING_STRIKES_MAX),
        # Those that have come and not been looked at yet, 1,000 unless said: more are cut off
        # without a word, and it is the broker's to say no, with a reason and a retry-after.
        ("grpc.server.max_pending_requests", settings.calls_max + CALLS_SPARE),
        ("grpc.server.max_pending_requests_hard_limit", settings.calls_max + CALLS_SPARE),
        # Two daemons on one port would each get half of the agents.
        ("grpc.so_reuseport", 0),
    ]
