"""What may be done with models: they are downloaded, deleted, loaded and unloaded.

`AsyncClient` and `Client` are made of these calls, on asyncio and for plain threads. Who asks is
the client's agent; with none the broker takes it for an operator's tool.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc
from grpc import aio

from broker_client.channel import METADATA
from broker_client.errors import BrokerError
from broker_client.pb.broker.v1 import models_pb2, models_pb2_grpc

MESSAGE = TypeVar("MESSAGE")
# A load may wait for others, and a model that is to leave for what it still answers.
CHANGE_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """A download at one moment. `state`: "waiting", "pulling", "verifying", "done", "failed" or
    "cancelled"; `detail` in words. `total_bytes` 0: not known yet; `eta_s` None: not known."""

    name: str
    backend: str
    state: str
    detail: str
    completed_bytes: int
    total_bytes: int
    bytes_per_s: float
    eta_s: float | None
    listeners: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """What was deleted, or would be. `freed_at_least`: it may be more. `breaks`: models that are
    built on it, which go on working and cannot be made anew."""

    backends: tuple[str, ...]
    freed_bytes: int
    freed_at_least: bool
    breaks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Where it is, and how long its load took; 0.0: it was there already."""

    backend: str
    load_s: float


def pull_of(message: models_pb2.PullResponse) -> Pull:
    """The wire's answer, typed."""
    return Pull(
        name=message.name,
        backend=message.backend,
        state=message.state,
        detail=message.detail,
        completed_bytes=message.completed_bytes,
        total_bytes=message.total_bytes,
        bytes_per_s=message.bytes_per_s,
        eta_s=message.eta_ms / 1000 if message.HasField("eta_ms") else None,
        listeners=message.listeners,
    )


def deletion_of(message: models_pb2.DeleteResponse) -> Deletion:
    """The wire's answer, typed."""
    return Deletion(
        backends=tuple(message.backends),
        freed_bytes=message.freed_bytes,
        freed_at_least=message.freed_at_least,
        breaks=tuple(message.breaks),
    )


class AsyncModelChanges(ABC):
    """The calls on asyncio."""

    agent_id: str
    _models: models_pb2_grpc.ModelsAsyncStub

    @abstractmethod
    async def _short(self, method: Callable[..., Awaitable[MESSAGE]], request: object) -> MESSAGE:
        """One short call; BrokerError where it fails."""

    @abstractmethod
    def _typed(self, error: aio.AioRpcError) -> BrokerError:
        """The error of a status."""

    async def _long(
        self, method: Callable[..., Awaitable[MESSAGE]], request: object, timeout_s: float
    ) -> MESSAGE:
        """A call that may take its time."""
        try:
            return await method(request, timeout=timeout_s, metadata=METADATA)
        except aio.AioRpcError as error:
            raise self._typed(error) from error

    async def pull(
        self, name: str, *, backend: str = "", now: bool = False
    ) -> AsyncGenerator[Pull, None]:
        """Downloads a model, or joins the download of it that is under way, and tells how it gets
        on until it is `done`. Who leaves early does not end it: `cancel_pull` does. `now`: whatever
        the hours for downloads; operators only. PullFailed, DiskFull, PullsFull, Cancelled,
        ModelChangeDenied."""
        request = models_pb2.PullRequest(
            name=name, backend=backend, agent_id=self.agent_id, now=now
        )
        call = self._models.Pull(request, metadata=METADATA)
        try:
            async for message in call:
                yield pull_of(message)
        except aio.AioRpcError as error:
            raise self._typed(error) from error
        finally:
            call.cancel()

    async def pulls(self) -> list[Pull]:
        """The downloads that wait, run, or ended lately; the oldest first."""
        found = await self._short(self._models.ListPulls, models_pb2.ListPullsRequest())
        return [pull_of(each) for each in found.pulls]

    async def cancel_pull(self, name: str, *, backend: str = "") -> int:
        """Ends a download for all who want it; how many there were. PullNotFound."""
        request = models_pb2.CancelPullRequest(name=name, backend=backend, agent_id=self.agent_id)
        return (await self._short(self._models.CancelPull, request)).cancelled

    async def delete_model(
        self,
        name: str,
        *,
        backend: str = "",
        dry_run: bool = False,
        force: bool = False,
        timeout_s: float = CHANGE_TIMEOUT_S,
    ) -> Deletion:
        """Deletes a model from the disks of backends, or (`dry_run`) tells what that would do.
        ModelInUse where requests for it wait or run or others are built on it, unless `force`."""
        request = models_pb2.DeleteRequest(
            name=name, backend=backend, agent_id=self.agent_id, dry_run=dry_run, force=force
        )
        return deletion_of(await self._long(self._models.Delete, request, timeout_s))

    async def load_model(
        self, name: str, *, backend: str = "", timeout_s: float = CHANGE_TIMEOUT_S
    ) -> Loaded:
        """Makes a model or alias resident; returns when it is ready. Behind what waits: NoRoom or
        TimedOut where it does not come to it in time, LoadFailed, NoBackend, CircuitOpen."""
        request = models_pb2.LoadRequest(name=name, backend=backend, agent_id=self.agent_id)
        found = await self._long(self._models.Load, request, timeout_s)
        return Loaded(backend=found.backend, load_s=found.load_ms / 1000)

    async def unload_model(
        self, name: str, *, backend: str = "", timeout_s: float = CHANGE_TIMEOUT_S
    ) -> tuple[str, ...]:
        """Has a model leave memory once its running work has ended; the backends where it was.
        ModelInUse where somebody else loaded it, or where it does not come to rest."""
        request = models_pb2.UnloadRequest(name=name, backend=backend, agent_id=self.agent_id)
        return tuple((await self._long(self._models.Unload, request, timeout_s)).backends)


