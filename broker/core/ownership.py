"""Which of the loaded models are the broker's own, told so that the broker after it knows.

A broker that is killed leaves its models behind. The next one finds them resident, and takes what
the one before had loaded for its own: it may tell them to leave for others, and renews their
keep_alive. Where somebody else has unloaded and loaded one of them meanwhile, that cannot be told:
it counts as ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from broker.core.effects import Effect, Own
from broker.core.placement import BackendState
from broker.core.residencies import Residencies
from broker.core.residency import ResidencyState
from broker.core.stimuli import (
    LoadEnded,
    OwnedBefore,
    PolicyChanged,
    ResidentsSeen,
    Stimulus,
    UnloadEnded,
)

# After these a backend may hold other models of ours than before.
OWNS_OTHERS: Final[frozenset[type[Stimulus]]] = frozenset(
    {ResidentsSeen, LoadEnded, UnloadEnded, PolicyChanged}
)

_THERE: Final = frozenset(
    {ResidencyState.RESIDENT, ResidencyState.DRAINING, ResidencyState.UNLOADING}
)


class Ownership:
    """See the module. `emit` takes effects."""

    def __init__(
        self,
        backends: Mapping[str, BackendState],
        residencies: Residencies,
        emit: Callable[[Effect], None],
    ) -> None:
        self._backends = backends
        self._residencies = residencies
        self._emit = emit
        self._before: dict[str, tuple[frozenset[str], int]] = {}  # runners, believed until
        self._told: dict[str, tuple[str, ...] | None] = {}

    def owned_before(self, owned: OwnedBefore, now_ns: int) -> None:
        """What the broker before this one had there. It is believed at the first look at what the
        backend holds, and no longer than a keep_alive: what is there later was loaded by others."""
        if owned.backend in self._backends:
            until_ns = now_ns + self._residencies.policy.keep_alive_ns
            self._before[owned.backend] = frozenset(owned.runners), until_ns

    def residents_seen(self, seen: ResidentsSeen, now_ns: int) -> None:
        """The first look: takes over what is found."""
        if seen.backend not in self._before:
            return
        runners, until_ns = self._before.pop(seen.backend)
        self._told[seen.backend] = None  # whatever comes of it is told
        if now_ns >= until_ns:
            return
        backend = self._backends[seen.backend]
        for runner in sorted(runners & backend.residents.keys()):
            self._residencies.own(backend, backend.residents[runner], now_ns)

    def look(self) -> None:
        """Tells of each backend that holds other models of ours than it did."""
        for name, backend in self._backends.items():
            owned = tuple(
                sorted(
                    each.runner
                    for each in backend.residents.values()
                    if each.managed and each.state in _THERE
                )
            )
            if owned != self._told.get(name, ()):
                self._told[name] = owned
                self._emit(Own(name, owned))
        for name in self._told.keys() - self._backends.keys():
            del self._told[name]  # what it holds may still be ours if it comes back
