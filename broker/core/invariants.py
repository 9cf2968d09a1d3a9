"""The conservation laws of the engine. Tests check them after every turn; O(n)."""

from __future__ import annotations

from broker.core.engine import Engine
from broker.core.errors import InvariantBroken
from broker.core.lifecycle import HOLDS_SLOT, State
from broker.core.residency import ResidencyState


def check(engine: Engine) -> None:
    """Raises InvariantBroken unless every law holds."""
    _check_queue(engine)
    _check_slots(engine)
    for backend in engine.backends.values():
        switching = [
            each
            for each in backend.residents.values()
            if each.state in (ResidencyState.LOADING, ResidencyState.UNLOADING)
        ]
        if len(switching) > 1:
            raise InvariantBroken("more than one load or unload at a time on one backend")


def _check_queue(engine: Engine) -> None:
    for line in engine.lines.values():
        line.check()
        if line.size == 0:
            raise InvariantBroken("an empty line is kept")
    in_lines = sum(line.size for line in engine.lines.values())
    waiting = sum(each.state is State.QUEUED for each in engine.records.values())
    if not in_lines == waiting == engine.tally.queued:
        raise InvariantBroken("requests in lines, records that wait and the tally differ")
    newcomers = sum(
        each.state is State.QUEUED and each.tries == 0 for each in engine.records.values()
    )  # what comes back from a lost backend had been let in before
    if newcomers > engine.policy.queue.queued_max:
        raise InvariantBroken("more requests wait than may")
    for key, record in engine.records.items():
        if key != record.spec.key:
            raise InvariantBroken("a record is kept under another's key")


def _check_slots(engine: Engine) -> None:
    """Slots held are attempts, no more run than may, and a free slot never waits for nothing."""
    if len(engine.attempts) != engine.tally.running:
        raise InvariantBroken("attempts and the tally differ")
    held: dict[int, int] = {}
    for attempt in engine.attempts.values():
        held[id(attempt.residency)] = held.get(id(attempt.residency), 0) + 1
        if attempt.record.state not in HOLDS_SLOT:
            raise InvariantBroken("an attempt's request does not hold its slot")
    for backend in engine.backends.values():
        for residency in backend.residents.values():
            if residency.running != held.get(id(residency), 0):
                raise InvariantBroken("slots held and attempts differ")
            if residency.running > residency.slots:
                raise InvariantBroken("more requests run than there are slots")
            is_named = backend.resident(residency.runner) is not None
            if backend.up and is_named and residency.has_free_slot:
                for runner, num_ctx in engine.lines:
                    if runner == residency.runner and residency.fits(num_ctx):
                        raise InvariantBroken("a slot is free while a request waits for it")