class ModelChanges(ABC):
    """The calls for plain threads; see `AsyncModelChanges`."""

    agent_id: str
    _models: models_pb2_grpc.ModelsStub

    @abstractmethod
    def _short(self, method: Callable[..., MESSAGE], request: object) -> MESSAGE:
        """One short call; BrokerError where it fails."""

    @abstractmethod
    def _typed(self, error: grpc.RpcError) -> BrokerError:
        """The error of a status."""

    def _long(self, method: Callable[..., MESSAGE], request: object, timeout_s: float) -> MESSAGE:
        """A call that may take its time."""
        try:
            return method(request, timeout=timeout_s, metadata=METADATA)
        except grpc.RpcError as error:
            raise self._typed(error) from error

    def pull(
        self, name: str, *, backend: str = "", now: bool = False
    ) -> Generator[Pull, None, None]:
        """Downloads a model, or joins the download of it that is under way; see
        `AsyncModelChanges.pull`."""
        request = models_pb2.PullRequest(
            name=name, backend=backend, agent_id=self.agent_id, now=now
        )
        call = self._models.Pull(request, metadata=METADATA)
        try:
            for message in call:
                yield pull_of(message)
        except grpc.RpcError as error:
            raise self._typed(error) from error
        finally:
            call.cancel()  # type: ignore[no-untyped-call]

    def pulls(self) -> list[Pull]:
        """The downloads that wait, run, or ended lately; the oldest first."""
        found = self._short(self._models.ListPulls, models_pb2.ListPullsRequest())
        return [pull_of(each) for each in found.pulls]

    def cancel_pull(self, name: str, *, backend: str = "") -> int:
        """Ends a download for all who want it; how many there were. PullNotFound."""
        request = models_pb2.CancelPullRequest(name=name, backend=backend, agent_id=self.agent_id)
        return self._short(self._models.CancelPull, request).cancelled

    def delete_model(
        self,
        name: str,
        *,
        backend: str = "",
        dry_run: bool = False,
        force: bool = False,
        timeout_s: float = CHANGE_TIMEOUT_S,
    ) -> Deletion:
        """Deletes a model from the disks of backends; see `AsyncModelChanges.delete_model`."""
        request = models_pb2.DeleteRequest(
            name=name, backend=backend, agent_id=self.agent_id, dry_run=dry_run, force=force
        )
        return deletion_of(self._long(self._models.Delete, request, timeout_s))

    def load_model(
        self, name: str, *, backend: str = "", timeout_s: float = CHANGE_TIMEOUT_S
    ) -> Loaded:
        """Makes a model or alias resident; see `AsyncModelChanges.load_model`."""
        request = models_pb2.LoadRequest(name=name, backend=backend, agent_id=self.agent_id)
        found = self._long(self._models.Load, request, timeout_s)
        return Loaded(backend=found.backend, load_s=found.load_ms / 1000)

    def unload_model(
        self, name: str, *, backend: str = "", timeout_s: float = CHANGE_TIMEOUT_S
    ) -> tuple[str, ...]:
        """Has a model leave memory; see `AsyncModelChanges.unload_model`."""
        request = models_pb2.UnloadRequest(name=name, backend=backend, agent_id=self.agent_id)
        return tuple(self._long(self._models.Unload, request, timeout_s).backends)
