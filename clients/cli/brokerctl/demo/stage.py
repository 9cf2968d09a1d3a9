"""Sets up what the fleet plays on: a broker, before a local Ollama or a simulated one.

Rules (DESIGN.md, Commands). The broker itself is asked whether an Ollama answers, so that
OLLAMA_HOST has one reading. A real Ollama is used with one model: a resident one, for it costs
nobody a load, else the smallest that generates text; the broker never evicts what it did not load.
Without one, the bundled simulator takes its place, which is said loudly.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from broker_client import AsyncClient, BrokerError, Model
from brokerctl.demo.processes import ChildProcess
from brokerctl.model_choice import choose_model, completion_models

START_TIMEOUT_S: Final = 30.0
HTTP_PORT_DEFAULT: Final = 9434
FREE_PORT: Final = "127.0.0.1:0"
SIMULATED_MODELS_MAX: Final = 3
SIMULATED_SLOTS: Final = 2
SIMULATED_RESIDENTS: Final = 2
LOOK_INTERVAL_S: Final = 0.1
# Where a server holds no model, that is known only from their staying away.
MODEL_LOOKS_MAX: Final = 50

Say = Callable[[str], None]


class StageFailed(Exception):
    """The demonstration cannot begin; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A broker that is up, and the models that the fleet may use."""

    address: str
    models: tuple[str, ...]


class StageBuilder:
    """Starts the processes. They belong to `processes` as soon as they run; `close` ends them."""

    def __init__(self, *, port: int, speed: float, say: Say, shout: Say) -> None:
        self._port = port
        self._speed = speed
        self._say = say
        self._shout = shout
        self._broker: ChildProcess | None = None
        self.processes: list[ChildProcess] = []

    async def build(self) -> Stage:
        """Everything up. ProcessFailed or StageFailed where it cannot be."""
        grpc_address, http_address = await self._choose_addresses()
        server = server_section(grpc_address, http_address)
        address = await self._start_broker(server)
        async with AsyncClient(address) as client:
            is_up = await self._wait_verdict()
            [backend] = (await client.status()).backends
            if is_up:
                self._say(f"Ollama {backend.version} answers at {backend.url}")
                return await self._before_ollama(client, address)
        self._shout("NO OLLAMA ANSWERS HERE: A SIMULATED ONE PLAYS ITS PART, NO MODEL IS REAL.")
        self._say(f"({backend.url}: {backend.problem})")
        await self._stop_broker()
        url = await self._start_simulator()
        # The address was free a moment ago and was ours since; the broker may have it again.
        address = await self._start_broker(server + simulated_backend(url))
        async with AsyncClient(address) as client:
            if not await self._wait_verdict():
                raise StageFailed("the broker cannot reach the simulator that was just started")
            return await self._before_simulator(client, address)

    async def close(self, *, grace_s: float) -> None:
        """Ends all processes, those in front first."""
        for each in reversed(self.processes):
            await each.stop(grace_s=grace_s)
        self.processes.clear()

    async def _choose_addresses(self) -> tuple[str, str]:
        """The addresses asked for where they are free, else any."""
        if self._port == 0:
            return FREE_PORT, FREE_PORT
        address = f"127.0.0.1:{self._port}"
        if is_free(self._port):
            http_address = f"127.0.0.1:{HTTP_PORT_DEFAULT}"
            return address, http_address if is_free(HTTP_PORT_DEFAULT) else FREE_PORT
        who = "something else holds this port"
        if await answers(address):
            who = "a broker already answers there and is left alone"
        self._say(f"{address}: {who}; this demonstration takes a free port")
        return FREE_PORT, FREE_PORT

    async def _start_broker(self, config: str) -> str:
        """Starts the daemon on `config`; its address."""
        with tempfile.TemporaryDirectory(prefix="broker-demo-") as folder:
            file = Path(folder) / "broker.toml"
            file.write_text(config)
            command = ("broker.daemon.main", "--config", str(file))
            broker = await ChildProcess.start("brokerd", *command, environ=os.environ)
            self.processes.append(broker)
            # The file is read before this line is written, so it may go afterwards.
            address = await broker.wait_line(listening_address, timeout_s=START_TIMEOUT_S)
        self._broker = broker
        self._say(f"brokerd answers at {address}")
        return address

    async def _stop_broker(self) -> None:
        assert self._broker is not None
        await self._broker.stop(grace_s=START_TIMEOUT_S)
        self.processes.remove(self._broker)

    async def _start_simulator(self) -> str:
        """Starts `ollama-sim` on a free port; its URL."""
        command = ("broker.sim.ollama_sim", "--host", "127.0.0.1", "--port", "0")
        options = (
            *("--speed", str(self._speed)),
            *("--num-parallel", str(SIMULATED_SLOTS)),
            *("--models", "default"),
        )
        simulator = await ChildProcess.start(
            "ollama-sim", *command, *options, environ=without_ollama(os.environ)
        )
        self.processes.insert(0, simulator)
        url = await simulator.wait_line(simulator_url, timeout_s=START_TIMEOUT_S)
        self._say(f"ollama-sim answers at {url}, at {self._speed:g} times the real speed")
        return url

    async def _before_ollama(self, client: AsyncClient, address: str) -> Stage:
        chosen = choose_model(await self._wait_models(client))
        if chosen is None:
            raise StageFailed(
                "the Ollama here has no model that generates text; get one with `ollama pull NAME`"
            )
        return Stage(address=address, models=(chosen.name,))

    async def _before_simulator(self, client: AsyncClient, address: str) -> Stage:
        models = spread(completion_models(await self._wait_models(client)), SIMULATED_MODELS_MAX)
        return Stage(address=address, models=tuple(each.name for each in models))

    async def _wait_verdict(self) -> bool:
        """Does the only backend answer? Known once the broker has asked it and said so."""
        assert self._broker is not None
        return await self._broker.wait_line(backend_verdict, timeout_s=START_TIMEOUT_S)

    async def _wait_models(self, client: AsyncClient) -> list[Model]:
        """All models, once the broker has listed them; none where there stay none."""
        for _ in range(MODEL_LOOKS_MAX):
            if found := await client.models():
                return found
            await asyncio.sleep(LOOK_INTERVAL_S)
        return []


def spread(models: Sequence[Model], count: int) -> list[Model]:
    """`count` models from the first to the last, evenly apart; all where there are no more."""
    if len(models) <= count:
        return list(models)
    return [models[index * (len(models) - 1) // (count - 1)] for index in range(count)]


def server_section(grpc_address: str, http_address: str) -> str:
    """The configuration's first part. What it does not say is the default."""
    return (
        "[server]\n"
        f'grpc_address = "{grpc_address}"\n'
        f'http_address = "{http_address}"\n'
        'log_format = "json"\n'
        # Whoever ends a demonstration does not wait for its last requests.
        "drain_timeout_s = 2\n"
    )


