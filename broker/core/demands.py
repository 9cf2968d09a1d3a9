"""What waits that a backend cannot serve as it is: the wants that a placement rule chooses among.

`View` is all that a rule may look at: one backend at one moment. It is made anew in each turn and
changes nothing; what costs more than a look (a head, the requests themselves) is asked for when a
rule wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from broker.core.estimates import Estimates
from broker.core.placement import BackendState, may_get_room, may_leave, slots_for, slots_promised
from broker.core.queueing import Head, Line, LineKey
from broker.core.record import Record
from broker.core.residency import Residency


def _nobody(runner: str) -> Sequence[Record]:
    """Where requests have no choice."""
    return ()


def no_loss(backend: BackendState, residency: Residency, now_ns: int) -> float:
    """Where nothing is expected."""
    return 0.0


def _none(runner: str) -> int:
    """How many there are of them."""
    return 0


@dataclass(slots=True)
class Demand:
    """The requests for one runner that this backend cannot serve as it is.

    `size` counts what could run, `waited_ns` adds up its waits. `is_placed_elsewhere`: another
    backend serves it too, with fewer slots than wait. `was_gated`: it was told to leave since the
    last load, for others that still wait.
    """

    runner: str
    num_ctx: int = 0
    size: int = 0
    waited_ns: int = 0
    is_placed_elsewhere: bool = False
    was_gated: bool = False
    lines: list[Line] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class View:
    """One backend at one moment, with what waits. `lines`: whose wants count here; `is_first`: of
    these only what goes before what the level holds back. `forward` gives the first requests of a
    runner in the order in which they would start, at a cost that grows with how many are asked for;
    `starts_until_ns` says when the wait of one is over at the latest. `accepting`: which of those
    that have a choice a runner may answer, wherever they wait; `choosers` counts them, at once.
    `losses` says what the absence of a model would probably cost, 0 where nothing is expected."""

    backend: BackendState
    others: Sequence[BackendState]
    lines: Mapping[LineKey, Line]
    is_first: bool
    estimates: Estimates
    now_ns: int
    forward: Callable[[str, int, int], list[Record]]
    starts_until_ns: Callable[[Record], int]
    accepting: Callable[[str], Sequence[Record]] = _nobody
    choosers: Callable[[str], int] = _none
    losses: Callable[[BackendState, Residency, int], float] = no_loss

    def loss(self, residency: Residency) -> float:
        """How much wait its absence would probably make, by the second (`preload_choice.py`)."""
        return self.losses(self.backend, residency, self.now_ns)

    def is_exhausted(self, residency: Residency) -> bool:
        """Is it ours and open, and does nothing wait that it could serve? What nothing may be
        started of keeps no model."""
        lines, backend = self.lines, self.backend
        if backend.broken or backend.healing:
            lines = {key: line for key, line in lines.items() if backend.takes(key[0])}
        return may_leave(residency, lines)

    def head(self, demand: Demand) -> Head | None:
        """What of this demand would start first; None where nothing may. O(classes)."""
        heads = [line.head(is_for_all=not self.is_first) for line in demand.lines]
        return min((each for each in heads if each is not None), default=None)

    def size_of(self, runner: str) -> int:
        """How many wait for a runner, be it resident or not."""
        return sum(line.size for key, line in self.lines.items() if key[0] == runner)

    def demand_of(self, line: Line) -> tuple[int, int]:
        """The same of one line."""
        return line.demand_first(self.now_ns) if self.is_first else line.demand(self.now_ns)

    def front(self, runner: str, limit: int) -> list[Record]:
        """The first requests of a runner, in the order in which they would start."""
        return self.forward(runner, self.now_ns, limit)

    def joining(self, runner: str) -> list[Record]:
        """Those that wait for another runner which nobody serves, and that this one would answer as
        soon as it were there; in no order that means anything."""
        served: dict[LineKey, bool] = {}
        found = list[Record]()
        for record in self.accepting(runner):
            line = record.line
            if line[0] == runner:
                continue
            if line not in served:
                those = (self.backend, *self.others)
                served[line] = any(slots_for(each, line) for each in those)
            if not served[line]:
                found.append(record)
        return found

    @property
    def slots(self) -> float:
        """How many requests run at once on all backends where as many models as fit are loaded."""
        return sum(_slots(each) for each in (self.backend, *self.others))


def _slots(backend: BackendState) -> float:
    specs = backend.by_runner.values()
    if not specs or not backend.is_open:
        return 0.0
    fits = min(backend.policy.resident_max, len(specs))
    return fits * sum(each.slots for each in specs) / len(specs)


def find_demands(view: View, *, with_promises: bool) -> list[Demand]:
    """The runners that could be loaded here and that nobody serves, in no order that means
    anything.

    A runner that another backend serves is wanted here too only while its backlog exceeds the slots
    it has there: one model on two servers costs two loads. `with_promises`: so is one that another
    backend makes room for; where there is room already, waiting for that would be a waste. What can
    never have room beside strangers is no target: others could use what it would wait for. What
    keeps its models loads none.
    """
    backend, others = view.backend, view.others
    if backend.policy.keeps_models:
        return []  # what it lists is there, and no more can be
    demands: dict[str, Demand] = {}
    for key, line in view.lines.items():
        runner, num_ctx = key
        if runner not in backend.by_runner or backend.holds_off(runner, view.now_ns):
            continue
        if not backend.takes(runner):
            continue
        if slots_for(backend, key) or not may_get_room(backend, runner):
            continue
        elsewhere = sum(slots_for(each, key) for each in others)
        if with_promises:
            elsewhere += sum(slots_promised(each, key) for each in others)
        size, waited_ns = view.demand_of(line)
        if elsewhere and size <= elsewhere:
            continue
        demand = demands.setdefault(runner, Demand(runner, was_gated=runner == backend.gated))
        demand.num_ctx = max(demand.num_ctx, num_ctx)
        demand.size += size
        demand.waited_ns += waited_ns
        demand.is_placed_elsewhere = demand.is_placed_elsewhere or elsewhere > 0
        demand.lines.append(line)
    return list(demands.values())
