"""Downloads as they are made: what breaks one off, and what the disk, the hours and a stall do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import pytest_asyncio

from broker.core.errors import BackendRefused, BrokerError, DiskFull, NoBackend, PullFailed
from broker.core.ports import PullStep
from broker.core.pull_entries import PullEntry
from broker.core.pull_hours import Hours
from broker.models.pull import Pull, PullState
from broker.models.pulls import PullPolicy, Pulls
from broker.runtime.supervisor import Supervisor
from broker.services.pulls import PullService, PullSources
from tests.integration.fake_backend import FakeBackend, FakePull

S = 1_000_000_000
GB = 10**9
PATIENCE_S = 30.0


class TestClock:
    """Its time is the test's to move; who sleeps wakes soon, whatever the time."""

    __test__ = False

    def __init__(self) -> None:
        self.now_ns = S

    def monotonic_ns(self) -> int:
        return self.now_ns

    def unix_ns(self) -> int:
        return 1_700_000_000 * S + self.now_ns

    async def sleep(self, duration_ns: int) -> None:
        await asyncio.sleep(0.001)


@dataclass
class Disks:
    """How much is free, by backend."""

    free: dict[str, int | None] = field(default_factory=dict)

    async def free_bytes(self, backend: str) -> int | None:
        return self.free.get(backend)


@dataclass
class Store:
    """What was last written."""

    entries: tuple[PullEntry, ...] = ()

    def read(self) -> tuple[PullEntry, ...]:
        return self.entries

    async def write(self, entries: Sequence[PullEntry]) -> None:
        self.entries = tuple(entries)


