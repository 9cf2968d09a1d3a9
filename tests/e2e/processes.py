"""A real `brokerd` in its own process: started on free ports, heard by its log, always ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from broker_client.pb.broker.v1 import admin_pb2, admin_pb2_grpc, inference_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0  # after which a wait is a failure; nothing is expected to come near it
# What this machine feels is no part of what is tested: it may be busy with other things.
SERVER = """
[monitors]
host = false
gpu = false
[server]
grpc_address = "127.0.0.1:0"
http_address = "127.0.0.1:0"
log_format = "json"
"""
QUICK = """
[queue]
announce_interval_ms = 50
[placement]
slot_grace_ms = 50
failed_load_hold_s = 1
"""


def backend_table(port: int, more: str = "") -> str:
    """One Ollama on this port, asked often."""
    return f"""
[[backends]]
url = "127.0.0.1:{port}"
exclusive = true
poll_interval_ms = 100
retry_interval_ms = 100
{more}
"""


class BrokerProcess:
    """A running `brokerd`: its log as it comes, and a connection to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        self.plain: list[str] = []  # lines that are no JSON
        self._news = asyncio.Condition()
        self._reader = asyncio.ensure_future(self._read())
        self.channel: grpc.aio.Channel | None = None

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while line := (await self.process.stderr.readline()).decode().rstrip("\n"):
            async with self._news:
                if line.startswith("{"):
                    self.log.append(json.loads(line))
                else:
                    self.plain.append(line)
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()

    def events(self) -> list[str]:
        return [each["event"] for each in self.log]

    async def said(self, event: str, times: int = 1) -> dict[str, Any]:
        """The log line of this event, the `times`-th of them, once it is there."""

        def found() -> list[dict[str, Any]]:
            return [each for each in self.log if each["event"] == event]

        async with asyncio.timeout(PATIENCE_S), self._news:
            while len(found()) < times:
                ended = f"it ended before {event!r}: {self.log} {self.plain}"
                assert not self._reader.done(), ended
                await self._news.wait()
        return found()[times - 1]

    async def connect(self) -> None:
        """Waits until it listens."""
        address = (await self.said("broker listening"))["grpc"]
        self.channel = grpc.aio.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]
        )

    @property
    def inference(self) -> inference_pb2_grpc.InferenceAsyncStub:
        assert self.channel is not None
        return inference_pb2_grpc.InferenceStub(self.channel)

    async def until_status(
        self, holds: Callable[[admin_pb2.GetStatusResponse], bool]
    ) -> admin_pb2.GetStatusResponse:
        """The first status that this holds for."""
        assert self.channel is not None
        stub = admin_pb2_grpc.AdminStub(self.channel)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                status = await stub.GetStatus(admin_pb2.GetStatusRequest(requests_max=100))
                if holds(status):
                    return status
                await asyncio.sleep(0.005)  # a connection may open only so many calls a second

    async def outcomes(self) -> dict[str, int]:
        """How requests ended so far, once none is under way."""
        status = await self.until_status(lambda status: not status.queued + status.running)
        return {each.outcome: each.count for each in status.outcomes if each.count}

    def tell(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Its exit status, once it has ended by itself and everything it said was read."""
        async with asyncio.timeout(PATIENCE_S):
            await self._reader
            return await self.process.wait()

    async def close(self) -> None:
        """Ends it however it is."""
        if self.channel is not None:
            await self.channel.close(None)
        if self.process.returncode is None:
            self.process.kill()
        await self.ended()


@asynccontextmanager
async def brokerd(
    config: str | None,
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
    arguments: Sequence[str] = (),
    connects: bool = True,
) -> AsyncIterator[BrokerProcess]:
    """A `brokerd` with this configuration (None: no file), Ollama's own variables not set. `flags`
    are for Python, `arguments` for the daemon. What it keeps over a restart is in `folder`."""
    if config is not None:
        file = folder / "broker.toml"
        file.write_text(config)
        arguments = ["--config", str(file), *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *flags,
        "-m",
        "broker.daemon.main",
        *arguments,
        cwd=ROOT,
        env={
            **kept,
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            **(environment or {}),
        },
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    broker = BrokerProcess(process)
    try:
        if connects:
            await broker.connect()
        yield broker
    finally:
        await broker.close()
