"""The conservation laws of the engine. Tests check them after every turn; O(n)."""

from __future__ import annotations

from broker.core.engine import Engine
from broker.core.errors import InvariantBroken
from broker.core.healing import Health
from broker.core.lifecycle import HOLDS_SLOT, State
from broker.core.record import Attempt
from broker.core.residency import ResidencyState


def check(engine: Engine) -> None:
    """Raises InvariantBroken unless every law holds."""
    _check_queue(engine)
    _check_slots(engine)
    _check_compartments(engine)
    _check_preemptions(engine)
    engine.breakers.check()
    for backend in engine.backends.values():
        switching = [
            each
            for each in backend.residents.values()
            if each.state not in (ResidencyState.RESIDENT, ResidencyState.DRAINING)
        ]
        if len(switching) > 1:
            raise InvariantBroken("more than one load or unload at a time on one backend")
        if backend.shut_until_ns is not None and backend.health is not Health.WEDGED:
            raise InvariantBroken("a server that is not wedged is held to load nothing")


def _check_queue(engine: Engine) -> None:
    engine.backlog.check()
    in_lines = sum(line.size for line in engine.lines.values())
    waiting = sum(each.state is State.QUEUED for each in engine.records.values())
    if not in_lines == waiting == engine.tally.queued:
        raise InvariantBroken("requests in lines, records that wait and the tally differ")
    newcomers = sum(
        each.state is State.QUEUED and each.tries == 0 for each in engine.records.values()
    )  # what comes back from a lost backend had been let in before
    # A limit that was lowered by a reload does not throw out what waits.
    if newcomers > engine.policy.queue.queued_max and not engine.reloads:
        raise InvariantBroken("more requests wait than may")
    backing_off = sum(each.state is State.REQUEUED for each in engine.records.values())
    if backing_off != engine.ledger.backing_off:
        raise InvariantBroken("requests in their backoff and their count differ")
    standing = sum(each.state is State.ADMITTED for each in engine.records.values())
    if standing != len(engine.room):
        raise InvariantBroken("requests in the waiting room and records that stand differ")
    for key, record in engine.records.items():
        if key != record.spec.key:
            raise InvariantBroken("a record is kept under another's key")


def _check_compartments(engine: Engine) -> None:
    """No more run in a compartment than may, and agents' own counts hold."""
    running: dict[int, int] = {}
    of_agent: dict[str, int] = {}
    for attempt in engine.attempts.values():
        record = attempt.record
        running[record.compartment] = running.get(record.compartment, 0) + 1
        of_agent[record.agent.id] = of_agent.get(record.agent.id, 0) + 1
    for bit, count in running.items():
        if count != engine.bulkheads.running(bit):
            raise InvariantBroken("what runs in a compartment and its count differ")
        limit = engine.bulkheads.limit(bit)
        if limit is not None and count > limit and not engine.reloads:
            raise InvariantBroken("more runs in a compartment than may")
    live: dict[str, int] = {}
    for record in engine.records.values():
        live[record.agent.id] = live.get(record.agent.id, 0) + 1
    for agent in engine.agents:
        if agent.running != of_agent.get(agent.id, 0) or agent.live != live.get(agent.id, 0):
            raise InvariantBroken(f"the counts of agent {agent.id} do not hold")
    if sum(each.live for each in engine.agents) != len(engine.records):
        raise InvariantBroken("an agent with work under way was forgotten")


def _is_set_aside(attempt: Attempt) -> bool:
    """Does its request wait again, and only its slot has to come free?"""
    return attempt.is_preempted and attempt.grace_timer > 0


def _check_preemptions(engine: Engine) -> None:
    """Only what its owner lets be set aside is, and not more often than may be."""
    preemptible = {key for key, each in engine.attempts.items() if each.record.spec.preemptible}
    if set(engine.ledger.preemptible) != preemptible:
        raise InvariantBroken("what may be set aside is kept wrong")
    most = engine.policy.preemption.preemptions_max
    for record in engine.records.values():
        if record.preemptions and not record.spec.preemptible:
            raise InvariantBroken("what its owner did not mark preemptible was set aside")
        if record.preemptions > most and not engine.reloads:
            raise InvariantBroken("a request was set aside more often than may be")


def _check_slots(engine: Engine) -> None:
    """Slots held are attempts, no more run than may, and a free slot never waits for nothing. What
    the level lets go after the others may have to leave one free: for them to get room."""
    if len(engine.attempts) != engine.tally.running:
        raise InvariantBroken("attempts and the tally differ")
    held: dict[int, int] = {}
    for attempt in engine.attempts.values():
        held[id(attempt.residency)] = held.get(id(attempt.residency), 0) + 1
        if attempt.record.state not in HOLDS_SLOT and not _is_set_aside(attempt):
            raise InvariantBroken("an attempt's request does not hold its slot")
    for backend in engine.backends.values():
        for residency in backend.residents.values():
            if residency.running != held.get(id(residency), 0):
                raise InvariantBroken("slots held and attempts differ")
            if residency.running > residency.slots and not engine.reloads:
                raise InvariantBroken("more requests run than there are slots")
            is_named = backend.resident(residency.runner) is not None
            if is_named and backend.takes(residency.runner) and residency.has_free_slot:
                for runner, num_ctx in engine.backlog.first:
                    if runner == residency.runner and residency.fits(num_ctx):
                        raise InvariantBroken("a slot is free while a request waits for it")
