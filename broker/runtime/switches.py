"""Loads and unloads: the slow half of the switch protocol, each ending in one stimulus.

A load belongs to the broker and is tied to no client: Ollama aborts a load whose owner leaves.
An unload is answered before it is done; only the list of residents proves it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from broker.core.effects import AbortLoad, Load, Renew, Unload
from broker.core.errors import (
    BackendUnreachable,
    BrokerError,
    LoadFailed,
    LoadHung,
    ModelUnknown,
)
from broker.core.model_name import comparison_key
from broker.core.ports import Backend, Resident
from broker.core.stimuli import LoadEnded, ResidentsSeen, Stimulus, UnloadEnded
from broker.core.views import LoadReport
from broker.runtime.clock import Clock
from broker.runtime.supervisor import Supervisor

# How often the list of residents is asked for while a model is to leave: Ollama needs 0.1 to 5 s.
GONE_POLL_NS = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchLimits:
    """How long a load and an unload may take, and how long a model stays without renewal."""

    load_timeout_s: float = 600.0  # twice Ollama's own stall limit, as a load may follow another
    unload_timeout_s: float = 60.0
    cure_timeout_s: float = 25.0  # of an unload that cures
    look_timeout_s: float = 25.0  # a frozen runner holds the list of residents up for 20 s
    keep_alive_s: int = 600


async def run_load(
    effect: Load,
    backend: Backend,
    limits: SwitchLimits,
    clock: Clock,
    feed: Callable[[Stimulus], None],
) -> None:
    """Loads, looks at what it became, and says LoadEnded.

    What the call returned decides where it was a success; where it was not, the list of residents
    does: a load whose call was too slow or broke may have been done all the same.
    """
    error: BrokerError | None = LoadFailed(f"the load of {effect.model} was interrupted")
    try:
        error = await _load(effect, backend, limits)
        if not isinstance(error, BackendUnreachable):
            residents = await _look_if_possible(backend, limits, clock, feed)
            if _Known(comparison_key(effect.model)).is_among(residents):
                error = None
    finally:
        feed(LoadEnded(effect.backend, effect.runner, error))


async def _load(effect: Load, backend: Backend, limits: SwitchLimits) -> BrokerError | None:
    """The call itself, and why it failed."""
    try:
        async with asyncio.timeout(limits.load_timeout_s):
            await backend.load(
                effect.model, num_ctx=effect.num_ctx, keep_alive_s=limits.keep_alive_s
            )
    except TimeoutError:
        return LoadHung(
            f"{effect.model} was not loaded on {backend.name} within {limits.load_timeout_s:.0f} s"
        )
    except BackendUnreachable as failure:
        return failure
    except BrokerError as failure:
        return LoadFailed(f"{effect.model} could not be loaded on {backend.name}: {failure}")
    return None


async def run_unload(
    effect: Unload,
    backend: Backend,
    limits: SwitchLimits,
    clock: Clock,
    feed: Callable[[Stimulus], None],
    renewals: Collection[asyncio.Task[None]] = (),
) -> None:
    """Unloads, waits until the model is proven gone, and says UnloadEnded.

    `renewals` of this backend that are under way end first: one that reaches the server behind the
    unload would load the model again.
    """
    limit_s = limits.cure_timeout_s if effect.is_cure else limits.unload_timeout_s
    error: BrokerError | None = LoadFailed(f"the unload of {effect.model} was interrupted")
    try:
        async with asyncio.timeout(limit_s):
            await _end_all(renewals)
            known_as = _Known(comparison_key(effect.model))
            if known_as.is_among(await _look(backend, clock, feed)):
                await backend.unload(effect.model)
                while known_as.is_among(await _look(backend, clock, feed)):
                    await clock.sleep(GONE_POLL_NS)
        error = None
    except TimeoutError:
        error = LoadFailed(f"{effect.model} did not leave {backend.name} within {limit_s:g} s")
    except BrokerError as failure:
        error = failure
    finally:
        feed(UnloadEnded(effect.backend, effect.runner, error))


@dataclass(slots=True)
class _Known:
    """How lists of residents may show a model: under its name, or under another one with a digest
    that its name was seen with. A runner is listed by the name of whoever loaded it last."""

    key: str
    digests: set[str] = field(default_factory=set)

    def is_among(self, residents: tuple[Resident, ...]) -> bool:
        named = [each for each in residents if comparison_key(each.name) == self.key]
        self.digests.update(each.digest for each in named if each.digest)
        return bool(named) or any(each.digest in self.digests for each in residents)


async def _end_all(renewals: Collection[asyncio.Task[None]]) -> None:
    """Closes their connections, which leaves a resident model as it is."""
    for each in renewals:
        each.cancel()
    if renewals:
        await asyncio.wait(renewals)


async def run_renew(effect: Renew, backend: Backend, limits: SwitchLimits) -> None:
    """Renews a keep_alive. A failure needs no word: the list of residents will tell."""
    try:
        async with asyncio.timeout(limits.unload_timeout_s):
            await backend.load(
                effect.model, num_ctx=effect.num_ctx, keep_alive_s=limits.keep_alive_s
            )
    except (TimeoutError, BrokerError, ModelUnknown):
        return


async def _look(
    backend: Backend, clock: Clock, feed: Callable[[Stimulus], None]
) -> tuple[Resident, ...]:
    asked_ns = clock.monotonic_ns()
    residents = await backend.residents()
    feed(ResidentsSeen(backend.name, residents, asked_ns))
    return residents


async def _look_if_possible(
    backend: Backend, limits: SwitchLimits, clock: Clock, feed: Callable[[Stimulus], None]
) -> tuple[Resident, ...]:
    """The residents; none where that cannot be told. The next regular look tells then."""
    try:
        async with asyncio.timeout(limits.look_timeout_s):
            return await _look(backend, clock, feed)
    except (TimeoutError, BrokerError):
        return ()


class Switches:
    """The switches that are under way: one load per backend at a time, and renewals."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        limits: SwitchLimits,
        clock: Clock,
        supervisor: Supervisor,
        feed: Callable[[Stimulus], None],
        tell: Callable[[LoadReport], None],
    ) -> None:
        self._backends = backends
        self._limits = limits
        self._clock = clock
        self._supervisor = supervisor
        self._feed = feed
        self._tell = tell
        self._loads: dict[str, asyncio.Task[None]] = {}  # by backend
        self._renewals: dict[str, set[asyncio.Task[None]]] = {}  # by backend

    def load(self, effect: Load) -> None:
        backend = self._backends[effect.backend]
        over = partial(self._load_over, effect, self._clock.monotonic_ns())
        work = run_load(effect, backend, self._limits, self._clock, over)
        task = self._supervisor.start(work, f"load-{effect.backend}-{effect.model}")
        self._loads[effect.backend] = task

    def _load_over(self, effect: Load, began_ns: int, stimulus: Stimulus) -> None:
        self._over(stimulus)
        if isinstance(stimulus, LoadEnded):
            report = LoadReport(
                backend=effect.backend,
                model=effect.model,
                took_ns=self._clock.monotonic_ns() - began_ns,
                problem="" if stimulus.error is None else stimulus.error.message,
            )
            self._tell(report)

    def _over(self, stimulus: Stimulus) -> None:
        if isinstance(stimulus, LoadEnded):
            del self._loads[stimulus.backend]
        self._feed(stimulus)

    def abort_load(self, effect: AbortLoad) -> None:
        task = self._loads.get(effect.backend)
        if task is None:
            return  # its end is among the stimuli that wait
        task.cancel()
        # As with attempts: a task that never took its first step has no other end.
        task.add_done_callback(lambda _: self._abandoned(effect, task))

    def _abandoned(self, effect: AbortLoad, task: asyncio.Task[None]) -> None:
        if self._loads.get(effect.backend) is task:
            error = LoadFailed("the load was aborted before it began")
            self._over(LoadEnded(effect.backend, effect.runner, error))

    def unload(self, effect: Unload) -> None:
        backend = self._backends[effect.backend]
        # All of the backend: the model may have been known by another name when it was renewed.
        renewals = frozenset(self._renewals.get(effect.backend, ()))
        work = run_unload(effect, backend, self._limits, self._clock, self._feed, renewals)
        self._supervisor.start(work, f"unload-{effect.backend}-{effect.model}")

    def renew(self, effect: Renew) -> None:
        work = run_renew(effect, self._backends[effect.backend], self._limits)
        task = self._supervisor.start(work, f"renew-{effect.backend}-{effect.model}")
        renewals = self._renewals.setdefault(effect.backend, set())
        renewals.add(task)
        task.add_done_callback(renewals.discard)

    def forget(self, backend: str) -> None:
        """It is gone. Its renewals that are under way end: its adapter is about to be closed."""
        for each in self._renewals.pop(backend, ()):
            each.cancel()
