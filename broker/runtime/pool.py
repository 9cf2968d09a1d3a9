"""The backends as the shell has them: an adapter and a discovery each, which come and go.

The configuration says which there should be, the engine when one that was taken out may really go:
its work goes on through its adapter until then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from broker.core.effects import BackendGone, ListAgain
from broker.core.errors import FieldProblem, InvalidRequest
from broker.core.ports import Backend
from broker.runtime.supervisor import Supervisor

P = TypeVar("P")  # how a backend is asked
Q = TypeVar("Q", contravariant=True)


class Asking(Protocol[Q]):
    """Asks one backend again and again what it has and holds."""

    version: str
    down_since_ns: int | None
    problem: str
    was_asked: asyncio.Event

    async def ask(self) -> bool: ...

    async def run(self) -> None: ...

    def configure(self, policy: Q) -> None: ...

    def list_again(self) -> None: ...

    def look_now(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Place(Generic[P]):
    """What the configuration says of one backend. `identity` is what cannot change while it is
    there: where it is, and how one speaks to it."""

    name: str
    identity: tuple[object, ...]
    asking: P


@dataclass(slots=True, kw_only=True)
class _Member(Generic[P]):
    place: Place[P]
    backend: Backend
    discovery: Asking[P]
    task: asyncio.Task[None] | None = None


class BackendPool(Mapping[str, Backend], Generic[P]):
    """All backends by name, also those that were taken out and are not gone yet.

    `make` gives the adapter and the discovery of a new one; `on_new` hears of it before it is asked
    for the first time, `on_gone` when it is no more.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        make: Callable[[Place[P]], tuple[Backend, Asking[P]]],
        on_new: Callable[[str, Backend], None],
        on_gone: Callable[[str, Backend], None],
    ) -> None:
        self._supervisor = supervisor
        self._make = make
        self._on_new = on_new
        self._on_gone = on_gone
        self._members: dict[str, _Member[P]] = {}
        self._wanted: frozenset[str] = frozenset()  # names; the others leave
        self._is_started = False

    def __getitem__(self, name: str) -> Backend:
        return self._members[name].backend

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def versions(self) -> dict[str, str]:
        """What each one says of its version."""
        return {name: each.discovery.version for name, each in self._members.items()}

    def down_since_ns(self) -> dict[str, int]:
        """Since when those that did not answer when they were last asked have not."""
        members = self._members.items()
        since = ((name, each.discovery.down_since_ns) for name, each in members)
        return {name: since_ns for name, since_ns in since if since_ns is not None}

    def problems(self) -> dict[str, str]:
        """Why those that did not answer when they were last asked have not."""
        members = self._members.items()
        return {name: each.discovery.problem for name, each in members if each.discovery.problem}

    def check(self, places: Sequence[Place[P]]) -> None:
        """InvalidRequest where a name would mean another server than the one that still leaves."""
        problems = []
        for place in places:
            member = self._members.get(place.name)
            if member is not None and member.place.identity != place.identity:
                problem = "is still leaving; give the new one another name, or try again later"
                problems.append(FieldProblem(field=f"backends.{place.name}", problem=problem))
        if problems:
            raise InvalidRequest(tuple(problems))

    def apply(self, places: Sequence[Place[P]]) -> None:
        """From now on there are these; what is no longer among them stays until it is gone. To be
        told after the engine, which must know a backend before it is asked."""
        for place in places:
            member = self._members.get(place.name)
            if member is None:
                self._add(place)
                continue
            member.place = place
            member.discovery.configure(place.asking)
            if place.name not in self._wanted:  # taken back: the engine has forgotten what it has
                member.discovery.list_again()
        self._wanted = frozenset(each.name for each in places)

    def _add(self, place: Place[P]) -> None:
        backend, discovery = self._make(place)
        member = _Member(place=place, backend=backend, discovery=discovery)
        self._members[place.name] = member
        if self._is_started:
            self._start(member)

    def start(self) -> None:
        """Asks each of them from now on, and each that comes."""
        self._is_started = True
        for member in self._members.values():
            self._start(member)

    def _start(self, member: _Member[P]) -> None:
        name = member.place.name
        self._on_new(name, member.backend)
        member.task = self._supervisor.start(member.discovery.run(), f"discovery-{name}")

    async def ask_all(self) -> None:
        """One round of questions to each, whatever comes of it."""
        await asyncio.gather(*(each.discovery.ask() for each in self._members.values()))

    async def wait_asked(self) -> None:
        """Returns when each has been asked once."""
        waits = (each.discovery.was_asked.wait() for each in self._members.values())
        await asyncio.gather(*waits)

    def look_now(self) -> None:
        """Asks all of them at once: somebody has begun to watch."""
        for member in self._members.values():
            member.discovery.look_now()

    def list_again(self, effect: ListAgain) -> None:
        """What it listed is not so, or no longer."""
        self._members[effect.backend].discovery.list_again()

    def gone(self, effect: BackendGone) -> None:
        """Nothing uses it any more."""
        member = self._members.pop(effect.backend)
        self._on_gone(effect.backend, member.backend)
        self._supervisor.start(self._close(member), f"close-{effect.backend}")

    async def _close(self, member: _Member[P]) -> None:
        if member.task is not None:
            member.task.cancel()
            await asyncio.wait({member.task})
        await member.backend.close()

    async def close(self) -> None:
        """Closes every connection upstream."""
        await asyncio.gather(*(each.backend.close() for each in self._members.values()))
