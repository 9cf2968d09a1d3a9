"""A backend that costs next to nothing: Ollama's answers from prepared bytes, paced by a timer.

    python -m bench.upstream --interval-ms 10 [--fail-every 2]

It answers what the broker asks of an Ollama (version, tags, show, ps, loads) and streams
`num_predict` tokens per generation, one line and one chunk each. Both the broker and the bare relay
are measured against it; it is no model of Ollama (that is broker/sim). GET /calls says how many
generations it was asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import cast

import uvloop

MODEL = "bench:latest"
_DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "1.0B",
    "quantization_level": "Q4_K_M",
}
_ENTRY = {"name": MODEL, "model": MODEL, "size": 10**9, "digest": "b" * 64, "details": _DETAILS}
_STAMP = "2026-01-01T00:00:00.000000000Z"
_TAGS = {"models": [{**_ENTRY, "modified_at": _STAMP, "capabilities": ["completion"]}]}
_PS = {
    "models": [
        {**_ENTRY, "expires_at": _STAMP, "size_vram": 10**9, "context_length": 4096},
    ]
}
_SHOW = {
    "modelfile": "FROM /models/blobs/sha256-" + "c" * 64,
    "details": _DETAILS,
    "model_info": {"general.architecture": "llama", "llama.context_length": 8192},
    "capabilities": ["completion"],
}
_LOADED = {
    "model": MODEL,
    "created_at": _STAMP,
    "response": "",
    "done": True,
    "done_reason": "load",
}


def _document(body: object) -> bytes:
    data = json.dumps(body).encode()
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(data), data)
    )


def _chunk(body: object) -> bytes:
    line = json.dumps(body).encode() + b"\n"
    return b"%x\r\n%b\r\n" % (len(line), line)


_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_TOKEN = _chunk({"model": MODEL, "created_at": _STAMP, "response": " token", "done": False})
_LAST = _chunk(
    {
        "model": MODEL,
        "created_at": _STAMP,
        "response": "",
        "done": True,
        "done_reason": "length",
        "total_duration": 1000000,
        "load_duration": 1000,
        "prompt_eval_count": 8,
        "prompt_eval_duration": 1000,
        "eval_count": 1,
        "eval_duration": 1000,
    }
)
_END = b"0\r\n\r\n"
_DOCUMENTS = {
    b"/api/version": _document({"version": "0.0.0"}),
    b"/api/tags": _document(_TAGS),
    b"/api/ps": _document(_PS),
    b"/api/show": _document(_SHOW),
}
_IS_LOADED = _document(_LOADED)
_FAILURE = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json; charset=utf-8\r\n"
    b'Content-Length: 24\r\n\r\n{"error":"it was drawn"}'
)


class Upstream(asyncio.Protocol):
    """One connection; one request at a time, as HTTP/1.1 clients send them."""

    interval_s = 0.0
    fail_every = 0  # of so many generations one fails; 0: none
    calls = 0  # generations that were asked for

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's, though they are such.
        self._transport = cast(asyncio.Transport, transport)
        self._buffer = b""
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        self._answer(head.split(b" ", 2)[1], rest[:length])

    def _answer(self, path: bytes, body: bytes) -> None:
        document = _DOCUMENTS.get(path)
        if path == b"/calls":
            document = _document({"calls": Upstream.calls})
        if document is not None:
            self._transport.write(document)
            return
        asked = json.loads(body)
        if not asked.get("prompt"):
            self._transport.write(_IS_LOADED)
            return
        Upstream.calls += 1
        if self.fail_every and Upstream.calls % self.fail_every == 0:
            self._transport.write(_FAILURE)
            return
        self._left = asked.get("options", {}).get("num_predict", 1)
        if self.interval_s == 0:
            self._transport.write(_HEAD + _TOKEN * self._left + _LAST + _END)
            return
        self._transport.write(_HEAD)
        self._due = asyncio.get_running_loop().time()
        self._token()

    def _token(self) -> None:
        if self._left == 0:
            self._transport.write(_LAST + _END)
            return
        self._transport.write(_TOKEN)
        self._left -= 1
        self._due += self.interval_s
        self._timer = asyncio.get_running_loop().call_at(self._due, self._token)


async def _serve(interval_s: float, fail_every: int) -> None:
    Upstream.interval_s, Upstream.fail_every = interval_s, fail_every
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", 0)
    print(f"upstream listening on {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interval-ms", type=float, default=0.0, help="between tokens; 0: at once")
    parser.add_argument("--fail-every", type=int, default=0, help="of so many one; 0: none")
    given = parser.parse_args()
    uvloop.run(_serve(given.interval_ms / 1000, given.fail_every))


if __name__ == "__main__":
    main()
