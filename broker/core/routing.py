"""Which of the backends that could start a request now gets it.

Of those that hold its model and have a free slot: the one with the least load, which is the part of
its slots that is taken, over its weight; but rather the one that has served the same session last,
and so may still have its prompt in its cache, as long as that is not busier by more than two
requests; else one that has read a prompt which begins alike, the longest such beginning first, by
the same limit. A request that names no session and begins like no other prefers what served its
agent's last one of that model, but only among equals: two requests of one agent are better off on
two servers. A request that a backend has just failed goes to another first, however busy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from broker.core.placement import BackendState
from broker.core.preemption import PREEMPTED
from broker.core.prefixes import PREFIX_BYTES, Prefixes
from broker.core.record import Record
from broker.core.residency import Residency

# Sessions whose last backend is remembered: far more than the slots of any pool, as only what is
# still in the cache of a slot is worth remembering.
AFFINITIES_MAX: Final = 10_000

# Loads are quotients: equal ones may differ by so little.
_TINY: Final = 1e-9

# By so many requests a backend may be busier than the least busy and still get what it has read
# the beginning of: more than that costs more than the reading (bench sessions; docs/adr/0023).
BUSIER_MAX: Final = 2


class Dispatch(NamedTuple):
    """This request on this runner of this backend."""

    backend: BackendState
    residency: Residency
    entry: int  # the request's handle in the queue

    @property
    def share(self) -> float:
        """What one more request adds to the load here."""
        return 1.0 / (self.residency.slots * self.backend.policy.weight)

    @property
    def load(self) -> float:
        return self.residency.running * self.share


# Whose work, in which session ("" where it names none), by which runner.
_Session = tuple[str, str, str]


class Routing:
    """See the module. `record_of` knows what waits by its handle."""

    def __init__(
        self,
        backends: Mapping[str, BackendState],
        prefixes: Prefixes,
        record_of: Callable[[int], Record],
    ) -> None:
        self._backends = backends
        self._prefixes = prefixes
        self._record_of = record_of
        self._last: OrderedDict[_Session, str] = OrderedDict()  # the name of a backend

    def choose(self, found: Sequence[Dispatch]) -> Dispatch:
        """One of these, which are in the order of the configuration; it will be started."""
        least = min(found, key=_load)  # the first configured among equals
        record = self._record_of(least.entry)
        chosen = self._choose(record, least, found) if len(self._backends) > 1 else least
        self.was_given(record, *chosen[:2])
        return chosen

    def _choose(self, record: Record, least: Dispatch, found: Sequence[Dispatch]) -> Dispatch:
        session = _session_of(record)
        if record.past and record.past[-1].reason != PREEMPTED:
            return _elsewhere(least, found, record.past[-1].backend)
        if session[1]:
            again = self._again(least, found, session, BUSIER_MAX)
            return again or self._alike(least, found, record) or least
        alike = self._alike(least, found, record)
        return alike or self._again(least, found, session, 0) or least

    def was_given(self, record: Record, backend: BackendState, residency: Residency) -> None:
        """It is about to be started there, whoever chose that."""
        self._reads(record, backend, residency)
        if len(self._backends) == 1:
            return  # no other ever gets anything: no session is remembered
        session = _session_of(record)
        self._last[session] = backend.name
        self._last.move_to_end(session)
        if len(self._last) > AFFINITIES_MAX:
            self._last.popitem(last=False)

    def _again(
        self, least: Dispatch, found: Sequence[Dispatch], session: _Session, busier: int
    ) -> Dispatch | None:
        """Where this session was served last; None where it never was, that is busier by more than
        so many requests, or has not the context that the request needs."""
        name = self._last.get(session)
        for each in found:
            if each.backend.name == name and each.entry == least.entry:
                return each if _is_near(each, least, busier) else None
        return None

    def _alike(self, least: Dispatch, found: Sequence[Dispatch], record: Record) -> Dispatch | None:
        """Where most of its beginning was read, the last of them first; None where nothing was."""
        if not record.spec.prefixes:
            return None
        for _, name, loaded_ns in self._prefixes.readers(record.line[0], record.spec):
            for each in found:
                is_there = each.backend.name == name and each.residency.loaded_ns == loaded_ns
                is_same = is_there and each.entry == least.entry
                if is_same and _is_near(each, least, BUSIER_MAX):
                    return each
        return None

    def _reads(self, record: Record, backend: BackendState, residency: Residency) -> None:
        """It is about to read this prompt."""
        spec, runner = record.spec, record.line[0]
        if spec.prefixes:
            name = backend.name
            known_bytes = self._prefixes.known_bytes(runner, spec)
            is_first = known_bytes < PREFIX_BYTES[len(spec.prefixes) - 1]
            record.new_from_bytes = known_bytes if is_first else -1
            record.known_bytes = self._prefixes.known_bytes(runner, spec, name)
            self._prefixes.started(runner, spec, name, residency)

    def __len__(self) -> int:
        return len(self._last)


def _elsewhere(least: Dispatch, found: Sequence[Dispatch], failed_on: str) -> Dispatch:
    """The same request where it has not just failed, if it may start there."""
    others = (
        each for each in found if each.entry == least.entry and each.backend.name != failed_on
    )
    return min(others, key=_load, default=least)


def _is_near(dispatch: Dispatch, least: Dispatch, busier: int) -> bool:
    """Is it busier than the least busy by no more requests than that?"""
    return dispatch.load - least.load <= dispatch.share * busier + _TINY


def _load(dispatch: Dispatch) -> float:
    return dispatch.load


def _session_of(record: Record) -> _Session:
    return record.spec.key[0], record.spec.session_id, record.line[0]
