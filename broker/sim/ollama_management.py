"""What changes the models of a simulated Ollama: /api/pull, /api/create, /api/copy, /api/delete.

Rules: the catalogue changes when the work is done, and never what is loaded. A pull says how far
it is about every 60 ms of the server's time; a failure after the head is a line with an error.
A file that had to be uploaded before cannot be named by create: blobs are not served.

Source: reference/OLLAMA.md §1.7; recordings 02_create_from, 50_*, 51_*, 82_*.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from aiohttp import web

from broker.sim.ollama_asked import Refusal, error_body
from broker.sim.ollama_catalogue import DEFAULT_HOST, SimModel, parse_name
from broker.sim.ollama_exchange import JSON_PLAIN, NDJSON, End
from broker.sim.ollama_faults import AT_PULL, Fault, FaultKind
from broker.sim.ollama_fields import Kind, read_struct
from broker.sim.ollama_gojson import EmptyBody, GoJsonError, Json, decode, go_quote, marshal
from broker.sim.ollama_http import Handler, break_off, document, frame, framed
from broker.sim.ollama_pump import GRAIN_S, Pump
from broker.sim.ollama_registry import Layer, layers_of

TICK_NS: Final = 60_000_000
VERIFY_BYTES_PER_S: Final = 2.0e9  # sha256 of what was downloaded
DROPPED_TEXT: Final = "max retries exceeded: unexpected EOF"
MODELS_FOLDER: Final = "<OLLAMA_MODELS>"
_PULL: Final[Mapping[str, Kind]] = {
    "model": Kind.STRING,
    "name": Kind.STRING,
    "insecure": Kind.BOOL,
    "stream": Kind.BOOL,
}
_CREATE: Final[Mapping[str, Kind]] = {
    "model": Kind.STRING,
    "name": Kind.STRING,
    "stream": Kind.BOOL,
    "from": Kind.STRING,
    "files": Kind.OPTIONS,
    "system": Kind.STRING,
    "template": Kind.STRING,
    "parameters": Kind.OPTIONS,
}
_COPY: Final[Mapping[str, Kind]] = {"source": Kind.STRING, "destination": Kind.STRING}
_DELETE: Final[Mapping[str, Kind]] = {"model": Kind.STRING, "name": Kind.STRING}

Steps = AsyncGenerator[dict[str, Json], None]


class WorkFailed(Exception):
    """What was begun came to nothing; the text is that of the error line."""


class ConnectionLost(Exception):
    """The connection breaks without another byte (a fault)."""


@dataclass(frozen=True, slots=True)
class _Body:
    fields: Mapping[str, object]

    def text(self, *keys: str) -> str:
        """The first of these fields that says something."""
        for key in keys:
            value = self.fields.get(key)
            if isinstance(value, str) and value:
                return value
        return ""

    def mapping(self, key: str) -> Mapping[str, Json]:
        value = self.fields.get(key)
        return value if isinstance(value, dict) else {}

    @property
    def stream(self) -> bool:
        return self.fields.get("stream") is not False

    @property
    def insecure(self) -> bool:
        return self.fields.get("insecure") is True


def _read(name: str, fields: Mapping[str, Kind], body: bytes) -> _Body:
    try:
        return _Body(read_struct(name, fields, decode(body)))
    except EmptyBody:
        raise Refusal(400, "missing request body") from None
    except GoJsonError as error:
        raise Refusal(400, error.text) from None


class Management:
    """Handlers over one pump."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump

    def routes(self) -> Mapping[str, Mapping[str, Handler]]:
        return {
            "/api/pull": {"POST": self._pull},
            "/api/create": {"POST": self._create},
            "/api/copy": {"POST": self._copy},
            "/api/delete": {"DELETE": self._delete},
        }

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        try:
            spelled = _read("DeleteRequest", _DELETE, await request.read()).text("model", "name")
            if parse_name(spelled) is None:
                raise Refusal(400, f"name {go_quote(spelled)} is invalid")
            found = self._pump.catalogue.find(spelled)
            if found is None:
                raise Refusal(404, f"model '{spelled}' not found")
        except Refusal as refusal:
            return document(refusal.status, refusal.body)
        self._pump.catalogue.remove(found.name)
        for layer in layers_of(found):
            self._pump.registry.forget(layer.digest)
        return document(200, b"")

    async def _copy(self, request: web.Request) -> web.StreamResponse:
        catalogue = self._pump.catalogue
        try:
            read = _read("CopyRequest", _COPY, await request.read())
            source, destination = read.text("source"), read.text("destination")
            if parse_name(source) is None:
                raise Refusal(400, f"source {go_quote(source)} is invalid")
            parsed = parse_name(destination)
            if parsed is None:
                raise Refusal(400, f"destination {go_quote(destination)} is invalid")
            found = catalogue.find(source)
            if found is None:
                raise Refusal(404, f"model {go_quote(source)} not found")
        except Refusal as refusal:
            return document(refusal.status, refusal.body)
        catalogue.put(replace(found, name=parsed.short, modified_unix_ns=self._wall_ns()))
        return document(200, b"")

    async def _create(self, request: web.Request) -> web.StreamResponse:
        try:
            read = _read("CreateRequest", _CREATE, await request.read())
            parsed = parse_name(read.text("model", "name"))
            if parsed is None:
                raise Refusal(400, "invalid model name")
        except Refusal as refusal:
            return document(refusal.status, refusal.body)
        if not read.text("from") and not read.mapping("files"):
            body = error_body("neither 'from' or 'files' was specified")
            if not read.stream:
                return document(400, body, JSON_PLAIN)
            return await _send_lines(request, 400, JSON_PLAIN, body)
        return await self._tell(request, self._creation(read, parsed.short), stream=read.stream)

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        try:
            read = _read("PullRequest", _PULL, await request.read())
            spelled = read.text("model", "name")
            parsed = parse_name(spelled)
            if parsed is None:
                raise Refusal(400, "invalid model name")
        except Refusal as refusal:
            return document(refusal.status, refusal.body)
        steps = self._pulling(spelled, insecure=read.insecure)
        return await self._tell(request, steps, stream=read.stream)

    # -- what is said of work that takes its time ------------------------------------------------

    async def _tell(
        self, request: web.Request, steps: Steps, *, stream: bool
    ) -> web.StreamResponse:
        async with aclosing(steps):
            if stream:
                return await self._tell_each(request, steps)
            last: dict[str, Json] = {}
            try:
                async for step in steps:
                    last = step
            except WorkFailed as failure:
                return document(500, error_body(str(failure)), JSON_PLAIN)
            except ConnectionLost:
                return break_off(request, End.CUT)
            return document(200, marshal(last).encode(), JSON_PLAIN)

    async def _tell_each(self, request: web.Request, steps: Steps) -> web.StreamResponse:
        chunked = request.version >= (1, 1)
        response = framed(request, 200, NDJSON)
        await response.prepare(request)
        try:
            async for step in steps:
                await response.write(frame([f"{marshal(step)}\n".encode()], chunked=chunked))
        except WorkFailed as failure:
            line = error_body(str(failure)) + b"\n"
            await response.write(frame([line], chunked=chunked))
        except ConnectionLost:
            return break_off(request, End.CUT)
        await response.write(b"0\r\n\r\n" if chunked else b"")
        await response.write_eof()
        return response

    # -- create -----------------------------------------------------------------------------------

    async def _creation(self, read: _Body, name: str) -> Steps:
        catalogue, source = self._pump.catalogue, read.text("from")
        if not source:
            yield {"status": "parsing GGUF"}
            digest = str(next(iter(read.mapping("files").values())))
            path = f"{MODELS_FOLDER}/blobs/{digest.replace(':', '-')}"
            raise WorkFailed(f"open {path}: no such file or directory")
        if catalogue.find(source) is None:
            async for step in self._pulling(source, insecure=False, ends=False):
                yield step
        parent = catalogue.find(source)
        if parent is None:
            raise WorkFailed(f"model '{source}' not found")
        made = self._variant(read, name, parent)
        for layer in layers_of(parent)[:2]:
            yield {"status": f"using existing layer sha256:{layer.digest}"}
        if made.parameters != parent.parameters or made.system != parent.system:
            yield {"status": f"creating new layer sha256:{_hash(made.digest)}"}
        yield {"status": "writing manifest"}
        catalogue.put(made)
        yield {"status": "success"}

    def _variant(self, read: _Body, name: str, parent: SimModel) -> SimModel:
        given = dict(parent.parameters)
        for key, value in read.mapping("parameters").items():
            if isinstance(value, list):
                given[key] = tuple(str(item) for item in value)
            elif isinstance(value, bool | int | float | str):
                given[key] = value
        system = read.text("system") or parent.system
        template = read.text("template") or parent.template_text
        says = f"{name} {parent.digest} {sorted(given.items())} {system} {template}"
        return replace(
            parent,
            name=name,
            digest=_hash(says),
            size_bytes=parent.size_bytes + len(read.text("system")) + len(marshal_of(read)),
            parent_model=parent.name,
            system=system,
            template_text=template,
            parameters=tuple(given.items()),
            modified_unix_ns=self._wall_ns(),
        )

    # -- pull -------------------------------------------------------------------------------------

    async def _pulling(self, spelled: str, *, insecure: bool, ends: bool = True) -> Steps:
        """The steps of a pull; `ends`: the last of them says so."""
        pump, registry = self._pump, self._pump.registry
        yield {"status": "pulling manifest"}
        card = self._manifest(spelled, insecure=insecure)
        fault = pump.faults.take(AT_PULL, card.name)
        strikes_at = None if fault is None else card.size_bytes * min(100, fault.after or 0) // 100
        pull, before = registry.new_pull(), 0
        try:
            for layer in layers_of(card):
                async for step, done in self._file(pull, layer):
                    if fault is not None and before + done >= (strikes_at or 0):
                        await self._meet(fault, layer, pull)
                    yield step
                before += layer.size_bytes
        finally:
            registry.leave(pull, pump.clock.now_ns())
        yield {"status": "verifying sha256 digest"}
        await self._sleep(int(card.size_bytes / VERIFY_BYTES_PER_S * 1e9))
        yield {"status": "writing manifest"}
        pump.catalogue.put(replace(card, modified_unix_ns=self._wall_ns()))
        for layer in layers_of(card):
            registry.forget(layer.digest)
        if ends:
            yield {"status": "success"}

    def _manifest(self, spelled: str, *, insecure: bool) -> SimModel:
        """The model in the registry; raises WorkFailed."""
        parsed = parse_name(spelled)
        assert parsed is not None, spelled
        down = self._pump.faults.take(frozenset({FaultKind.REGISTRY_DOWN}), None)
        if down is not None or parsed.host.lower() != DEFAULT_HOST:
            scheme = "http" if insecure else "https"
            path = f"/v2/{parsed.namespace}/{parsed.model}/manifests/{parsed.tag}"
            host = parsed.host if ":" in parsed.host else f"{parsed.host}:443"
            raise WorkFailed(
                f'pull model manifest: Get "{scheme}://{parsed.host}{path}": '
                f"dial tcp {host}: connect: connection refused"
            )
        card = self._pump.registry.models.find(spelled)
        if card is None:
            raise WorkFailed("pull model manifest: file does not exist")
        return card

    async def _file(
        self, pull: int, layer: Layer
    ) -> AsyncGenerator[tuple[dict[str, Json], int], None]:
        """The lines on one file, and how much of it is there with each."""
        pump, registry = self._pump, self._pump.registry
        step: dict[str, Json] = {
            "status": f"pulling {layer.digest[:12]}",
            "digest": f"sha256:{layer.digest}",
            "total": layer.size_bytes,
        }
        if self._is_there(layer):
            yield {**step, "completed": layer.size_bytes}, layer.size_bytes
            return
        registry.join(pull, layer, pump.clock.now_ns())
        while True:
            done = registry.completed_bytes(layer, pump.clock.now_ns())
            yield ({**step, "completed": done} if done else step), done
            if done >= layer.size_bytes:
                return
            await self._sleep(TICK_NS)

    def _is_there(self, layer: Layer) -> bool:
        return any(
            layer.digest == there.digest
            for model in self._pump.catalogue
            for there in layers_of(model)
        )

    async def _meet(self, fault: Fault, layer: Layer, pull: int) -> None:
        match fault.kind:
            case FaultKind.PULL_CUT:
                raise ConnectionLost
            case FaultKind.PULL_STALL:
                self._pump.registry.leave(pull, self._pump.clock.now_ns())
                await asyncio.Event().wait()  # until the client leaves
            case FaultKind.DISK_FULL:
                path = f"{MODELS_FOLDER}/blobs/sha256-{layer.digest}-partial"
                raise WorkFailed(f"write {path}: no space left on device")
            case _:
                raise WorkFailed(fault.text or DROPPED_TEXT)

    async def _sleep(self, length_ns: int) -> None:
        """Waits so much of the server's time, but never less than the loop's timers can."""
        await asyncio.sleep(max(GRAIN_S, self._pump.clock.real_seconds(length_ns)))

    def _wall_ns(self) -> int:
        return self._pump.clock.wall_ns(self._pump.clock.now_ns())


async def _send_lines(
    request: web.Request, status: int, content_type: str, body: bytes
) -> web.StreamResponse:
    """A body whose length is not said."""
    chunked = request.version >= (1, 1)
    response = framed(request, status, content_type)
    await response.prepare(request)
    await response.write(frame([body], chunked=chunked) + (b"0\r\n\r\n" if chunked else b""))
    await response.write_eof()
    return response


def marshal_of(read: _Body) -> str:
    """What `parameters` adds to the files of a model."""
    parameters = read.mapping("parameters")
    return marshal(dict(parameters)) if parameters else ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
