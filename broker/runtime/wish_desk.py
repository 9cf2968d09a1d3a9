"""Whoever waits for a model to be loaded or to leave, and what the engine says of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from broker.core.effects import WishEnded
from broker.core.stimuli import LoadAsked, Stimulus, UnloadAsked, WishWithdrawn
from broker.runtime.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Wished:
    """What came of it. `load_ns` 0: it was there already."""

    backends: tuple[str, ...]
    load_ns: int = 0
    wish: int = 0


class WishDesk:
    """`feed` takes stimuli; `ended` is to be called for each WishEnded. Who goes away, by being
    cancelled, takes the wish back."""

    def __init__(self, feed: Callable[[Stimulus], None], clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self._waiting: dict[int, asyncio.Future[Wished]] = {}
        self._last = 0

    async def load(self, model: str, backend: str, timeout_ns: int) -> Wished:
        """Returns when the model is resident. Raises why it is not."""
        until_ns = self._clock.monotonic_ns() + timeout_ns
        self._last += 1
        asked = LoadAsked(wish=self._last, model=model, backend=backend, until_ns=until_ns)
        return await self._ask(asked)

    async def unload(self, model: str, backend: str, timeout_ns: int, hold_ns: int = 0) -> Wished:
        """Returns when it has left. Nobody has it loaded again until `let_go`, or for so long."""
        now_ns = self._clock.monotonic_ns()
        self._last += 1
        asked = UnloadAsked(
            wish=self._last,
            model=model,
            backend=backend,
            until_ns=now_ns + timeout_ns,
            hold_until_ns=now_ns + timeout_ns + hold_ns if hold_ns else 0,
        )
        return await self._ask(asked)

    def let_go(self, wished: Wished) -> None:
        """What was unloaded and held away may be loaded again."""
        self._feed(WishWithdrawn(wished.wish))

    async def _ask(self, asked: LoadAsked | UnloadAsked) -> Wished:
        answer: asyncio.Future[Wished] = asyncio.get_running_loop().create_future()
        self._waiting[asked.wish] = answer
        try:
            self._feed(asked)
            return await answer
        except asyncio.CancelledError:
            self._feed(WishWithdrawn(asked.wish))  # also of an answer that nobody has heard
            raise
        finally:
            self._waiting.pop(asked.wish, None)

    def ended(self, effect: WishEnded) -> None:
        """The engine's answer."""
        answer = self._waiting.pop(effect.wish, None)
        if answer is None or answer.done():
            return  # whoever asked has just gone
        if effect.error is not None:
            answer.set_exception(effect.error)
        else:
            found = Wished(backends=effect.backends, load_ns=effect.load_ns, wish=effect.wish)
            answer.set_result(found)
