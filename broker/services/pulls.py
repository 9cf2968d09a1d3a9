"""Downloads of models: whoever asks joins the one that is under way, and hears how far it is.

`models/pulls.py` decides; here its calls are made, timed, broken off and kept over a restart. A
download goes on when nobody listens any more, unless the configuration says otherwise: it is on a
list that a broker after this one goes on with.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from broker.core.errors import (
    BackendRefused,
    BackendSilent,
    BrokerError,
    Cancelled,
    DiskFull,
    Draining,
    Internal,
    NoBackend,
    PullNotFound,
    PullsFull,
)
from broker.core.model_name import comparison_key
from broker.core.model_sizes import size_str, spaced
from broker.core.ports import Backend, DiskSpace, PullProgress
from broker.core.pull_entries import PullStore
from broker.models.pull import Pull, PullState, PullView
from broker.models.pulls import PullPolicy, Pulls
from broker.runtime.clock import Clock
from broker.runtime.supervisor import Supervisor

_log = structlog.get_logger(__name__)

# How often it is looked at whose turn it is and whether something has stalled, while any is open.
LOOK_NS: Final = 1_000_000_000
# A listener hears of what has changed no more often than this.
TELL_NS: Final = 100_000_000
LISTENERS_FULL_NS: Final = 10_000_000_000


@dataclass(slots=True)
class _Call:
    """A download's call to its backend. `verdict`: what it comes to, where the broker ended it."""

    task: asyncio.Task[None]
    verdict: Callable[[], None] | None = None


@dataclass(slots=True, kw_only=True)
class PullSources:
    """What is asked of the rest of the broker. `size_of` is what is known of a model's size before
    it comes, 0 where nothing is; `list_again` hears that a backend has other models now."""

    backends: Mapping[str, Backend]
    is_up: Callable[[str], bool]
    is_leaving: Callable[[], bool]
    size_of: Callable[[str], int]
    local_minute: Callable[[], int]
    list_again: Callable[[str], None]
    disk: DiskSpace
    store: PullStore


