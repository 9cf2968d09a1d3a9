"""What a request surely still needs, by what was measured, and until when it could begin.

Whoever surely comes too late is refused on the way in (`feasibility.py`), and ends as soon as that
is so while it waits: its client hears of it early, and neither a slot nor a load is spent on it.
Surely means even if all went `deadline_margin` times faster than measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from broker.core.estimates import Estimates
from broker.core.lifecycle import WAITS
from broker.core.offers import Offers
from broker.core.placement import BackendState
from broker.core.queueing import QueuePolicy
from broker.core.record import Record
from broker.core.requests import RequestSpec
from broker.core.residency import ResidencyState

_THERE: Final = (ResidencyState.RESIDENT, ResidencyState.DRAINING)


class Needs(NamedTuple):
    """Time that is surely needed until an answer. `load_ns`: until its model is loaded; it is being
    loaded where `is_loading`."""

    load_ns: float
    run_ns: float
    is_loading: bool = False

    @property
    def answer_ns(self) -> float:
        return self.load_ns + self.run_ns

    @property
    def lasting_ns(self) -> float:
        """The part that does not get less while it waits, as a load under way does."""
        return self.run_ns if self.is_loading else self.answer_ns

    @property
    def words(self) -> str:
        text = f"an answer takes {self.answer_ns / 1e9:.1f} s"
        if not self.load_ns:
            return text
        return f"{text}, {self.load_ns / 1e9:.1f} s of them until its model is loaded"


class Lateness:
    """See the module. Changes nothing but when a record is looked at."""

    def __init__(
        self,
        policy: QueuePolicy,
        backends: Mapping[str, BackendState],
        estimates: Estimates,
        offers: Offers,
    ) -> None:
        self.margin = policy.deadline_margin
        self._backends = backends
        self._estimates = estimates
        self._offers = offers

    def configure(self, policy: QueuePolicy) -> None:
        """From now on it is judged by this."""
        self.margin = policy.deadline_margin

    def needs(self, runner: str, spec: RequestSpec, now_ns: int) -> Needs | None:
        """What such a request needs from now on, were it the next; None: too few samples to say
        anything."""
        run_ns = self._estimates.expected_ns(runner, spec)
        if run_ns is None:
            return None
        least_ns, is_loading = -1.0, False
        for backend in self._backends.values():
            if runner not in backend.by_runner:
                continue
            residency = backend.residents.get(runner)
            # A server that is away may come back with the model loaded.
            if not backend.up or (residency is not None and residency.state in _THERE):
                return Needs(0.0, run_ns)
            load_ns, is_under_way = self._load_ns(backend, runner, now_ns)
            if load_ns <= 0:
                return Needs(0.0, run_ns, is_under_way)
            is_loading = is_loading or is_under_way
            least_ns = load_ns if least_ns < 0 else min(least_ns, load_ns)
        return Needs(max(0.0, least_ns), run_ns, is_loading)

    def _load_ns(self, backend: BackendState, runner: str, now_ns: int) -> tuple[float, bool]:
        """What is surely left of a load there, and whether it is under way."""
        least_ns = self._estimates.load_times.least_ns(runner, backend.name, now_ns)
        residency = backend.residents.get(runner)
        if residency is None or residency.state is not ResidencyState.LOADING:
            return least_ns, False
        return least_ns - (now_ns - residency.load_started_ns) * self.margin, True

    def plan(self, record: Record, now_ns: int) -> int:
        """When it is to be looked at next: once it could not begin in time any more, as things are
        now; at its deadline where it runs, or nothing is known of it. What is known when it gets a
        slot counts in any case."""
        if record.state not in WAITS:
            return record.deadline_ns
        needs = None if record.pieces_kept else self._needs_of(record, now_ns)
        return self._plan(record, None if needs is None else needs.lasting_ns, now_ns)

    def plan_new(self, record: Record) -> int:
        """The same of one that has just come, by what the gate has found."""
        return self._plan(record, record.passage.lasting_ns, record.arrived_ns)

    def _plan(self, record: Record, lasting_ns: float | None, now_ns: int) -> int:
        if lasting_ns is None:
            record.look_ns = now_ns
            return record.deadline_ns
        sooner_ns = max(0, int(lasting_ns / self.margin) - 1)
        record.look_ns = at_ns = record.deadline_ns - sooner_ns
        return at_ns

    def is_late(self, record: Record, now_ns: int) -> Needs | None:
        """What it needs, where there surely is not the time for that any more. What it has got of
        an answer that goes on is not known to be short of anything."""
        if record.state not in WAITS or record.pieces_kept:
            return None
        needs = self._needs_of(record, now_ns)
        return needs if needs is not None and self._lacks(record, needs, now_ns) else None

    def is_too_late(self, runner: str, record: Record, now_ns: int) -> bool:
        """Would it surely come too late by this runner, were it to wait for that from now on?"""
        needs = self.needs(runner, self._as_cut(record.spec), now_ns)
        return needs is not None and self._lacks(record, needs, now_ns)

    def _lacks(self, record: Record, needs: Needs, now_ns: int) -> bool:
        return now_ns > record.deadline_ns - int(needs.answer_ns / self.margin)

    def _as_cut(self, spec: RequestSpec) -> RequestSpec:
        """As the level would let it run."""
        most = self._offers.output_tokens_max(spec) if self._offers.level else None
        return spec if most is None else replace(spec, output_tokens_max=most)

    def _needs_of(self, record: Record, now_ns: int) -> Needs | None:
        """By whichever of its models it would be there first."""
        spec = self._as_cut(record.spec)
        if not record.accepts:
            return self.needs(record.line[0], spec, now_ns)
        found = [self.needs(each.line[0], spec, now_ns) for each in record.accepts]
        known = [each for each in found if each is not None]
        return min(known, key=lambda each: each.answer_ns) if len(known) == len(found) else None
