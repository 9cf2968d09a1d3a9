"""The pool of the shell: who is asked, since when, and how one leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from broker.core.effects import BackendGone, ListAgain
from broker.core.errors import InvalidRequest
from broker.core.ports import Backend
from broker.runtime.pool import Asking, BackendPool, Place
from broker.runtime.supervisor import Supervisor
from tests.integration.fake_backend import FakeBackend

PATIENCE_S = 30.0


class FakeAsking:
    """Asks nobody, and keeps what it is told."""

    def __init__(self, policy: int) -> None:
        self.version = f"v{policy}"
        self.down_since_ns: int | None = None
        self.problem = ""
        self.was_asked = asyncio.Event()
        self.policies = [policy]
        self.lists = 0
        self.looks = 0
        self.rounds = 0
        self.is_running = False

    async def ask(self) -> bool:
        self.rounds += 1
        return True

    async def run(self) -> None:
        self.is_running = True
        self.was_asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.is_running = False

    def configure(self, policy: int) -> None:
        self.policies.append(policy)

    def list_again(self) -> None:
        self.lists += 1

    def look_now(self) -> None:
        self.looks += 1


class Stage:
    """A pool, and all that it has made, heard and told."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.backends: dict[str, FakeBackend] = {}
        self.asking: dict[str, FakeAsking] = {}
        self.supervisor = supervisor
        self.new: list[str] = []
        self.gone: list[str] = []
        self.pool: BackendPool[int] = BackendPool(
            supervisor,
            self._make,
            lambda name, _: self.new.append(name),
            lambda name, _: self.gone.append(name),
        )

    async def supervisor_is_left_with(self, tasks: int) -> None:
        while len(self.supervisor) > tasks:  # noqa: ASYNC110 - the tasks' own
            await asyncio.sleep(0)

    def _make(self, place: Place[int]) -> tuple[Backend, Asking[int]]:
        self.backends[place.name] = FakeBackend(name=place.name)
        self.asking[place.name] = FakeAsking(place.asking)
        return self.backends[place.name], self.asking[place.name]


def place(name: str, asking: int = 1, url: str = "u") -> Place[int]:
    return Place(name=name, identity=(url,), asking=asking)


@pytest_asyncio.fixture
async def stage() -> AsyncIterator[Stage]:
    async with asyncio.timeout(PATIENCE_S), Supervisor(10) as supervisor:
        yield Stage(supervisor)


async def test_nobody_is_asked_before_the_start(stage: Stage) -> None:
    stage.pool.apply((place("a"), place("b")))
    assert list(stage.pool) == ["a", "b"]
    assert stage.pool["b"] is stage.backends["b"]
    assert (stage.new, stage.pool.versions()) == ([], {"a": "v1", "b": "v1"})
    await stage.pool.ask_all()
    assert [each.rounds for each in stage.asking.values()] == [1, 1]
    stage.pool.start()
    await stage.pool.wait_asked()
    assert stage.new == ["a", "b"]
    assert all(each.is_running for each in stage.asking.values())


async def test_since_when_those_that_do_not_answer_have_not(stage: Stage) -> None:
    stage.pool.apply((place("a"), place("b")))
    stage.asking["b"].down_since_ns = 7
    assert stage.pool.down_since_ns() == {"b": 7}


async def test_a_new_one_is_asked_at_once_and_one_that_stays_asked_otherwise(stage: Stage) -> None:
    stage.pool.apply((place("a"),))
    stage.pool.start()
    stage.pool.apply((place("a", asking=2), place("b")))
    await stage.pool.wait_asked()
    assert stage.asking["a"].policies == [1, 2]
    assert (stage.asking["a"].lists, stage.new) == (0, ["a", "b"])


async def test_what_listed_wrongly_is_asked_for_its_models_again(stage: Stage) -> None:
    stage.pool.apply((place("a"), place("b")))
    stage.pool.list_again(ListAgain("b"))
    assert [stage.asking[name].lists for name in ("a", "b")] == [0, 1]


async def test_who_begins_to_watch_has_all_of_them_asked(stage: Stage) -> None:
    stage.pool.apply((place("a"), place("b")))
    stage.pool.look_now()
    assert [stage.asking[name].looks for name in ("a", "b")] == [1, 1]


async def test_one_that_was_taken_out_works_on_until_it_is_gone(stage: Stage) -> None:
    stage.pool.apply((place("a"), place("b")))
    stage.pool.start()
    await stage.pool.wait_asked()
    stage.pool.apply((place("a"),))
    assert "b" in stage.pool
    assert stage.asking["b"].is_running
    stage.pool.gone(BackendGone("b"))
    assert (list(stage.pool), stage.gone) == (["a"], ["b"])
    await stage.supervisor_is_left_with(1)
    assert stage.backends["b"].closed
    assert not stage.asking["b"].is_running


async def test_one_that_is_taken_back_tells_again_what_it_has(stage: Stage) -> None:
    stage.pool.apply((place("a"), place("b")))
    stage.pool.apply((place("a"),))
    stage.pool.apply((place("a"), place("b")))
    assert (stage.asking["a"].lists, stage.asking["b"].lists) == (0, 1)


async def test_a_name_that_still_leaves_is_not_given_to_another_server(stage: Stage) -> None:
    stage.pool.apply((place("a"), place("b")))
    stage.pool.apply((place("a"),))
    with pytest.raises(InvalidRequest, match=r"backends\.b: is still leaving"):
        stage.pool.check((place("a"), place("b", url="other")))
    stage.pool.check((place("a"), place("b")))
    stage.pool.gone(BackendGone("b"))
    stage.pool.check((place("a"), place("b", url="other")))


async def test_all_connections_are_closed_in_the_end(stage: Stage) -> None:
    stage.pool.apply((place("a"), place("b")))
    await stage.pool.close()
    assert [each.closed for each in stage.backends.values()] == [True, True]