def simulated_backend(url: str) -> str:
    """The configuration's second part before a simulator, which is all ours."""
    return (
        "[[backends]]\n"
        'name = "simulator"\n'
        f'url = "{url}"\n'
        f"slots = {SIMULATED_SLOTS}\n"
        f"resident_max = {SIMULATED_RESIDENTS}\n"
        "exclusive = true\n"
        # Its models take nothing of this machine, which so says nothing of them.
        "local = false\n"
        "poll_interval_ms = 500\n"
    )


def listening_address(line: str) -> str | None:
    """The gRPC address in the daemon's line that says where it listens; None for other lines."""
    said = logged(line)
    return str(said["grpc"]) if said.get("event") == "broker listening" else None


def backend_verdict(line: str) -> bool | None:
    """What the daemon's line says of a backend: it answers, or not; None for other lines."""
    event = logged(line).get("event")
    return {"backend answers": True, "backend does not answer": False}.get(str(event))


def logged(line: str) -> dict[str, Any]:
    """A line of the daemon's log in its parts; empty where it is none."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def simulator_url(line: str) -> str | None:
    """The URL in the simulator's line that says where it listens; None for other lines."""
    found = re.search(r"listening on (http://\S+)", line)
    return found.group(1) if found else None


def without_ollama(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without settings for Ollama, which the simulator would heed."""
    return {key: value for key, value in environ.items() if not key.startswith("OLLAMA_")}


def is_free(port: int) -> bool:
    """Could a server listen on this port of the loopback address now?"""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def answers(address: str) -> bool:
    """Does a broker answer there?"""
    async with AsyncClient(address, call_timeout_s=2.0) as client:
        try:
            await client.status()
        except BrokerError:
            return False
    return True
