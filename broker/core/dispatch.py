"""Which free slot gets which request, and what the backend is told: the next of the line, on the
backend that `routing.py` chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from broker.core.effects import StartAttempt
from broker.core.errors import BackendUnreachable
from broker.core.level import Level
from broker.core.model_name import comparison_key
from broker.core.placement import BackendState
from broker.core.queueing import Line, LineKey
from broker.core.record import Attempt, Record
from broker.core.requests import Criticality
from broker.core.residency import Residency
from broker.core.routing import Dispatch, Routing
from broker.core.stimuli import AttemptEnded

# Of English text in the vocabularies in use; only for what no backend has counted.
BYTES_PER_TOKEN: Final = 4

# Whatever a backend says that it has counted: far more than any model can, and what the queue bears
# at the highest price of a token.
TOKENS_MAX: Final = 100_000_000


def next_dispatch(
    runner: str,
    backends: Mapping[str, BackendState],
    lines: Mapping[LineKey, Line],
    routing: Routing,
    *,
    is_for_all: bool = False,
) -> Dispatch | None:
    """The next request for this runner and the slot it gets; None where nothing can start.

    Among backends that could start it now `routing` chooses. `is_for_all`: also what the level lets
    go only after the others.
    """
    found = list[Dispatch]()
    for backend in backends.values():
        residency = backend.resident(runner)
        if residency is None or not residency.has_free_slot or not backend.takes(runner):
            continue
        entry = _next_for(residency, lines, is_for_all)
        if entry:
            found.append(Dispatch(backend, residency, entry))
    return routing.choose(found) if found else None


def _next_for(residency: Residency, lines: Mapping[LineKey, Line], is_for_all: bool) -> int:
    """The handle of the next request that may run on it; 0: none."""
    best: tuple[int, int, int] | None = None
    for (runner, num_ctx), line in lines.items():
        if runner == residency.runner and residency.fits(num_ctx):
            candidate = line.best_of_all() if is_for_all else line.best()
            if candidate is not None and (best is None or candidate[:2] < best[:2]):
                best = candidate
    return 0 if best is None else best[2]


def counted(ended: AttemptEnded) -> tuple[int, int]:
    """(prompt, output) tokens that the backend says it counted, within bounds; 0: not counted."""
    return (
        min(max(0, ended.prompt_tokens), TOKENS_MAX),
        min(max(0, ended.output_tokens), TOKENS_MAX),
    )


def tokens_of(attempt: Attempt, ended: AttemptEnded) -> tuple[int, int]:
    """(prompt, output) tokens: as the backend counted them, else by its text. A call that was cut
    off tells nothing of its prompt, and what was cut off is not free."""
    prompt, output = counted(ended)
    if not prompt and not isinstance(ended.error, BackendUnreachable):
        prompt = min(attempt.record.spec.prompt_bytes // BYTES_PER_TOKEN, TOKENS_MAX)
    return prompt, output


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
        changes=changes_made(attempt),
        queue_wait_ns=queue_wait_ns,
        load_wait_ns=_load_wait_ns(record, residency),
        level=attempt.level,
        output_tokens_max=_tokens_left(attempt),
        number=attempt.number,
        chosen_because=chosen_because(record) if record.sent is not None else "",
        continues=attempt.continues,
    )


def _tokens_left(attempt: Attempt) -> int | None:
    """How long the answer may be; less where it goes on from pieces of attempts before."""
    most, kept = attempt.output_tokens_max, attempt.record.pieces_kept
    if kept and most is None:
        most = attempt.record.spec.output_tokens_max or None
    return max(1, most - kept) if kept and most is not None else most


def _load_wait_ns(record: Record, residency: Residency) -> int:
    """How long of its wait this request's model was being loaded."""
    return max(0, residency.loaded_ns - max(record.arrived_ns, residency.load_started_ns))


def changes_made(attempt: Attempt) -> tuple[str, ...]:
    """What the backend gets otherwise than asked, in words."""
    record, level = attempt.record, attempt.level
    spec, kind = record.spec, record.agent.type
    if (
        level is Level.NORMAL
        and record.priority == spec.priority
        and not spec.num_ctx_needed
        and kind.may_be_critical
        and not record.is_for_level
        and not record.instead
    ):
        return ()  # the usual request
    changes = list(substitution(record, spelled(attempt)))
    if record.priority != spec.priority:
        changes.append(
            f"priority is {record.priority} instead of {spec.priority}, the best for this agent"
        )
    if spec.criticality is Criticality.CRITICAL and not kind.may_be_critical:
        changes.append(f"criticality is normal: agents of type {kind.name} may not be critical")
    asked, sent = spec.num_ctx_needed, attempt.residency.num_ctx_sent
    if asked and sent is not None and sent != asked:
        changes.append(f"num_ctx is {sent} instead of {asked}")
    most, wanted = attempt.output_tokens_max, spec.output_tokens_max
    if most is not None and wanted:
        changes.append(f"max_tokens is {most} instead of {wanted} (level {level.word})")
    elif most is not None:
        changes.append(f"max_tokens is {most}, as the level is {level.word}")
    return tuple(changes)


def substitution(record: Record, model: str = "") -> tuple[str, ...]:
    """Why another model answers; `model` as its backend spells it, where one has it already."""
    why = "only small models run" if record.is_for_level else record.instead
    words = f"model is {model or record.model} instead of {record.spec.model}: {why}"
    return (words,) if why else ()


def chosen_because(record: Record) -> str:
    """Why this model answers a request that named none; "" for one that did."""
    return "; ".join((record.because, *substitution(record))) if record.sent is not None else ""


def spelled(attempt: Attempt) -> str:
    """The model as its backend spells it. What is loaded may go by another of its names there."""
    name = attempt.residency.model
    return name if comparison_key(name) == attempt.model else attempt.model
