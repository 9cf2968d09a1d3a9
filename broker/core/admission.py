"""The way in: may this request enter, and as what? One gate after the other, each with its reason.

Order (DESIGN.md): identity and signature, replay window, validation, idempotency, request bucket,
cache, single flight, degradation gate, token bucket, backpressure, feasibility. Built so far:
validation against the catalogue, idempotency (in the engine), drain, and the bounded queue; the
others take their place between these, in that order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from broker.core.errors import (
    CapabilityMissing,
    DeadlineExpired,
    FieldProblem,
    InvalidRequest,
    LoadFailed,
    ModelUnknown,
    NoBackend,
    QueueFull,
)
from broker.core.estimates import Estimates
from broker.core.model_name import comparison_key, nearest
from broker.core.placement import BackendState, LineKey
from broker.core.queueing import QueuePolicy
from broker.core.requests import ANY_OF, RequestSpec
from broker.core.stimuli import ModelSpec

# A context that is not configured is the backend's own choice; every Ollama gives at least this
# (its lowest tier, reference/OLLAMA.md §4), so a request that needs no more fits the usual size.
NUM_CTX_ASSUMED: int = 4096

RETRY_AFTER_NS_MIN = 100_000_000  # not worth a client's round trip below this
RETRY_AFTER_NS_MAX = 60_000_000_000  # nobody should stay away for longer on one measurement
NO_BACKEND_RETRY_NS = 2_000_000_000  # a backend that is down is asked again this often


class UnderWay(NamedTuple):
    """How much there is already. `live` counts what waits and what holds a slot."""

    queued: int
    queued_bytes: int
    live: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What the gates decided: the model that will answer and the line to wait in."""

    model: str  # comparison key
    substituted_for: str
    line: LineKey


def find_model(
    spec: RequestSpec, backends: Mapping[str, BackendState]
) -> tuple[str, ModelSpec, str]:
    """(comparison key, model, name it replaces or ""): the one asked for, else the first fallback
    that some backend which answers has. ModelUnknown or NoBackend where there is none."""
    for name in (spec.model, *spec.fallback_models):
        key = comparison_key(name)
        for backend in backends.values():
            if backend.up and key in backend.models:
                return key, backend.models[key], "" if name == spec.model else spec.model
    wanted = comparison_key(spec.model)
    down = [each for each in backends.values() if not each.up]
    # One that has listed nothing yet may have the model: "unknown" would be final, and untrue.
    may_have = any(wanted in each.models or not each.models for each in down)
    if down and (len(down) == len(backends) or may_have):
        why = "; ".join(f"{each.name}: {each.problem}" for each in down)
        raise NoBackend(
            f"no backend that has {spec.model!r} answers ({why})",
            retry_after_ns=NO_BACKEND_RETRY_NS,
        )
    raise ModelUnknown(spec.model, nearest(spec.model, all_names(backends)))


def context_line(spec: RequestSpec, model: ModelSpec) -> LineKey:
    """The line of the usual context, or of the next power of two that holds what is needed: so a
    model is restarted a few times at most, whatever sizes are asked for."""
    usual = model.num_ctx or NUM_CTX_ASSUMED
    if spec.num_ctx_needed <= usual:
        return model.runner, 0
    ceiling = max(model.num_ctx_max, usual)
    if spec.num_ctx_needed > ceiling:
        problem = f"is {spec.num_ctx_needed}; {model.name} may have at most {ceiling}"
        raise InvalidRequest((FieldProblem(field="options.num_ctx", problem=problem),))
    return model.runner, min(1 << (spec.num_ctx_needed - 1).bit_length(), ceiling)


def find_line(spec: RequestSpec, model: str, backends: Mapping[str, BackendState]) -> LineKey:
    """The line of a request that was admitted for this model (comparison key), as things are now.
    ModelUnknown where no backend has it any more."""
    for backend in backends.values():
        if model in backend.models:
            return context_line(spec, backend.models[model])
    raise ModelUnknown(spec.model, nearest(spec.model, all_names(backends)))


def all_names(backends: Mapping[str, BackendState]) -> list[str]:
    """The names of all models on all backends, each once, in order."""
    return sorted({model.name for each in backends.values() for model in each.models.values()})


def check_capabilities(spec: RequestSpec, model: ModelSpec) -> None:
    """A backend that tells no capabilities is believed to have them all."""
    if not model.capabilities or spec.needs <= model.capabilities:
        return
    missing = [
        need for need in sorted(spec.needs) if model.capabilities.isdisjoint(need.split(ANY_OF))
    ]
    if missing:
        raise CapabilityMissing(
            f"{model.name} cannot do this: it lacks {', '.join(missing).replace(ANY_OF, ' or ')} "
            f"(it has {', '.join(sorted(model.capabilities))})"
        )


def admit(
    spec: RequestSpec,
    backends: Mapping[str, BackendState],
    policy: QueuePolicy,
    estimates: Estimates,
    under_way: UnderWay,
    now_ns: int,
) -> Admission:
    """Takes a request through the gates. Raises the BrokerError of the first that says no."""
    if spec.deadline_ns <= now_ns:
        raise DeadlineExpired("the deadline had passed when the request arrived")
    key, model, substituted_for = find_model(spec, backends)
    check_capabilities(spec, model)
    line = context_line(spec, model)
    held = _held_until_ns(model.runner, backends, now_ns)
    if held is not None:
        raise LoadFailed(
            f"{model.name} could not be loaded and is not tried again yet",
            retry_after_ns=held - now_ns,
        )
    check_room(spec, policy, estimates, under_way)
    return Admission(model=key, substituted_for=substituted_for, line=line)


def check_room(
    spec: RequestSpec, policy: QueuePolicy, estimates: Estimates, under_way: UnderWay
) -> None:
    """QueueFull where one more is too many. A place becomes free once per measured departure."""
    queued_bytes = under_way.queued_bytes + spec.size_bytes
    if under_way.queued >= policy.queued_max:
        words = f"{under_way.queued} requests wait, of at most {policy.queued_max}"
    elif under_way.queued and queued_bytes > policy.queued_bytes_max:
        words = f"waiting requests would hold {queued_bytes} bytes, of at most "
        words += f"{policy.queued_bytes_max}"
    elif under_way.live >= policy.live_max:
        words = f"{under_way.live} requests are under way, of at most {policy.live_max}"
    else:
        return
    gap_ns = estimates.departure_gap_ns()
    retry_after_ns = max(RETRY_AFTER_NS_MIN, int(gap_ns)) if gap_ns else 1_000_000_000
    raise QueueFull(words, retry_after_ns=min(retry_after_ns, RETRY_AFTER_NS_MAX))


def _held_until_ns(runner: str, backends: Mapping[str, BackendState], now_ns: int) -> int | None:
    """Until when no backend will try to load this runner; None where one serves it or may try."""
    untils = []
    for backend in backends.values():
        if not backend.up or runner not in backend.by_runner:
            continue
        if runner in backend.residents or not backend.holds_off(runner, now_ns):
            return None
        untils.append(backend.held_until_ns[runner])
    return min(untils, default=None)
