"""Rules of placement that lost, for comparison only: each stands behind the port of the product's.

Sources: reference/SWAPS.md, which measured them.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.core.demands import Demand, View
from broker.core.residency import Residency


class Exhaustive:
    """Exhaust the resident model's queue before leaving it; then load the model whose requests have
    waited longest, all together.

    Measured on a real Ollama, every rule that leaves a backlog because somebody has waited a fixed
    time was slower than no broker at all (reference/SWAPS.md).
    """

    def rank(self, view: View, demands: Sequence[Demand]) -> list[Demand]:
        """The longest total wait. What was gated for others is last, whatever has gathered since:
        else it would be loaded again at once, and they would wait for ever."""
        return sorted(
            demands,
            key=lambda each: (
                each.was_gated,
                each.is_placed_elsewhere,
                -each.waited_ns,
                each.runner,
            ),
        )

    def leaving(
        self, view: View, target: Demand, candidates: Sequence[Residency]
    ) -> list[Residency]:
        """Those whose queue is exhausted, idle longest."""
        return sorted(
            (each for each in candidates if view.is_exhausted(each)),
            key=lambda each: (each.running, each.used_ns, each.runner),
        )


class FixedPatience:
    """Whoever has waited longest decides; nobody waits longer than `patience_ns` for a model if it
    can be helped: then a resident model is left, whatever waits for it. Before that it is left when
    its queue is exhausted."""

    def __init__(self, patience_ns: int) -> None:
        self._patience_ns = patience_ns

    def rank(self, view: View, demands: Sequence[Demand]) -> list[Demand]:
        """The oldest head first. What was told to leave has its turn after the others, else two
        overdue models would only take each other's place."""
        return sorted(
            demands,
            key=lambda each: (each.was_gated, _since_ns(view, each), each.runner),
        )

    def leaving(
        self, view: View, target: Demand, candidates: Sequence[Residency]
    ) -> list[Residency]:
        """All, once the patience is over; those loaded longest first."""
        is_overdue = view.now_ns - _since_ns(view, target) > self._patience_ns
        return sorted(
            (each for each in candidates if is_overdue or view.is_exhausted(each)),
            key=lambda each: (not view.is_exhausted(each), each.loaded_ns, each.runner),
        )


def _since_ns(view: View, demand: Demand) -> int:
    head = view.head(demand)
    return view.now_ns if head is None else head.since_ns
