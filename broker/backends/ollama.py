"""The backend that speaks to an Ollama server.

Rules: rewrites nothing but what reference/OLLAMA.md §8 asks for: num_ctx is pinned where the caller
says so, keep_alive goes with the broker's own loads only, `context` is not passed on. Loads and
inference wait as long as it takes, cancelled by whoever waits; control calls have the time-outs
below. What is cached is what a digest determines: its facts never change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import aiohttp
import structlog

from broker.backends import ollama_bodies, ollama_inventory
from broker.backends.connections import TransportLimits
from broker.backends.http_transport import HttpTransport
from broker.backends.ollama_errors import (
    CHAT,
    DELETE,
    EMBED,
    GENERATE,
    PS,
    PULL,
    SHOW,
    TAGS,
    VERSION,
    error_of_status,
)
from broker.backends.ollama_host import parse_host
from broker.backends.ollama_pulls import PullReader, error_of_pull
from broker.backends.ollama_wire import AnswerReader
from broker.core.content import Completion, EmbedContent, Embeddings, GenerateContent, Piece
from broker.core.errors import BackendFailed, BackendRefused, BrokerError
from broker.core.model_name import comparison_key
from broker.core.ports import ModelFacts, PullProgress, Resident

# Beside the time for the connection: who takes none must not look like one that says nothing.
VERSION_TIMEOUT_S: Final = 5.0
# After a start the first one waits until the server has read all its manifests.
TAGS_TIMEOUT_S: Final = 30.0
SHOW_TIMEOUT_S: Final = 30.0
# A frozen runner holds either up for as long as two health checks of 10 s (OLLAMA.md §3.7).
RESIDENTS_TIMEOUT_S: Final = 25.0
UNLOAD_TIMEOUT_S: Final = 25.0
# Large files of a slow disk are unlinked before it answers.
DELETE_TIMEOUT_S: Final = 60.0

SHOWS_AT_ONCE: Final = 4
# Digests beyond these are asked for again at each listing: slower, never wrong.
SHOWN_MAX: Final = 4096

_NO_GENERATION: Final = "does not support generate"

_log = structlog.get_logger(__name__)


class OllamaBackend:
    """One Ollama server, as `core.ports.Backend` describes.

    `host` is read as OLLAMA_HOST is; raises ValueError where it names no address. Connections are
    opened by the first call, on the loop that runs it.
    """

    def __init__(self, *, name: str, host: str = "", limits: TransportLimits | None = None) -> None:
        self._name = name
        self._url = parse_host(host).client_url
        limits = limits or TransportLimits()
        self._transport = HttpTransport(self._url, limits, error_of_status)
        self._version_timeout_s = limits.connect_timeout_s + VERSION_TIMEOUT_S
        self._shown: dict[str, ollama_inventory.Shown] = {}
        self._not_shown: frozenset[str] = frozenset()  # digests whose show failed the last time
        self._capabilities: dict[str, frozenset[str]] = {}  # by comparison key, as last listed

    @property
    def name(self) -> str:
        return self._name

    @property
    def kind(self) -> str:
        return "ollama"

    @property
    def url(self) -> str:
        return self._url

    @property
    def keeps_models(self) -> bool:
        return False

    async def version(self) -> str:
        """What /api/version says; development builds all say 0.0.0."""
        body = await self._transport.ask(VERSION, None, timeout_s=self._version_timeout_s)
        return ollama_inventory.version(body)

    async def models(self) -> tuple[ModelFacts, ...]:
        """Everything on disk but the stubs of remote models, newest first.

        A model whose /api/show fails is listed with what /api/tags tells of it, and asked for
        again the next time.
        """
        body = await self._transport.ask(TAGS, None, timeout_s=TAGS_TIMEOUT_S)
        listed = ollama_inventory.listed_models(body)
        name_of_digest = {model.digest: model.name for model in listed}
        shown = {digest: self._shown[digest] for digest in name_of_digest if digest in self._shown}
        shown |= await self._show_all(
            {digest: name for digest, name in name_of_digest.items() if digest not in shown}
        )
        self._shown = dict(list(shown.items())[:SHOWN_MAX])
        facts = tuple(ollama_inventory.facts(model, shown.get(model.digest)) for model in listed)
        self._capabilities = {comparison_key(model.name): model.capabilities for model in facts}
        return facts

    async def residents(self) -> tuple[Resident, ...]:
        """What /api/ps lists. A model that is being loaded is not among them."""
        body = await self._transport.ask(PS, None, timeout_s=RESIDENTS_TIMEOUT_S)
        return ollama_inventory.residents(body)

    async def generate(
        self,
        model: str,
        content: GenerateContent,
        *,
        num_ctx: int | None,
        on_pieces: Callable[[Sequence[Piece]], None],
    ) -> Completion:
        """Streams one generation; an empty prompt would load instead, so callers refuse it."""
        path, body = ollama_bodies.generation_body(model, content, num_ctx)
        reader = AnswerReader(chat=path == CHAT)

        async def read(response: aiohttp.ClientResponse) -> None:
            readany = response.content.readany
            while not reader.is_over:
                data = await readany()
                pieces = reader.feed(data) if data else reader.end()
                if pieces:
                    on_pieces(pieces)
            if reader.failure is not None and reader.is_garbled:
                raise reader.failure  # here and not below: nothing more can be read

        await self._transport.converse(path, body, model, read)
        if reader.completion is None:
            assert reader.failure is not None, "a reader that is over has one of the two"
            raise reader.failure
        return reader.completion

    async def embed(self, model: str, content: EmbedContent, *, num_ctx: int | None) -> Embeddings:
        """One vector per input. One input that fails fails them all."""
        body = ollama_bodies.embed_body(model, content, num_ctx)
        answer = await self._transport.ask(EMBED, body, model=model)
        return ollama_inventory.embeddings(answer, len(content.inputs))

    async def load(self, model: str, *, num_ctx: int | None, keep_alive_s: int) -> None:
        """Makes the model resident; a negative `keep_alive_s` means for ever.

        Raises ValueError for 0, which would unload it. Cancelling this ends the load.
        """
        if keep_alive_s == 0:
            raise ValueError("keep_alive_s 0 unloads a model instead of loading it")
        if not self._only_embeds(model):
            try:
                body = ollama_bodies.load_body(model, num_ctx, keep_alive_s)
                answer = await self._transport.ask(GENERATE, body, model=model)
            except BackendRefused as refusal:
                if _NO_GENERATION not in refusal.message:
                    raise
            else:
                ollama_inventory.check_loaded(answer)
                return
        body = ollama_bodies.embed_load_body(model, num_ctx, keep_alive_s)
        answer = await self._transport.ask(EMBED, body, model=model)
        ollama_inventory.embeddings(answer, 0)

    async def unload(self, model: str) -> None:
        """Asks the model to leave once it is idle; ModelUnknown when its name is gone.

        /api/generate unloads every kind of model: it does so before it looks at what the model
        can do (OLLAMA.md §1.5). Where a server checks first, an embedding call without input and
        without time to stay does the same.
        """
        body = ollama_bodies.load_body(model, None, 0)
        try:
            answer = await self._transport.ask(
                GENERATE, body, model=model, timeout_s=UNLOAD_TIMEOUT_S
            )
        except BackendRefused as refusal:
            if _NO_GENERATION not in refusal.message:
                raise
        else:
            ollama_inventory.check_loaded(answer)
            return
        body = ollama_bodies.embed_load_body(model, None, 0)
        answer = await self._transport.ask(EMBED, body, model=model, timeout_s=UNLOAD_TIMEOUT_S)
        ollama_inventory.embeddings(answer, 0)

    async def pull(self, model: str, on_progress: Callable[[PullProgress], None]) -> None:
        """Downloads the model. Ollama shares one download of a layer among all who want it, and
        keeps what has come of one that was left."""
        reader = PullReader(model, on_progress)

        async def read(response: aiohttp.ClientResponse) -> None:
            while data := await response.content.readany():
                reader.feed(data)
            reader.end()

        try:
            await self._transport.converse(PULL, ollama_bodies.pull_body(model), model, read)
        except BackendFailed as failure:
            if failure.status is None:
                raise
            raise error_of_pull(model, failure.message) from failure

    async def delete(self, model: str) -> None:
        """Deletes the name; ModelUnknown where there is none."""
        body = ollama_bodies.show_body(model)
        await self._transport.ask(
            DELETE, body, model=model, timeout_s=DELETE_TIMEOUT_S, method="DELETE"
        )

    async def close(self) -> None:
        """Drops all connections; calls that still run fail."""
        await self._transport.close()

    async def _show_all(self, name_of_digest: dict[str, str]) -> dict[str, ollama_inventory.Shown]:
        """Asks for each, a few at once; those that fail are left out and logged the first time."""
        gate = asyncio.Semaphore(SHOWS_AT_ONCE)
        shown: dict[str, ollama_inventory.Shown] = {}
        failed: dict[str, BrokerError] = {}

        async def show(digest: str, name: str) -> None:
            async with gate:
                body = ollama_bodies.show_body(name)
                try:
                    answer = await self._transport.ask(
                        SHOW, body, model=name, timeout_s=SHOW_TIMEOUT_S
                    )
                    shown[digest] = ollama_inventory.shown(answer)
                except BrokerError as error:
                    failed[digest] = error

        async with asyncio.TaskGroup() as tasks:
            for digest, name in name_of_digest.items():
                tasks.create_task(show(digest, name))
        for digest, error in failed.items():
            if digest not in self._not_shown:
                _log.warning(
                    "a model does not show what it is",
                    backend=self._name,
                    model=name_of_digest[digest],
                    reason=error.message,
                )
        self._not_shown = frozenset(failed)
        return shown

    def _only_embeds(self, model: str) -> bool:
        """Whether the last listing proves it; False when nothing is known."""
        known: Iterable[str] = self._capabilities.get(comparison_key(model), ())
        return (
            ollama_inventory.CAPABILITY_EMBEDDING in known
            and ollama_inventory.CAPABILITY_COMPLETION not in known
        )
