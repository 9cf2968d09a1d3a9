"""Recordings of a real Ollama's /v1 endpoints, and a server of sockets that plays them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.integration.raw_http_server import LAST_CHUNK, Peer, Request, chunk, head
from tests.integration.raw_http_server import document as whole

FOLDER: Final = Path(__file__).resolve().parents[1] / "data" / "recorded_v1"
NAMES: Final = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))
CUTS: Final = ("whole", "random", "bytes")
_LEFT_OUT: Final = "… "  # a recording says so of chunks in the middle


class V1Recording:
    """One exchange. `chunks` are those that the recording kept."""

    def __init__(self, name: str) -> None:
        document: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
        request, response = document["request"], document["response"]
        self.name = name
        self.path: str = request["path"]
        self.asked: dict[str, Any] = request["body"] or {}
        self.status: int = response["status"]
        self.chunks = [text for _, text in response["chunks"] if not text.startswith(_LEFT_OUT)]
        self.is_stream = self.asked.get("stream") is True and self.status == 200

    @property
    def body(self) -> str:
        return "".join(self.chunks)

    def events(self) -> list[dict[str, Any]]:
        """What its events hold, read as plainly as can be."""
        found = [each.removeprefix("data: ") for each in self.body.split("\n\n") if each]
        return [json.loads(each) for each in found if each != "[DONE]"]

    def on_the_wire(self, how: str) -> Iterator[bytes]:
        """The answer's bytes, in the parts in which they are to arrive."""
        if self.is_stream:
            start = head(self.status, ("Transfer-Encoding", "chunked"))
            data = start + b"".join(chunk(text) for text in self.chunks) + LAST_CHUNK
        else:
            data = whole(self.status, self.body.encode())
        random = Random(self.name)
        while data:
            size = {"whole": len(data), "random": random.randint(1, 90), "bytes": 1}[how]
            yield data[:size]
            data = data[size:]

    def handler(self, how: str, asked: list[Request]) -> Callable[[Peer], Awaitable[None]]:
        async def handle(peer: Peer) -> None:
            while request := await peer.read_request():
                asked.append(request)
                await peer.send_parts(self.on_the_wire(how))

        return handle
