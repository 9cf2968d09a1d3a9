"""Which models there are, asked for and watched: the clients' calls that list them.

`AsyncClient` and `Client` are made of these; what comes back is in `catalogue`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator
from dataclasses import replace
from typing import Any, Final, TypedDict, TypeVar, Unpack

import grpc
from grpc import aio

from broker_client.catalogue import (
    PAGE_SIZE,
    PAGES_MAX,
    Model,
    ModelList,
    model_list_of,
    model_of,
    watched_of,
)
from broker_client.channel import METADATA
from broker_client.errors import BrokerError
from broker_client.pb.broker.v1 import common_pb2, models_pb2, models_pb2_grpc

MESSAGE = TypeVar("MESSAGE")
# Watched are the first models of a list; of all that are meant `total` tells.
WATCHED_MODELS: Final = 100


class Wanted(TypedDict, total=False):
    """Which models, and in which order. All that is given must hold.

    `search`: words that the name, family or description must contain. `availability`:
    "downloaded" (the default), "downloadable" or "all". `capabilities`: "completion", "embedding",
    "tools", "thinking", "vision", "insert", "audio". `size_bytes_max` on disk, `memory_bytes_max`
    while loaded, `context_min` in tokens; 0: any. `fits` into the memory of a backend, as far as is
    known. `exclude_guards`: not what judges texts. `exclude_dynamic`: only what the broker's
    configuration names. `level`: only what answers at "normal", "1", "2" or "critical".
    `resident`: only what is in memory now. `order`: "name", "size" or "use".
    """

    search: str
    availability: str
    capabilities: Collection[str]
    size_bytes_max: int
    memory_bytes_max: int
    fits: bool
    context_min: int
    exclude_guards: bool
    exclude_dynamic: bool
    level: str
    resident: bool
    order: str


def wanted_message(
    wanted: Wanted,
) -> tuple[models_pb2.ModelFilter, models_pb2.ModelOrder.ValueType]:
    """The filter and the order as messages. ValueError names a word that there is none of."""
    fields: dict[str, Any] = {**wanted}
    order = _number(models_pb2.ModelOrder, "MODEL_ORDER", fields.pop("order", "name"), "order")
    availability = fields.pop("availability", "downloaded")
    level = fields.pop("level", "")
    found = models_pb2.ModelFilter(**fields)
    found.availability = _number(
        models_pb2.Availability, "AVAILABILITY", availability, "availability"
    )
    if level:
        found.level = _number(common_pb2.DegradationLevel, "DEGRADATION_LEVEL", level, "level")
    return found, order


def _number(enum: Any, prefix: str, word: str, name: str) -> Any:
    try:
        return enum.Value(f"{prefix}_{word.upper()}")
    except ValueError:
        known = [each.removeprefix(f"{prefix}_").lower() for each in enum.keys()]  # noqa: SIM118
        words = ", ".join(each for each in known if each != "unspecified")
        raise ValueError(f"{name} is {word!r}; one of {words}") from None


class _Pages:
    """Puts pages together, up to a number of models."""

    def __init__(self, wanted: Wanted, models_max: int) -> None:
        self._filter, self._order = wanted_message(wanted)
        self._left = models_max
        self._pages_left = PAGES_MAX
        self._token = ""
        self._found: list[Model] = []
        self._first: ModelList | None = None

    def request(self) -> models_pb2.ListRequest | None:
        """The next one; None where there is enough."""
        is_begun = self._first is not None
        if self._left <= 0 or not self._pages_left or (is_begun and not self._token):
            return None
        self._pages_left -= 1
        return models_pb2.ListRequest(
            page_size=min(PAGE_SIZE, self._left),
            page_token=self._token,
            filter=self._filter,
            order=self._order,
        )

    def take(self, message: models_pb2.ListResponse) -> None:
        page = model_list_of(message)
        self._first = self._first or page
        self._found.extend(page.models)
        self._left -= len(page.models)
        self._token = message.next_page_token

    def list(self) -> ModelList:
        """All of it, with what the first page says of the whole."""
        if self._first is None:
            raise ValueError("models_max must be at least 1")
        return replace(self._first, models=tuple(self._found))


def watch_request(wanted: Wanted, page_size: int) -> models_pb2.WatchRequest:
    """The message that asks for a watch."""
    asked, order = wanted_message(wanted)
    return models_pb2.WatchRequest(page_size=page_size, filter=asked, order=order)


class AsyncModelLists(ABC):
    """The calls that list models, on asyncio."""

    _models: models_pb2_grpc.ModelsAsyncStub

    @abstractmethod
    async def _short(self, method: Callable[..., Awaitable[MESSAGE]], request: object) -> MESSAGE:
        """One short call; BrokerError where it fails."""

    @abstractmethod
    def _typed(self, error: aio.AioRpcError) -> BrokerError:
        """The error of a status."""

    async def models(self, **wanted: Unpack[Wanted]) -> list[Model]:
        """All models of all backends, by name; with arguments those that are wanted."""
        return [*(await self.model_list(**wanted)).models]

    async def model_list(
        self, *, models_max: int = PAGE_SIZE * PAGES_MAX, **wanted: Unpack[Wanted]
    ) -> ModelList:
        """At most so many of the models that are wanted, with how many there are in all, where what
        is known comes from, and how old that is."""
        pages = _Pages(wanted, models_max)
        while (request := pages.request()) is not None:  # at most PAGES_MAX times
            pages.take(await self._short(self._models.List, request))
        return pages.list()

    async def watch_models(
        self, *, page_size: int = WATCHED_MODELS, **wanted: Unpack[Wanted]
    ) -> AsyncGenerator[ModelList, None]:
        """The first models that are wanted, at once and again after every change, until the
        iterator is left. Draining where the broker stops; nothing is tried again."""
        request = watch_request(wanted, page_size)
        call = self._models.Watch(request, metadata=METADATA)
        try:
            async for message in call:
                yield watched_of(message)
        except aio.AioRpcError as error:
            raise self._typed(error) from error
        finally:
            call.cancel()

    async def model(self, name: str) -> Model:
        """One model; ModelUnknown with the nearest names where there is none."""
        found = await self._short(self._models.Get, models_pb2.GetRequest(name=name))
        return model_of(found.model)


class ModelLists(ABC):
    """The calls that list models, for plain threads; see `AsyncModelLists`."""

    _models: models_pb2_grpc.ModelsStub

    @abstractmethod
    def _short(self, method: Callable[..., MESSAGE], request: object) -> MESSAGE:
        """One short call; BrokerError where it fails."""

    @abstractmethod
    def _typed(self, error: grpc.RpcError) -> BrokerError:
        """The error of a status."""

    def models(self, **wanted: Unpack[Wanted]) -> list[Model]:
        """All models of all backends, by name; with arguments those that are wanted."""
        return [*self.model_list(**wanted).models]

    def model_list(
        self, *, models_max: int = PAGE_SIZE * PAGES_MAX, **wanted: Unpack[Wanted]
    ) -> ModelList:
        """At most so many of the models that are wanted, with how many there are in all, where what
        is known comes from, and how old that is."""
        pages = _Pages(wanted, models_max)
        while (request := pages.request()) is not None:  # at most PAGES_MAX times
            pages.take(self._short(self._models.List, request))
        return pages.list()

    def watch_models(
        self, *, page_size: int = WATCHED_MODELS, **wanted: Unpack[Wanted]
    ) -> Generator[ModelList, None, None]:
        """The first models that are wanted, at once and again after every change, until the
        iterator is left. Draining where the broker stops; nothing is tried again."""
        request = watch_request(wanted, page_size)
        call = self._models.Watch(request, metadata=METADATA)
        try:
            for message in call:
                yield watched_of(message)
        except grpc.RpcError as error:
            raise self._typed(error) from error
        finally:
            call.cancel()  # type: ignore[no-untyped-call]

    def model(self, name: str) -> Model:
        """One model; ModelUnknown with the nearest names where there is none."""
        return model_of(self._short(self._models.Get, models_pb2.GetRequest(name=name)).model)
