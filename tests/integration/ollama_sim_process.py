"""A real `ollama-sim` in a process of its own, and a client that sees every byte of its answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0  # after which a wait is a failure; nothing is expected to come near it
# A request of a model that is recorded.
SHORT = {"model": "tiny-s", "prompt": "x", "options": {"num_predict": 8}}
LISTENING = re.compile(rb"ollama-sim listening on http://(\S+):(\d+) \(simulated Ollama")


@dataclass(kw_only=True)
class Answer:
    """An HTTP answer as it came: headers in order, one string per HTTP chunk."""

    status: int | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    chunks: list[str] = field(default_factory=list)
    terminated: bool = False  # the closing zero chunk came
    closed: bool = False  # the connection ended before the answer did

    @property
    def text(self) -> str:
        return "".join(self.chunks)

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def document(self) -> dict[str, object]:
        loaded: dict[str, object] = json.loads(self.text)
        return loaded


class Connection:
    """One connection; `send` and `read` are apart so that a test may leave in between."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer
        self.answer = Answer()

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        named = {name.lower() for name, _ in headers}
        lines = [f"{method} {path} HTTP/1.1"]
        if "host" not in named:
            lines.append("Host: 127.0.0.1")
        lines += [f"{name}: {value}" for name, value in headers]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))
        self._method = method
        await self._writer.drain()

    async def read_head(self) -> Answer:
        """The status and headers, once they come; a closed connection leaves status None."""
        try:
            head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.answer.closed = True
            return self.answer
        first, *rest = head.decode().rstrip("\r\n").split("\r\n")
        self.answer.status = int(first.split(" ")[1])
        for line in rest:
            name, _, value = line.partition(": ")
            self.answer.headers.append((name, value))
        return self.answer

    async def read_chunk(self) -> str | None:
        """The next chunk of a chunked body; None after the last, or when the connection ends."""
        try:
            size = int(await asyncio.wait_for(self.reader.readuntil(b"\r\n"), PATIENCE_S), 16)
            data = await asyncio.wait_for(self.reader.readexactly(size + 2), PATIENCE_S)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.answer.closed = True
            return None
        if not size:
            self.answer.terminated = True
            return None
        chunk = data[:-2].decode()
        self.answer.chunks.append(chunk)
        return chunk

    async def read_all(self) -> Answer:
        """The whole answer, or as much as came before the connection ended."""
        answer = await self.read_head()
        named = dict(answer.headers)
        if answer.closed or self._method == "HEAD":
            return answer
        if named.get("Transfer-Encoding") == "chunked":
            while await self.read_chunk() is not None:
                pass
        elif int(named.get("Content-Length", "0")):
            body = self.reader.readexactly(int(named["Content-Length"]))
            answer.chunks.append((await asyncio.wait_for(body, PATIENCE_S)).decode())
        return answer

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class Simulator:
    """A running `ollama-sim`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    @contextlib.asynccontextmanager
    async def connected(self, *, receives_bytes: int = 2**26) -> AsyncIterator[Connection]:
        """A connection; with a small `receives_bytes` what is not read soon blocks the sender."""
        sock = socket.socket()
        if receives_bytes < 2**16:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=receives_bytes)
        connection = Connection(reader, writer)
        try:
            yield connection
        finally:
            await connection.close()

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> Answer:
        """One request on a connection of its own; `body` is bytes, None, or becomes JSON."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        async with self.connected() as connection:
            await connection.send(method, path, raw, headers)
            return await connection.read_all()

    async def state(self) -> dict[str, Any]:
        return (await self.ask("GET", "/sim/state")).document

    async def set_fault(self, **fault: object) -> None:
        answer = await self.ask("POST", "/sim/faults", fault)
        assert answer.status == 200, answer.text

    async def reset(self) -> None:
        assert (await self.ask("POST", "/sim/reset")).status == 200

    async def wait_until(self, key: str, value: object) -> dict[str, Any]:
        """The state once `key` has that value; asks again without pause, bounded."""
        for _ in range(20_000):
            state = await self.state()
            if state[key] == value:
                return state
        raise AssertionError(f"{key} is {state[key]!r}, not {value!r}")

    def stop(self) -> int:
        """Ends the process with SIGTERM and gives its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait_for_end()

    def wait_for_end(self) -> int:
        """The exit status of a process that was told to end."""
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            if self.process.stdout is not None:
                self.process.stdout.close()


def start_simulator(*arguments: str, environment: Mapping[str, str] | None = None) -> Simulator:
    """Starts `ollama-sim` on a free port and waits for its line."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "broker.sim.ollama_sim", "--port", "0", *arguments],
        cwd=ROOT,
        env={**kept, **(environment or {})},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = LISTENING.match(line)
    if found is None:
        process.kill()
        raise AssertionError(f"ollama-sim did not start: {line!r}")
    return Simulator(process, int(found.group(2)))


async def generate(simulator: Simulator, **fields: Any) -> Answer:
    """SHORT, with these fields, and all that is answered."""
    return await simulator.ask("POST", "/api/generate", {**SHORT, **fields})


def counted(answer: Answer) -> int:
    """How many lines of text came before whatever ended the stream."""
    return sum(1 for chunk in answer.chunks if '"done":false' in chunk)
