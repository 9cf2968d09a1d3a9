"""Asks each backend what it is, has and holds, again and again, and tells the engine.

One loop per backend. Residents are cheap and asked for often; the catalogue is the dear call and
asked for seldom. A backend that does not answer is asked again at short intervals, and is back by
itself as soon as it does; and so is one whose answer nobody foresaw: a loop never ends by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from broker.core.errors import BackendSilent, BrokerError
from broker.core.ports import Backend, ModelFacts
from broker.core.stimuli import BackendSeen, ModelsListed, ResidentsSeen, Stimulus
from broker.models.catalog import Catalog

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryPolicy:
    """How often one backend is asked, and what it is told apart by: how many requests a model runs
    there at once, and the tags that models may be confined to.

    `mute_ns`: what takes connections and has not said for so long what it holds does not serve; one
    with a frozen runner, the slowest known to work, needs 20 s (OLLAMA.md §3.7). Nor does what has
    not even said its version: it is stopped, or hangs as a whole. `watch_interval_ns`: so often
    everything is asked for while somebody watches."""

    slots: int = 1
    tags: frozenset[str] = frozenset()
    poll_interval_ns: int = 5_000_000_000
    catalog_interval_ns: int = 60_000_000_000
    retry_interval_ns: int = 2_000_000_000
    mute_ns: int = 22_000_000_000
    watch_interval_ns: int = 500_000_000

    def __post_init__(self) -> None:
        asking_ns = min(self.poll_interval_ns, self.catalog_interval_ns, self.watch_interval_ns)
        if min(asking_ns, self.retry_interval_ns) <= 0:
            raise ValueError("intervals must be positive")


def _nobody_watches() -> bool:
    return False


class Discovery:
    """What one backend says of itself. `is_watched`: does anybody watch the list of models now?"""

    def __init__(
        self,
        backend: Backend,
        policy: DiscoveryPolicy,
        catalog: Catalog,
        feed: Callable[[Stimulus], None],
        now_ns: Callable[[], int],
        sleep: Callable[[int], Awaitable[None]],
        is_watched: Callable[[], bool] = _nobody_watches,
    ) -> None:
        self._backend = backend
        self._policy = policy
        self._catalog = catalog
        self._feed = feed
        self._now_ns = now_ns
        self._sleep = sleep
        self._is_watched = is_watched
        self._listed_ns: int | None = None
        self._wishes = 0  # how often it was told to list again
        self._listed: tuple[ModelFacts, ...] = ()  # as it was told last
        self._is_up: bool | None = None
        self._is_wanted = asyncio.Event()  # a look before its time
        self._is_mute = False  # it takes connections, and has not said for long what is asked
        self._silent_since_ns: int | None = None  # since when it has not said its version
        self._crash = ""  # the last one that was logged, while it lasts
        self.version = ""
        self.down_since_ns: int | None = None  # None: it answered when it was last asked
        self.problem = ""  # why it did not answer when it was last asked
        self.was_asked = asyncio.Event()  # once, whatever came of it

    def configure(self, policy: DiscoveryPolicy) -> None:
        """From now on this holds, and what depends on it is asked for again."""
        is_same = policy == self._policy
        self._policy = policy
        if not is_same:
            self.list_again()

    def list_again(self) -> None:
        """Asks at once for everything that the backend has; an answer that is on its way may be of
        before."""
        self._wishes += 1
        self._listed_ns = None
        self._is_wanted.set()

    def look_now(self) -> None:
        """Asks at once: somebody has begun to watch."""
        self._is_wanted.set()

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            is_up = await self.ask()
            self.was_asked.set()
            await self._sleep_unless_wanted(self._interval_ns(is_up))

    def _interval_ns(self, is_up: bool) -> int:
        policy = self._policy
        if not is_up:
            return policy.retry_interval_ns
        if self._is_watched():
            return min(policy.poll_interval_ns, policy.watch_interval_ns)
        return policy.poll_interval_ns

    async def _sleep_unless_wanted(self, interval_ns: int) -> None:
        slept = asyncio.ensure_future(self._sleep(interval_ns))
        wanted = asyncio.ensure_future(self._is_wanted.wait())
        try:
            await asyncio.wait({slept, wanted}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            slept.cancel()
            wanted.cancel()
        self._is_wanted.clear()

    async def ask(self) -> bool:
        """One round. Tells the engine what was heard; says whether the backend answered."""
        name = self._backend.name
        self._is_mute = False
        try:
            await self._ask_all()
        except BrokerError as error:
            self._tell_away(error.message)
            return False
        except Exception as error:  # noqa: BLE001  # a loop that ended would leave the broker blind
            crash = f"{type(error).__name__}: {error}"
            if crash != self._crash:
                _log.error("asking a backend failed", backend=name, exc_info=error)
            self._crash = crash
            self._tell_away(f"the broker failed on its answer ({crash})")
            return False
        if self._is_up is not True:
            _log.info("backend answers", backend=name, version=self.version)
        self._is_up, self._crash, self.down_since_ns, self.problem = True, "", None, ""
        self._feed(BackendSeen(name, up=True))
        return True

    def _tell_away(self, problem: str) -> None:
        name = self._backend.name
        if self._is_up is not False:
            _log.warning("backend does not answer", backend=name, problem=problem)
        if self.down_since_ns is None:
            self.down_since_ns = self._now_ns()
        self._is_up, self.problem = False, problem
        self._listed_ns = None  # it may come back with other models
        self._feed(BackendSeen(name, False, problem, self._is_mute))

    async def _ask_all(self) -> None:
        name = self._backend.name
        await self._ask_version()
        # What keeps its models tells all of them in one cheap answer, the same as its residents.
        is_cheap = self._backend.keeps_models
        is_due = self._listed_ns is None or is_cheap or self._is_stale(self._listed_ns)
        if is_due or self._is_watched():
            wishes = self._wishes
            models = await self._backend.models()
            # Of what is the same as before nobody needs to hear before its time.
            if is_due or models != self._listed:
                self._tell_listed(models)
            else:
                self._catalog.same(name)
            if wishes != self._wishes:
                self._listed_ns = None
        asked_ns = self._now_ns()
        try:
            residents = await self._backend.residents()
        except BrokerError:
            self._is_mute = self._now_ns() - asked_ns >= self._policy.mute_ns
            raise
        self._catalog.saw(name, residents)
        self._feed(ResidentsSeen(name, residents, asked_ns))

    def _tell_listed(self, models: tuple[ModelFacts, ...]) -> None:
        self._listed, self._listed_ns = models, self._now_ns()
        policy = self._policy
        specs = self._catalog.learn(self._backend.name, models, policy.slots, policy.tags)
        self._feed(ModelsListed(self._backend.name, specs))

    async def _ask_version(self) -> None:
        asked_ns = self._now_ns()
        try:
            self.version = await self._backend.version()
        except BackendSilent:
            since_ns = asked_ns if self._silent_since_ns is None else self._silent_since_ns
            self._is_mute = self._now_ns() - since_ns >= self._policy.mute_ns
            self._silent_since_ns = None if self._is_mute else since_ns  # one more has its own time
            raise
        except BrokerError:
            self._silent_since_ns = None
            raise
        self._silent_since_ns = None

    def _is_stale(self, listed_ns: int) -> bool:
        return self._now_ns() - listed_ns >= self._policy.catalog_interval_ns
