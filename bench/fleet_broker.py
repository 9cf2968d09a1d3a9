"""The daemon before the server of `fleet`, on the fleet's clock, with its own rule or a rival's."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from bench.fleet_machine import Machine
from bench.processes import Measured, running
from bench.rival_daemon import OWN
from bench.scheduling_play import QUEUED_MAX
from bench.workload import AGENT_TYPES
from broker_client.pb.broker.v1 import inference_pb2 as pb
from broker_client.pb.broker.v1 import inference_pb2_grpc

PATIENT_S = 3_600


@asynccontextmanager
async def broker(machine: Machine, rule: str) -> AsyncIterator[tuple[str, Measured]]:
    """Where it listens, and its process."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "broker.toml"
        config.write_text(_config(machine, folder, is_own=rule == OWN))
        arguments = ["-m", "bench.rival_daemon", "--config", str(config)]
        arguments += ["--rule", rule, "--speed", str(machine.speed)]
        async with running(arguments, ready="broker listening") as process:
            address: str = json.loads(process.ready_line)["grpc"]
            await _wait_known(address)
            yield address, process


def _config(machine: Machine, folder: str, *, is_own: bool) -> str:
    """As in `scheduling`: nobody is limited in rate or refused for want of a place, no level rises,
    and the rivals know no sizes. What waits for a process that hangs is made long: this machine's
    own hiccups are `speed` times as long on the fleet's clock. Sensors would cost so much more."""
    text = f"""
[server]
grpc_address = "127.0.0.1:0"
http_address = "127.0.0.1:0"
state_dir = "{folder}"
log_format = "json"
[limits]
queued_max = {QUEUED_MAX}
delivery_timeout_s = {PATIENT_S}
[degradation]
automatic = false
[monitors]
host = false
gpu = false
[healing]
gap_extra_s = {PATIENT_S}
mute_s = {PATIENT_S}
[floods]
client_stall_timeout_s = {PATIENT_S}
[[backends]]
name = "fleet"
url = "{machine.url}"
slots = {machine.cell.slots}
resident_max = {machine.cell.resident}
connect_timeout_ms = 60000
local = false
"""
    if not is_own:
        text += "[queue]\nsize_handicap = 0\nfairness_grain_tokens = 0\n"
    return text + "".join(
        f'[[agents.types]]\nname = "{kind}"\nmatch = ["{kind}-*"]\n' for kind, _ in AGENT_TYPES
    )


async def _wait_known(address: str) -> None:
    """Until the broker knows its backend: an unknown model is then NOT_FOUND, not UNAVAILABLE."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        request = pb.GenerateRequest(agent_id="bench", model="no-such-model")
        request.prompt.text = "?"
        for _ in range(200):
            try:
                async for _event in stub.Generate(request, timeout=PATIENT_S):
                    raise RuntimeError("a model that does not exist answered")
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.05)
    raise RuntimeError(f"the broker at {address} does not find its backend")