class PullService:
    """See the module."""

    def __init__(
        self, pulls: Pulls, sources: PullSources, supervisor: Supervisor, clock: Clock
    ) -> None:
        self._pulls = pulls
        self._sources = sources
        self._supervisor = supervisor
        self._clock = clock
        self._calls: dict[int, _Call] = {}  # by the number of the download
        self._ears: dict[int, set[asyncio.Event]] = {}  # of who listens, by the same
        self._wake = asyncio.Event()
        self._is_closed = False

    @property
    def pulls(self) -> Pulls:
        return self._pulls

    def configure(self, policy: PullPolicy) -> None:
        """From now on this holds; what runs goes on by it."""
        self._pulls.policy = policy
        self._wake.set()

    # For whoever asks

    async def ask(self, name: str, backend: str, agent_id: str, *, is_urgent: bool) -> Pull:
        """The download that serves this wish, which is on the list now. PullsFull, NoBackend,
        Draining, BackendRefused."""
        if self._is_closed or self._sources.is_leaving():
            raise Draining("the broker is leaving; its downloads go on after it")
        if backend and self._sources.backends[backend].keeps_models:
            words = f"{backend} keeps its models: none can be downloaded through its API"
            raise BackendRefused(words, status=405)
        if sum(len(each) for each in self._ears.values()) >= self._pulls.policy.listeners_max:
            most = self._pulls.policy.listeners_max
            raise PullsFull(
                f"{most} listen to downloads already, as many as may (pulls.listeners_max); what "
                "is under way goes on",
                retry_after_ns=LISTENERS_FULL_NS,
            )
        joined = self._pulls.find(name, backend)
        target = backend or (joined.backend if joined else await self._chosen_backend())
        pull = self._pulls.ask(
            name,
            target,
            agent_id,
            is_urgent=is_urgent,
            expected_bytes=self._sources.size_of(name),
            unix_ms=self._clock.unix_ns() // 1_000_000,
        )
        await self._keep()
        self._wake.set()
        return pull

    async def listen(self, pull: Pull) -> AsyncGenerator[PullView, None]:
        """How it gets on, from now to its end; the last one says `done`. Raises why it failed."""
        event = asyncio.Event()
        ears = self._ears.setdefault(pull.number, set())
        ears.add(event)
        pull.listeners += 1
        try:
            while not pull.is_over:
                yield pull.view(self._clock.monotonic_ns())
                await self._clock.sleep(TELL_NS)
                await event.wait()
                event.clear()
                if self._is_closed and not pull.is_over:
                    raise Draining("the broker is leaving; its downloads go on after it")
            if pull.state is PullState.CANCELLED:
                raise Cancelled(pull.detail)
            if pull.error is not None:
                raise pull.error
            yield pull.view(self._clock.monotonic_ns())
        finally:
            ears.discard(event)
            if not ears:
                self._ears.pop(pull.number, None)
            pull.listeners -= 1
            is_alone = self._pulls.policy.stops_unheard and not pull.listeners
            if is_alone and not pull.is_over and not self._is_closed:
                self._end(pull, "nobody listens to it any more")

    def views(self) -> list[PullView]:
        """Those that wait, run, or ended lately; the oldest first."""
        now_ns = self._clock.monotonic_ns()
        return [each.view(now_ns) for each in self._pulls.all()]

    async def cancel(self, name: str, backend: str, who: str) -> int:
        """Ends them for all who want them; how many there were. PullNotFound."""
        key = comparison_key(name)
        meant = [
            each
            for each in self._pulls
            if comparison_key(each.name) == key and backend in ("", each.backend)
        ]
        if not meant:
            where = f" to {backend}" if backend else ""
            raise PullNotFound(f"no download of {name}{where} waits or runs")
        for pull in meant:
            self._end(pull, f"{who} cancelled it")
        await self._keep()
        return len(meant)

    def is_pulling(self, name: str, backend: str) -> bool:
        """Does a download of it to this backend wait or run?"""
        return self._pulls.find(name, backend) is not None

    async def _chosen_backend(self) -> str:
        """The one with most free disk, of those of which that is known; else the first."""
        those = [
            name
            for name, backend in self._sources.backends.items()
            if not backend.keeps_models and self._sources.is_up(name)
        ]
        if not those:
            raise NoBackend("no backend that could download a model answers")
        free = [(await self._sources.disk.free_bytes(name), name) for name in those]
        known = [(bytes_, -index, name) for index, (bytes_, name) in enumerate(free) if bytes_]
        return max(known)[2] if known else those[0]

    # The work

    def start(self) -> None:
        """Reads what the broker before has left, and goes on with it."""
        entries = self._sources.store.read()
        known = self._sources.backends
        gone = [each.name for each in entries if each.backend not in known]
        if gone:
            _log.warning("downloads for backends that are no more are dropped", models=gone)
        self._pulls.restore(each for each in entries if each.backend in known)
        self._supervisor.start(self._run(), "pulls")

    async def close(self) -> None:
        """The broker leaves: what runs is broken off and stays on the list."""
        self._is_closed = True
        for call in self._calls.values():
            call.task.cancel()
        for ears in self._ears.values():
            for event in ears:
                event.set()
        await self._keep()

    async def _run(self) -> None:
        while not self._is_closed:
            self._wake.clear()
            if len(self._pulls):
                await self._look()
                wait = asyncio.ensure_future(self._wake.wait())
                timer = asyncio.ensure_future(self._clock.sleep(LOOK_NS))
                _, rest = await asyncio.wait({wait, timer}, return_when=asyncio.FIRST_COMPLETED)
                for each in rest:
                    each.cancel()
            else:
                await self._wake.wait()

    async def _look(self) -> None:
        """Begins what is due, and breaks off what may not or does not go on."""
        now_ns, minute = self._clock.monotonic_ns(), self._sources.local_minute()
        for pull in self._pulls.out_of_hours(minute):
            self._break_off(pull, partial(self._rest, pull))
        for pull in self._pulls.stalled(now_ns):
            error = BackendSilent(f"nothing was heard of {pull.name} for too long")
            self._break_off(pull, partial(self._failed, pull, error))
        for pull in list(self._pulls):
            if pull.is_running:
                await self._watch_disk(pull)
        for pull in self._pulls.due(now_ns, minute):
            self._begin(pull)
        for pull in self._pulls:
            self._tell(pull)

    def _begin(self, pull: Pull) -> None:
        backend = self._sources.backends.get(pull.backend)
        if backend is None:
            words = f"{pull.backend} is no longer in the configuration"
            self._pulls.refused(pull, NoBackend(words), self._clock.monotonic_ns())
            self._ended(pull)
            return
        pull.begin(self._clock.monotonic_ns())
        name = f"pull-{pull.backend}-{pull.number}"
        self._calls[pull.number] = _Call(self._supervisor.start(self._call(pull, backend), name))

    async def _call(self, pull: Pull, backend: Backend) -> None:
        """One call to the backend, and what it comes to."""
        call = None
        try:
            await self._check_disk(pull)
            await backend.pull(pull.name, lambda progress: self._hear(pull, progress))
        except asyncio.CancelledError:
            call = self._calls.get(pull.number)
            if call is None or call.verdict is None:
                raise  # it was cancelled, or the broker leaves and it stays on the list as it is
        except DiskFull as full:
            self._refused(pull, full)
        except BrokerError as error:
            self._failed(pull, error)
        except Exception as bug:
            self._refused(pull, Internal("the broker failed on this download: see its log"))
            raise bug
        else:
            self._done(pull)
        finally:
            self._calls.pop(pull.number, None)
        if call is not None and call.verdict is not None:
            call.verdict()
        self._wake.set()

    def _hear(self, pull: Pull, progress: PullProgress) -> None:
        if not pull.is_running:
            return
        knew = pull.total_bytes
        pull.hear(progress, self._clock.monotonic_ns())
        if pull.total_bytes > knew:
            self._wake.set()  # is there the disk for it?
        self._tell(pull)

    # What it comes to

    def _done(self, pull: Pull) -> None:
        self._pulls.done(pull, self._clock.monotonic_ns())
        _log.info("model downloaded", model=pull.name, backend=pull.backend)
        self._sources.list_again(pull.backend)
        self._ended(pull)

    def _failed(self, pull: Pull, error: BrokerError) -> None:
        self._pulls.failed(pull, error, self._clock.monotonic_ns())
        if pull.is_over:
            self._ended(pull)
        self._tell(pull)

    def _refused(self, pull: Pull, error: BrokerError) -> None:
        self._pulls.refused(pull, error, self._clock.monotonic_ns())
        self._ended(pull)

    def _rest(self, pull: Pull) -> None:
        self._pulls.interrupted(pull, "its hours are over", self._clock.monotonic_ns())
        self._tell(pull)

    def _end(self, pull: Pull, why: str) -> None:
        """It is cancelled; its call, if there is one, is closed."""
        call = self._calls.pop(pull.number, None)
        self._pulls.cancelled(pull, why, self._clock.monotonic_ns())
        if call is not None:
            call.task.cancel()
        self._ended(pull)

    def _break_off(self, pull: Pull, verdict: Callable[[], None]) -> None:
        call = self._calls.get(pull.number)
        if call is not None and call.verdict is None:
            call.verdict = verdict
            call.task.cancel()

    def _ended(self, pull: Pull) -> None:
        if pull.state is not PullState.DONE:
            _log.warning(
                "model not downloaded", model=pull.name, backend=pull.backend, why=pull.detail
            )
        self._tell(pull)
        self._wake.set()
        self._supervisor.start(self._keep(), "pull-list")

    def _tell(self, pull: Pull) -> None:
        for event in self._ears.get(pull.number, ()):
            event.set()

    async def _keep(self) -> None:
        await self._sources.store.write(self._pulls.entries())

    # The disk

    async def _check_disk(self, pull: Pull) -> None:
        """DiskFull where there is not the room for what is still to come, as far as is known."""
        free = await self._sources.disk.free_bytes(pull.backend)
        left = max(0, pull.size_bytes - pull.completed_bytes)
        if free is None:
            pull.detail = f"how much disk {pull.backend} has free is not known: it is not looked at"
            return
        reserve = self._pulls.policy.reserve_bytes
        if free - left < reserve:
            what = f"needs {_words(left)} more" if left else "is of unknown size"
            raise DiskFull(
                f"{pull.name} {what}; the disk of {pull.backend} has {_words(free)} free, of which "
                f"{_words(reserve)} are to stay free (pulls.disk_reserve_gb)"
            )

    async def _watch_disk(self, pull: Pull) -> None:
        """A download that would fill the disk is ended before it does."""
        detail = pull.detail
        try:
            await self._check_disk(pull)
        except DiskFull as full:
            if pull.is_running:
                self._break_off(pull, partial(self._refused, pull, full))
        else:
            pull.detail = detail


def _words(size_bytes: int) -> str:
    return spaced(size_str(size_bytes))