class Stage:
    """A service between fakes."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.backends = {name: FakeBackend(name=name) for name in ("a", "b")}
        self.clock = TestClock()
        self.disk, self.store = Disks(), Store()
        self.minute = 720
        self.looks = 0
        self.up = {"a", "b"}
        self.listed: list[str] = []
        self.policy = PullPolicy(reserve_bytes=5 * GB, retry_ns=S)
        self.service = PullService(
            Pulls(self.policy),
            PullSources(
                backends=self.backends,
                is_up=lambda name: name in self.up,
                is_leaving=lambda: False,
                size_of=lambda name: 3 * GB if name.startswith("known") else 0,
                local_minute=self._look,
                list_again=self.listed.append,
                disk=self.disk,
                store=self.store,
            ),
            supervisor,
            self.clock,
        )

    def _look(self) -> int:
        self.looks += 1
        return self.minute

    async def looked(self) -> None:
        """Returns when it was looked at everything once more, from now on."""
        until = self.looks + 2
        while self.looks < until:  # noqa: ASYNC110 - a look has no event
            await asyncio.sleep(0.001)

    def configure(self, **changed: Any) -> None:
        self.service.configure(replace(self.policy, **changed))

    async def ask(self, name: str = "m", backend: str = "a", *, now: bool = False) -> Pull:
        return await self.service.ask(name, backend, "", is_urgent=now)

    async def call(self, backend: str = "a") -> FakePull:
        return await self.backends[backend].pulls.get()

    async def until(self, pull: Pull, state: PullState) -> None:
        while pull.state is not state:  # noqa: ASYNC110 - the state has no event
            await asyncio.sleep(0.001)

    async def outcome(self, pull: Pull) -> BrokerError | None:
        """What whoever listens to it is told in the end."""
        try:
            async for _ in self.service.listen(pull):
                pass
        except BrokerError as error:
            return error
        return None


@pytest_asyncio.fixture
async def stage() -> AsyncIterator[Stage]:
    async with asyncio.timeout(PATIENCE_S), Supervisor(100) as supervisor:
        made = Stage(supervisor)
        made.service.start()
        yield made
        await made.service.close()


async def test_it_is_on_the_list_before_it_is_acknowledged_and_not_after_its_end(
    stage: Stage,
) -> None:
    pull = await stage.ask()
    assert [each.name for each in stage.store.entries] == ["m"]
    (await stage.call()).complete()
    assert await stage.outcome(pull) is None
    assert stage.listed == ["a"]
    while stage.store.entries:  # noqa: ASYNC110 - it is written a moment later
        await asyncio.sleep(0.001)


async def test_without_a_name_the_backend_with_most_disk_gets_it(stage: Stage) -> None:
    assert (await stage.ask("one", "")).backend == "a"
    stage.disk.free = {"a": 50 * GB, "b": 60 * GB}
    assert (await stage.ask("two", "")).backend == "b"
    stage.up = {"a"}
    assert (await stage.ask("three", "")).backend == "a"
    assert (await stage.ask("two", "")).backend == "b", "who joins goes where it is"
    stage.up = set()
    with pytest.raises(NoBackend):
        await stage.ask("four", "")
    stage.backends["a"].keeps_models = True
    with pytest.raises(BackendRefused):
        await stage.ask("five", "a")


async def test_what_does_not_fit_is_not_begun(stage: Stage) -> None:
    stage.disk.free = {"a": 7 * GB}
    pull = await stage.ask("known")
    error = await stage.outcome(pull)
    assert isinstance(error, DiskFull)
    assert "needs 3 GB more" in error.message
    assert stage.backends["a"].pulls.empty()


async def test_what_turns_out_not_to_fit_is_ended(stage: Stage) -> None:
    stage.disk.free = {"a": 9 * GB}
    pull = await stage.ask()
    call = await stage.call()
    call.say(0, 4 * GB)
    await stage.until(pull, PullState.PULLING)
    assert not call.aborted
    call.say(1, 5 * GB)
    assert isinstance(await stage.outcome(pull), DiskFull)
    await call.ended.wait()
    assert call.aborted


async def test_what_others_put_on_the_disk_meanwhile_ends_it_too(stage: Stage) -> None:
    stage.disk.free = {"a": 50 * GB}
    pull = await stage.ask()
    call = await stage.call()
    call.say(0, 10 * GB)
    stage.disk.free = {"a": 6 * GB}
    assert isinstance(await stage.outcome(pull), DiskFull)


async def test_where_the_disk_is_not_known_it_goes_on(stage: Stage) -> None:
    pull = await stage.ask()
    call = await stage.call()
    assert "not known" in pull.detail
    call.say(0, 10**18)
    call.complete()
    assert await stage.outcome(pull) is None


async def test_what_stands_still_is_begun_anew(stage: Stage) -> None:
    stage.configure(stall_ns=10 * S)
    pull = await stage.ask()
    first = await stage.call()
    first.say(1, 10)
    stage.clock.now_ns += 11 * S
    await first.ended.wait()
    assert first.aborted
    await stage.until(pull, PullState.WAITING)
    assert "too long" in pull.detail
    stage.clock.now_ns += S
    (await stage.call()).complete()
    assert await stage.outcome(pull) is None


async def test_what_is_checked_has_more_time(stage: Stage) -> None:
    stage.configure(stall_ns=10 * S, verify_ns=60 * S)
    pull = await stage.ask()
    call = await stage.call()
    call.say(10, 10, PullStep.VERIFYING)
    stage.clock.now_ns += 50 * S
    await stage.looked()
    assert not call.aborted
    call.complete()
    assert await stage.outcome(pull) is None


async def test_when_its_hours_end_it_rests_and_goes_on_when_they_come(stage: Stage) -> None:
    stage.configure(hours=Hours.parse(("12:00-13:00",)))
    pull = await stage.ask()
    first = await stage.call()
    first.say(5, 10)
    stage.minute = 13 * 60
    await first.ended.wait()
    assert first.aborted
    await stage.until(pull, PullState.WAITING)
    assert pull.tries == 0
    stage.minute = 12 * 60
    again = await stage.call()
    assert pull.view(stage.clock.now_ns).completed_bytes == 5
    again.complete()
    assert await stage.outcome(pull) is None


async def test_one_whose_backend_is_gone_fails(stage: Stage) -> None:
    pull = await stage.ask()
    call = await stage.call()
    del stage.backends["a"]
    call.fail(NoBackend("it is closed"))
    await stage.until(pull, PullState.WAITING)
    stage.clock.now_ns += 10 * S
    assert isinstance(await stage.outcome(pull), NoBackend)


async def test_a_fault_of_the_broker_ends_it_with_a_word(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    pull = await stage.ask()
    call = await stage.call()
    call.verdict.set_exception(RuntimeError("a bug"))
    error = await stage.outcome(pull)
    assert error is not None
    assert error.reason == "INTERNAL"
    assert "task crashed" in capsys.readouterr().out


async def test_what_the_broker_before_left_is_gone_on_with(stage: Stage) -> None:
    async with Supervisor(100) as supervisor:
        after = Stage(supervisor)
        after.store.entries = (
            PullEntry(name="m", backend="a", completed_bytes=4, total_bytes=10),
            PullEntry(name="n", backend="gone"),
        )
        after.service.start()
        call = await after.call()
        (view,) = after.service.views()
        assert (view.name, view.completed_bytes, view.total_bytes) == ("m", 4, 10)
        call.fail(PullFailed("it is no more", is_final=True))
        await call.ended.wait()
        await after.service.close()


async def test_who_asks_while_it_leaves_is_told(stage: Stage) -> None:
    pull = await stage.ask()
    listening = asyncio.ensure_future(stage.outcome(pull))
    call = await stage.call()
    await stage.service.close()
    error = await listening
    assert error is not None
    assert error.reason == "DRAINING"
    await call.ended.wait()
    assert [each.name for each in stage.store.entries] == ["m"]
    with pytest.raises(BrokerError, match="leaving"):
        await stage.ask("n")
