"""llama-swap's rule: swaps in order of request, one model's requests collated.

What asks for a model that is ready is passed on at once, whoever waits for another: a ready model
is left only when nothing of it is in flight, so the wait for another has no bound. Then the first
that waits has its model loaded, and all that wait for the same go with it. A load belongs to no
client. No agents, no priorities, no deadlines (reference/PEERS.md).

It only decides: whoever holds it loads, unloads and passes on, on whatever clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Collating(Generic[T]):
    """See the module. `resident_max` models may be ready at once. `load` and `unload` are begun by
    what it is given, and told of by `loaded` and `unloaded`, one at a time; `pass_on` sends a
    request on to its model."""

    def __init__(
        self,
        resident_max: int,
        load: Callable[[str], None],
        unload: Callable[[str], None],
        pass_on: Callable[[T], None],
    ) -> None:
        self._resident_max = resident_max
        self._begin_load, self._begin_unload, self._send = load, unload, pass_on
        self._waiting: list[tuple[str, T]] = []
        self._in_flight: dict[str, int] = {}  # of each ready model, the one used longest ago first
        self._next = ""  # what is being swapped in

    def come(self, model: str, request: T) -> None:
        """A request, which goes on at once or waits."""
        if model in self._in_flight:
            self._pass_on(model, request)
        else:
            self._waiting.append((model, request))
            self._look()

    def leave(self, model: str, request: T) -> None:
        """It gave up while it waited."""
        self._waiting.remove((model, request))

    def ended(self, model: str) -> None:
        """One that was passed on has ended."""
        self._in_flight[model] -= 1
        self._look()

    def unloaded(self) -> None:
        """The model that was to leave is gone."""
        self._begin_load(self._next)

    def loaded(self) -> None:
        """The model that was to be loaded is ready: whoever waits for it goes on."""
        model, self._next = self._next, ""
        self._in_flight[model] = 0
        ready = [request for name, request in self._waiting if name == model]
        self._waiting = [each for each in self._waiting if each[0] != model]
        for request in ready:
            self._pass_on(model, request)
        self._look()

    def _pass_on(self, model: str, request: T) -> None:
        self._in_flight[model] = self._in_flight.pop(model) + 1
        self._send(request)

    def _look(self) -> None:
        """Swaps, if somebody waits and a place is free or can be made."""
        if self._next or not self._waiting:
            return
        model = self._waiting[0][0]
        if len(self._in_flight) < self._resident_max:
            self._next = model
            self._begin_load(model)
            return
        idle = next((name for name, count in self._in_flight.items() if not count), None)
        if idle is not None:
            self._next = model
            del self._in_flight[idle]
            self._begin_unload(idle)
