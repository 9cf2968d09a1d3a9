"""What operators and agents change of models: they are downloaded, deleted, loaded and unloaded.

Nothing goes round the engine: what is deleted is unloaded by it first, as a server that lost a name
can no longer be told to unload it (OLLAMA.md §1.7), and what is loaded obeys all that requests
obey.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import structlog

from broker.core.errors import BackendNotFound, BrokerError, ModelInUse, ModelUnknown
from broker.core.model_name import canonical, comparison_key, nearest
from broker.core.ports import Backend, ModelFacts
from broker.models.catalog import Catalog
from broker.models.dependencies import consequences
from broker.models.pull import PullView
from broker.runtime.clock import Clock
from broker.runtime.inquiries import Inquiries
from broker.runtime.wish_desk import WishDesk, Wished
from broker.services.model_access import ModelAccess, ModelChange
from broker.services.pulls import PullService

_log = structlog.get_logger(__name__)

# How long a model that is to be deleted may take to come to rest and to leave memory, and how long
# after that nobody has it loaded again.
LEAVE_TIMEOUT_NS: Final = 120_000_000_000
HOLD_NS: Final = 30_000_000_000
# How long the answer to a delete waits for the list of models without it.
LISTED_TIMEOUT_NS: Final = 5_000_000_000
LISTED_POLL_NS: Final = 20_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """`is_bound`: so many bytes are freed at least."""

    backends: tuple[str, ...]
    freed_bytes: int
    is_bound: bool
    breaks: tuple[str, ...]


class ModelChangesService:
    """See the module. `resolve` says which model a name or alias means."""

    def __init__(
        self,
        driver: Inquiries,
        desk: WishDesk,
        backends: Mapping[str, Backend],
        catalog: Catalog,
        pulls: PullService,
        access: ModelAccess,
        list_again: Callable[[str], None],
        resolve: Callable[[str], str],
        clock: Clock,
    ) -> None:
        self._driver = driver
        self._desk = desk
        self._backends = backends
        self._catalog = catalog
        self._pulls = pulls
        self._access = access
        self._list_again = list_again
        self._resolve = resolve
        self._clock = clock

    # Downloads

    async def pull(
        self, name: str, backend: str, agent_id: str, *, is_urgent: bool
    ) -> AsyncGenerator[PullView, None]:
        """Downloads it, or joins the download that is under way; how it gets on, to its end."""
        self._access.check(ModelChange.PULL, agent_id)
        if is_urgent:
            self._access.check_operator("download outside of the hours", agent_id)
        self._check_backend(backend)
        spelled = canonical(name) or name
        pull = await self._pulls.ask(spelled, backend, agent_id, is_urgent=is_urgent)
        async with aclosing(self._pulls.listen(pull)) as views:
            async for view in views:
                yield view

    def pulls(self) -> list[PullView]:
        """Those that wait, run, or ended lately; the oldest first."""
        return self._pulls.views()

    async def cancel_pull(self, name: str, backend: str, agent_id: str) -> int:
        """Ends a download for all; how many there were. PullNotFound."""
        self._access.check(ModelChange.PULL, agent_id)
        who = f"agent {agent_id}" if agent_id else "an operator"
        return await self._pulls.cancel(name, backend, who)

    # Deleting

    async def delete(
        self, name: str, backend: str, agent_id: str, *, dry_run: bool, force: bool
    ) -> Deletion:
        """Deletes it from these disks. ModelUnknown; ModelInUse unless it is forced."""
        self._access.check(ModelChange.DELETE, agent_id)
        self._check_backend(backend)
        places = await self._places(name, backend)
        found = consequences(places, name)
        deletion = Deletion(
            backends=tuple(places),
            freed_bytes=found.freed_bytes,
            is_bound=found.is_bound,
            breaks=found.breaks,
        )
        if dry_run:
            return deletion
        if not force:
            self._check_unused(name, tuple(places), found.breaks)
        for place in places:
            await self._delete_from(place, name, force=force)
        await self._wait_listed(name, places)
        _log.info(
            "model deleted", model=name, backends=deletion.backends, freed=deletion.freed_bytes
        )
        return deletion

    async def _places(self, name: str, backend: str) -> dict[str, tuple[ModelFacts, ...]]:
        """All that those backends have which have this model. ModelUnknown where none has. They are
        asked: what a delete frees and breaks hangs on names that may have come a moment ago."""
        key = comparison_key(name)
        asked = [backend] if backend else list(self._backends)
        meant = dict(
            zip(asked, await asyncio.gather(*(self._has(each) for each in asked)), strict=True)
        )
        places = {
            of: facts
            for of, facts in meant.items()
            if any(comparison_key(each.name) == key for each in facts)
        }
        if not places:
            names = [each.name for facts in meant.values() for each in facts]
            raise ModelUnknown(name, nearest(name, names), backend)
        return places

    async def _has(self, backend: str) -> tuple[ModelFacts, ...]:
        """What is on its disk; as it was last known where it does not answer."""
        try:
            return await self._backends[backend].models()
        except BrokerError:
            return tuple(self._catalog.on_disk().get(backend, ()))

    def _check_unused(self, name: str, places: tuple[str, ...], breaks: tuple[str, ...]) -> None:
        problems = []
        waiting, running = self._driver.work_on(name, places)
        if waiting or running:
            problems.append(f"{waiting} requests wait for it and {running} run")
        if breaks:
            problems.append(f"models are built on it: {', '.join(breaks)}")
        if any(self._pulls.is_pulling(name, place) for place in places):
            problems.append("it is being downloaded")
        if problems:
            raise ModelInUse(f"{name} is in use ({'; '.join(problems)}); force deletes it anyhow")

    async def _delete_from(self, backend: str, name: str, *, force: bool) -> None:
        """Has it leave memory first. One that does not is deleted only by force: then it stays in
        memory until its time there is over."""
        left: Wished | None = None
        try:
            left = await self._desk.unload(name, backend, LEAVE_TIMEOUT_NS, HOLD_NS)
        except BrokerError as error:
            if not force:
                raise
            _log.warning(
                "a model is deleted that is still loaded",
                model=name,
                backend=backend,
                why=error.message,
            )
        try:
            await self._backends[backend].delete(self._spelled(name, backend))
        except ModelUnknown:
            pass  # somebody else was faster
        finally:
            if left is not None:
                self._desk.let_go(left)  # another name of it may be wanted
            self._list_again(backend)

    def _spelled(self, name: str, backend: str) -> str:
        """As the backend itself writes it."""
        key = comparison_key(name)
        facts = self._catalog.on_disk().get(backend, ())
        return next((each.name for each in facts if comparison_key(each.name) == key), name)

    async def _wait_listed(self, name: str, places: Mapping[str, object]) -> None:
        """Until the lists know of it, so that whoever asks next finds it gone."""
        key = comparison_key(name)
        until_ns = self._clock.monotonic_ns() + LISTED_TIMEOUT_NS
        while self._clock.monotonic_ns() < until_ns:
            on_disk = self._catalog.on_disk()
            if not any(
                comparison_key(each.name) == key for of in places for each in on_disk.get(of, ())
            ):
                return
            await self._clock.sleep(LISTED_POLL_NS)

    # Memory

    async def load(self, name: str, backend: str, agent_id: str, timeout_ns: int) -> Wished:
        """Makes it resident; returns when it is ready."""
        self._access.check(ModelChange.LOAD, agent_id)
        self._check_backend(backend)
        return await self._desk.load(self._resolve(name), backend, timeout_ns)

    async def unload(self, name: str, backend: str, agent_id: str, timeout_ns: int) -> Wished:
        """Has it leave memory when its running work has ended; returns when it is gone."""
        self._access.check(ModelChange.UNLOAD, agent_id)
        self._check_backend(backend)
        return await self._desk.unload(self._resolve(name), backend, timeout_ns)

    def _check_backend(self, name: str) -> None:
        if name and name not in self._backends:
            raise BackendNotFound(name, nearest(name, list(self._backends)))
