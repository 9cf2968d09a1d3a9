"""The backend that speaks OpenAI's dialect: vLLM, llama-server, LM Studio and their like.

Rules: such a server keeps its models: what it lists is there, nothing is loaded, renewed or
unloaded. A context cannot be asked for, so num_ctx is passed over. Inference waits as long as it
takes, cancelled by whoever waits; control calls have the time-outs below. The key for its API is
sent and shown nowhere. docs/adr/0018-openai-compatible.md says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import aiohttp

from broker.backends import openai_bodies, openai_inventory
from broker.backends.api_key import ApiKey
from broker.backends.connections import TransportLimits
from broker.backends.http_transport import HttpTransport
from broker.backends.ollama_host import parse_host
from broker.backends.openai_errors import EMBEDDINGS, HEALTH, MODELS, VERSION, error_of_status
from broker.backends.openai_wire import OpenAiAnswerReader
from broker.core.content import Completion, EmbedContent, Embeddings, GenerateContent, Piece
from broker.core.errors import BackendFailed, BackendRefused, BrokerError, ModelUnknown
from broker.core.model_name import comparison_key
from broker.core.ports import ModelFacts, PullProgress, Resident

# Below what uvicorn waits, which serves vLLM and many others: 5 s. Who closes first loses no call.
IDLE_CONNECTION_S: Final = 4.0
# Beside the time for the connection: who takes none must not look like one that says nothing.
HEALTH_TIMEOUT_S: Final = 5.0
MODELS_TIMEOUT_S: Final = 10.0

# A path that is not there; 405 where something else is, 501 where somebody means to put it there.
_ABSENT: Final = frozenset({404, 405, 501})
_API: Final = "/v1"
# What serves many Python programs says nothing of the program.
_SAYS_NOTHING: Final = frozenset({"uvicorn"})


class OpenAiBackend:
    """One server of the dialect, as `core.ports.Backend` describes.

    `host` is read as OLLAMA_HOST is, with or without the `/v1` that its makers like to write;
    raises ValueError where it names no address. `api_key_env` names where `api_key` came from, for
    people. Connections are opened by the first call, on the loop that runs it.
    """

    def __init__(
        self,
        *,
        name: str,
        host: str,
        api_key: str = "",
        api_key_env: str = "",
        limits: TransportLimits | None = None,
    ) -> None:
        self._name = name
        self._url = parse_host(host).client_url.removesuffix(_API)
        self._key = ApiKey(api_key)
        self._key_env = api_key_env
        limits = limits or TransportLimits()
        self._health_timeout_s = limits.connect_timeout_s + HEALTH_TIMEOUT_S
        idle_s = min(limits.idle_connection_s, IDLE_CONNECTION_S)
        self._transport = HttpTransport(
            self._url,
            replace(limits, idle_connection_s=idle_s),
            self._error_of_status,
            self._key.headers,
        )
        self._ids: dict[str, str] = {}  # by comparison key, as last listed
        self._version: str | None = None  # None: not asked since it last failed
        self._proof = HEALTH  # the cheapest path that proves that it can serve

    @property
    def name(self) -> str:
        return self._name

    @property
    def kind(self) -> str:
        return "openai"

    @property
    def url(self) -> str:
        return self._url

    @property
    def keeps_models(self) -> bool:
        return True

    async def version(self) -> str:
        """vLLM's version, else the server's name for itself, else "".

        Asks each time whether the server can serve: /health says no while llama-server loads its
        model and after vLLM's engine has died, where the list of models would go on saying yes.
        """
        try:
            server = await self._prove()
            if self._version is None:
                self._version = await self._ask_version() or server
        except BrokerError:
            self._version, self._proof = None, HEALTH  # it may come back as another server
            raise
        return self._version

    async def models(self) -> tuple[ModelFacts, ...]:
        """Everything that it lists; what a model can do is not told."""
        return tuple(openai_inventory.facts(each) for each in await self._listed())

    async def residents(self) -> tuple[Resident, ...]:
        """The same models: what is listed can be used at once."""
        return tuple(openai_inventory.resident(each) for each in await self._listed())

    async def generate(
        self,
        model: str,
        content: GenerateContent,
        *,
        num_ctx: int | None,
        on_pieces: Callable[[Sequence[Piece]], None],
    ) -> Completion:
        """Streams one generation, in the context that the server gave the model."""
        path, body = openai_bodies.generation_body(self._id(model), content)
        reader = OpenAiAnswerReader()

        async def read(response: aiohttp.ClientResponse) -> None:
            readany = response.content.readany
            while not reader.is_over:
                try:
                    data = await readany()
                except (aiohttp.ClientError, OSError):
                    if not reader.has_finished:
                        raise
                    data = b""  # only the farewell is missing
                pieces = reader.feed(data) if data else reader.end()
                if pieces:
                    on_pieces(pieces)
            if reader.failure is not None and reader.is_garbled:
                raise reader.failure  # here and not below: nothing more can be read

        with self._key.kept():
            await self._transport.converse(path, body, model, read)
            if reader.completion is None:
                assert reader.failure is not None, "a reader that is over has one of the two"
                raise reader.failure
        return reader.completion

    async def embed(self, model: str, content: EmbedContent, *, num_ctx: int | None) -> Embeddings:
        """One vector per input. One input that fails fails them all."""
        body = openai_bodies.embed_body(self._id(model), content)
        with self._key.kept():
            answer = await self._transport.ask(EMBEDDINGS, body, model=model)
        return openai_inventory.embeddings(answer, len(content.inputs))

    async def load(self, model: str, *, num_ctx: int | None, keep_alive_s: int) -> None:
        """Nothing is to be done for a model that is listed; ModelUnknown for any other."""
        if comparison_key(model) not in self._ids:
            await self._listed()
        if comparison_key(model) not in self._ids:
            raise ModelUnknown(model, ())

    async def unload(self, model: str) -> None:
        """Cannot be asked for in this dialect."""
        raise BackendRefused(
            f"{self._name} keeps its models: {model} cannot be unloaded through its API", status=405
        )

    async def pull(self, model: str, on_progress: Callable[[PullProgress], None]) -> None:
        """Cannot be asked for in this dialect."""
        raise BackendRefused(
            f"{self._name} keeps its models: {model} cannot be downloaded through its API",
            status=405,
        )

    async def delete(self, model: str) -> None:
        """Cannot be asked for in this dialect."""
        raise BackendRefused(
            f"{self._name} keeps its models: {model} cannot be deleted through its API", status=405
        )

    async def close(self) -> None:
        """Drops all connections; calls that still run fail."""
        await self._transport.close()

    def _id(self, model: str) -> str:
        """The name as the server spells it: it is taken to the letter there."""
        return self._ids.get(comparison_key(model), model)

    async def _listed(self) -> tuple[openai_inventory.ListedModel, ...]:
        with self._key.kept():
            body = await self._transport.ask(MODELS, None, timeout_s=MODELS_TIMEOUT_S)
        listed = openai_inventory.listed_models(body)
        self._ids = {comparison_key(each.id): each.id for each in listed}
        return listed

    async def _prove(self) -> str:
        """Returns once the server has said that it is well; gives its name for itself."""
        if self._proof == HEALTH:
            try:
                return await self._ask_server(HEALTH)
            except BackendFailed as error:
                if error.status not in _ABSENT:
                    raise
            self._proof = MODELS
        return await self._ask_server(MODELS)

    async def _ask_server(self, path: str) -> str:
        """The Server header of a 200."""
        said: list[str] = []

        def look(response: aiohttp.ClientResponse) -> None:
            said.append(response.headers.get("Server", ""))

        with self._key.kept():
            await self._transport.ask(path, None, timeout_s=self._health_timeout_s, look=look)
        name = self._key.struck_out(said[0])
        return "" if name.lower() in _SAYS_NOTHING else name

    async def _ask_version(self) -> str:
        try:
            with self._key.kept():
                body = await self._transport.ask(VERSION, None, timeout_s=self._health_timeout_s)
        except BackendFailed as error:
            if error.status not in _ABSENT:
                raise
            return ""
        return self._key.struck_out(openai_inventory.version(body))

    def _error_of_status(self, path: str, model: str, status: int, body: bytes) -> BrokerError:
        return error_of_status(self._key_env, path, model, status, self._key.struck_from(body))
