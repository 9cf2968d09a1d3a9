"""What a request asks for, held against what there is: its model, its context, its line."""

from __future__ import annotations

from collections.abc import Mapping

from broker.core.errors import (
    CapabilityMissing,
    FieldProblem,
    InvalidRequest,
    LoadFailed,
    ModelUnknown,
    NoBackend,
)
from broker.core.model_name import comparison_key, nearest
from broker.core.placement import BackendState
from broker.core.queueing import LineKey
from broker.core.requests import ANY_OF, RequestSpec
from broker.core.stimuli import ModelSpec

# A context that is not configured is the backend's own choice; every Ollama gives at least this
# (its lowest tier, reference/OLLAMA.md §4), so a request that needs no more fits the usual size.
NUM_CTX_ASSUMED: int = 4096

NO_BACKEND_RETRY_NS = 2_000_000_000  # a backend that is down is asked again this often


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


def check_loadable(model: ModelSpec, backends: Mapping[str, BackendState], now_ns: int) -> None:
    """LoadFailed where every backend that has the model has failed to load it just now."""
    held_ns = _held_until_ns(model.runner, backends, now_ns)
    if held_ns is not None:
        raise LoadFailed(
            f"{model.name} could not be loaded and is not tried again yet",
            retry_after_ns=held_ns - now_ns,
        )


def may_run(runner: str, backends: Mapping[str, BackendState], now_ns: int) -> bool:
    """Does some backend that is up have this runner, and hold it or may load it?"""
    return any(
        backend.takes(runner)
        and runner in backend.by_runner
        and (runner in backend.residents or not backend.holds_off(runner, now_ns))
        for backend in backends.values()
    )


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
