"""When a backend changes its models, and to what: the port behind which the rule stands.

`switching.py` asks a rule two questions in its turns and does the rest: it gates, drains, unloads,
proves, loads and opens, one thing at a time, and never touches what the broker does not manage. So
no rule can break what the protocol promises; a poor one only costs loads and time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from broker.core.demands import Demand, View
from broker.core.placement import BackendState, fits_without, movable
from broker.core.residency import Residency


class PlacementRule(Protocol):
    """Asked several times in one turn, with the same answers: it changes nothing that it sees.

    It is asked in every turn in which somebody waits for what is not resident, and at least with
    every look at the residents. A turn is all the time there is: it must not wait.
    """

    def rank(self, view: View, demands: Sequence[Demand]) -> list[Demand]:
        """What to load here, the next first. What is left out is not loaded now; where all are,
        what was told to leave for one of them stays."""
        ...

    def leaving(
        self, view: View, target: Demand, candidates: Sequence[Residency]
    ) -> list[Residency]:
        """Which of these may leave for `target` now, the first to leave first: all that may, as
        nothing is told to leave where `target` would not fit even then. Empty: not yet."""
        ...


def choose_victim(rule: PlacementRule, view: View, target: Demand) -> Residency | None:
    """What is told to leave for `target` first; None where nothing may yet, or where that would
    not make room enough even with all that may. Of those that are to leave first none leaves that
    the others make room without."""
    backend = view.backend
    leaving = rule.leaving(view, target, movable(backend, target.runner))
    if not leaving:
        return None
    if target.runner in backend.residents:
        return leaving[0]
    return next(iter(least_leaving(backend, target.runner, leaving)), None)


def least_leaving(
    backend: BackendState, runner: str, leaving: Sequence[Residency]
) -> list[Residency]:
    """Of these, in their order, as few as make room for a runner; none where all would not."""
    needed = list[Residency]()
    for each in leaving:
        needed.append(each)
        if fits_without(backend, runner, needed):
            break
    else:
        return []
    for each in needed[:-1]:
        others = [other for other in needed if other is not each]
        if fits_without(backend, runner, others):
            needed = others
    return needed
