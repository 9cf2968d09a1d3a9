"""Choosing models: by what they must be, by an alias, and why one was chosen.

`AsyncClient` and `Client` are made of these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Literal, TypedDict, TypeVar, Unpack

from broker_client.catalogue import Model
from broker_client.model_lists import Wanted
from broker_client.pb.broker.v1 import models_pb2, models_pb2_grpc

MESSAGE = TypeVar("MESSAGE")

Preference = Literal["fast", "small", "large"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a model must be; all that is set must hold, and what the request itself calls for
    (tools, images, vectors) counts anyhow.

    `capabilities`: "completion", "embedding", "tools", "thinking", "vision", "insert", "audio".
    `context_min` in tokens; `size_bytes_max` on disk, `memory_bytes_max` while loaded; 0: any.
    `prefer` which of those that fit: "fast" (the soonest answer; the default), "small", "large".
    """

    capabilities: Collection[str] = ()
    context_min: int = 0
    size_bytes_max: int = 0
    memory_bytes_max: int = 0
    prefer: Preference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedModel:
    """A model that was not chosen, and why, in words."""

    name: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The model that would answer now, and why; what would in its place, the best first; and what
    was not chosen, the nearest first."""

    model: str
    because: str
    alternatives: tuple[str, ...]
    rejected: tuple[RejectedModel, ...]


class Available(TypedDict, total=False):
    """Which models may be used: see `available`."""

    exclude_guards: bool
    include_dynamic: bool
    capabilities: Collection[str]
    max_memory: int
    level: str


def requirements_message(wanted: Requirements | None) -> models_pb2.ModelRequirements | None:
    """As the wire has it; None where nothing is required."""
    if wanted is None:
        return None
    if isinstance(wanted.capabilities, str):
        raise TypeError("capabilities is a collection of words, not one word")
    return models_pb2.ModelRequirements(
        capabilities=sorted(wanted.capabilities),
        context_min=wanted.context_min,
        size_bytes_max=wanted.size_bytes_max,
        memory_bytes_max=wanted.memory_bytes_max,
        prefer=wanted.prefer or "",
    )


def resolve_request(name: str, wanted: Requirements | None) -> models_pb2.ResolveRequest:
    """The message that asks which model would answer."""
    return models_pb2.ResolveRequest(model=name, requirements=requirements_message(wanted))


def resolution_of(message: models_pb2.ResolveResponse) -> Resolution:
    """The wire's answer, typed."""
    return Resolution(
        model=message.model,
        because=message.because,
        alternatives=tuple(message.alternatives),
        rejected=tuple(
            RejectedModel(name=each.name, because=each.because) for each in message.rejected
        ),
    )


def wanted_of(available: Available) -> Wanted:
    """The same in the words of a list."""
    return Wanted(
        exclude_guards=available.get("exclude_guards", True),
        exclude_dynamic=not available.get("include_dynamic", True),
        capabilities=available.get("capabilities", ()),
        memory_bytes_max=available.get("max_memory", 0),
        level=available.get("level", ""),
    )


class AsyncModelChoices(ABC):
    """The calls that choose models, on asyncio."""

    _models: models_pb2_grpc.ModelsAsyncStub

    @abstractmethod
    async def _short(self, method: Callable[..., Awaitable[MESSAGE]], request: object) -> MESSAGE:
        """One short call; BrokerError where it fails."""

    @abstractmethod
    async def models(self, **wanted: Unpack[Wanted]) -> list[Model]:
        """Models that are wanted."""

    async def resolve(
        self, name: str = "", *, requirements: Requirements | None = None
    ) -> Resolution:
        """Which model would answer a request for this model or alias, or with these requirements,
        and why. NoModelFits, CapabilityMissing, ModelUnknown: what such a request would get."""
        request = resolve_request(name, requirements)
        return resolution_of(await self._short(self._models.Resolve, request))

    async def available(self, **wanted: Unpack[Available]) -> list[Model]:
        """The models that may be used. `exclude_guards` (by default True): not those that judge
        texts. `include_dynamic` (True): also those that the broker's configuration does not name.
        `max_memory`: bytes while loaded. `level`: only what answers at "normal", "1", "2" or
        "critical"."""
        return await self.models(**wanted_of(wanted))


class ModelChoices(ABC):
    """The calls that choose models, for plain threads; see `AsyncModelChoices`."""

    _models: models_pb2_grpc.ModelsStub

    @abstractmethod
    def _short(self, method: Callable[..., MESSAGE], request: object) -> MESSAGE:
        """One short call; BrokerError where it fails."""

    @abstractmethod
    def models(self, **wanted: Unpack[Wanted]) -> list[Model]:
        """Models that are wanted."""

    def resolve(self, name: str = "", *, requirements: Requirements | None = None) -> Resolution:
        """Which model would answer a request for this model or alias, or with these requirements,
        and why. NoModelFits, CapabilityMissing, ModelUnknown: what such a request would get."""
        return resolution_of(self._short(self._models.Resolve, resolve_request(name, requirements)))

    def available(self, **wanted: Unpack[Available]) -> list[Model]:
        """The models that may be used; see `AsyncModelChoices.available`."""
        return self.models(**wanted_of(wanted))
