"""Which of the backends that could start a request now gets it.

Of those that hold its model and have a free slot: the one with the least load, which is the part of
its slots that is taken, over its weight; but rather the one that has served the same session last,
and so may still have its prompt in its cache, as long as that is not busier by more than one
request. A request that names no session prefers what served its agent's last one of that model, but
only among equals: two requests of one agent are better off on two servers. A request that a backend
has just failed goes to another first, however busy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from broker.core.placement import BackendState
from broker.core.record import Record
from broker.core.residency import Residency

# Sessions whose last backend is remembered: far more than the slots of any pool, as only what is
# still in the cache of a slot is worth remembering.
AFFINITIES_MAX: Final = 10_000

# Loads are quotients: equal ones may differ by so little.
_TINY: Final = 1e-9


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
        self, backends: Mapping[str, BackendState], record_of: Callable[[int], Record]
    ) -> None:
        self._backends = backends
        self._record_of = record_of
        self._last: OrderedDict[_Session, str] = OrderedDict()  # the name of a backend

    def choose(self, found: Sequence[Dispatch]) -> Dispatch:
        """One of these, which are in the order of the configuration; it will be started."""
        if len(self._backends) == 1:
            return found[0]  # no other ever gets anything: there is nothing to remember
        least = min(found, key=_load)  # the first configured among equals
        record = self._record_of(least.entry)
        session = _session_of(record)
        if record.past:
            chosen = _elsewhere(least, found, record.past[-1].backend)
        else:
            chosen = self._again(least, found, session)
        self._last[session] = chosen.backend.name
        self._last.move_to_end(session)
        if len(self._last) > AFFINITIES_MAX:
            self._last.popitem(last=False)
        return chosen

    def _again(self, least: Dispatch, found: Sequence[Dispatch], session: _Session) -> Dispatch:
        """Where this session was served last, unless that is too busy or has not the context that
        the request needs."""
        name = self._last.get(session)
        for each in found:
            if each.backend.name == name and each.entry == least.entry:
                more = each.share if session[1] else 0.0
                return each if each.load - least.load <= more + _TINY else least
        return least

    def __len__(self) -> int:
        return len(self._last)


def _elsewhere(least: Dispatch, found: Sequence[Dispatch], failed_on: str) -> Dispatch:
    """The same request where it has not just failed, if it may start there."""
    others = (
        each for each in found if each.entry == least.entry and each.backend.name != failed_on
    )
    return min(others, key=_load, default=least)


def _load(dispatch: Dispatch) -> float:
    return dispatch.load


def _session_of(record: Record) -> _Session:
    return record.spec.key[0], record.spec.session_id, record.line[0]
