"""Which free slot gets which request, and what the backend is told: the next of the line, on the
backend with most room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from broker.core.effects import StartAttempt
from broker.core.placement import BackendState, LineKey
from broker.core.queueing import Line
from broker.core.record import Attempt, Record
from broker.core.requests import RequestKey
from broker.core.residency import Residency


class Dispatch(NamedTuple):
    """This request on this runner of this backend."""

    backend: BackendState
    residency: Residency
    key: RequestKey


def next_dispatch(
    runner: str, backends: Mapping[str, BackendState], lines: Mapping[LineKey, Line]
) -> Dispatch | None:
    """The next request for this runner and the slot it gets; None where nothing can start.

    Among backends the one with the most free slots, the first configured among equals.
    """
    found: Dispatch | None = None
    free_most = 0
    for backend in backends.values():
        residency = backend.resident(runner)
        if not backend.up or residency is None or not residency.has_free_slot:
            continue
        free = residency.slots - residency.running
        if free > free_most:
            key = _next_for(residency, lines)
            if key is not None:
                found, free_most = Dispatch(backend, residency, key), free
    return found


def _next_for(residency: Residency, lines: Mapping[LineKey, Line]) -> RequestKey | None:
    best: tuple[int, int, RequestKey] | None = None
    for (runner, num_ctx), line in lines.items():
        if runner == residency.runner and residency.fits(num_ctx):
            candidate = line.best()
            # Equal keys go by the order of the lines, as the positions that clients are told do.
            if candidate is not None and (best is None or candidate[:2] < best[:2]):
                best = candidate
    return None if best is None else best[2]


def order_of(attempt: Attempt, backend: BackendState, queue_wait_ns: int) -> StartAttempt:
    """The word to the shell that starts this attempt."""
    record, residency = attempt.record, attempt.residency
    model = backend.models.get(record.model) or backend.by_runner[residency.runner]
    return StartAttempt(
        attempt=attempt.id,
        key=record.spec.key,
        backend=backend.name,
        model=model.name,
        num_ctx=residency.num_ctx_sent,
        substituted_for=record.substituted_for,
        changes=_changes_made(record, residency),
        queue_wait_ns=queue_wait_ns,
        load_wait_ns=_load_wait_ns(record, residency),
    )


def _load_wait_ns(record: Record, residency: Residency) -> int:
    """How long of its wait this request's model was being loaded."""
    return max(0, residency.loaded_ns - max(record.arrived_ns, residency.load_started_ns))


def _changes_made(record: Record, residency: Residency) -> tuple[str, ...]:
    """What the backend gets otherwise than asked, in words."""
    asked, sent = record.spec.num_ctx_needed, residency.num_ctx_sent
    if asked and sent is not None and sent != asked:
        return (f"num_ctx is {sent} instead of {asked}",)
    return ()
