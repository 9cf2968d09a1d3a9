"""What a request asks for, held against what there is: its model, its context, its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from broker.core.barriers import Bar, Barrier, barrier
from broker.core.errors import (
    BrokerError,
    CapabilityMissing,
    CircuitOpen,
    FieldProblem,
    InvalidRequest,
    LoadFailed,
    ModelUnknown,
    NoBackend,
)
from broker.core.guards import is_guard
from broker.core.model_errors import NoModelFits, RejectedModel
from broker.core.model_name import comparison_key, nearest
from broker.core.placement import BackendState, memory_needed
from broker.core.queueing import LineKey
from broker.core.requests import RequestSpec
from broker.core.selection import Known, lacking, lacks, wish_of
from broker.core.stimuli import ModelSpec

# A context that is not configured is the backend's own choice; every Ollama gives at least this
# (its lowest tier, reference/OLLAMA.md §4), so a request that needs no more fits the usual size.
NUM_CTX_ASSUMED: int = 4096

NO_BACKEND_RETRY_NS = 2_000_000_000  # a backend that is down is asked again this often


def no_model(spec: RequestSpec, backends: Mapping[str, BackendState]) -> BrokerError:
    """Why neither what was asked for nor a fallback is on a backend that answers."""
    wanted = comparison_key(spec.model)
    down = [each for each in backends.values() if not each.up]
    # One that has listed nothing yet may have the model: "unknown" would be final, and untrue.
    may_have = any(wanted in each.models or not each.models for each in down)
    if down and (len(down) == len(backends) or may_have):
        why = "; ".join(f"{each.name}: {each.problem}" for each in down)
        return NoBackend(
            f"no backend that has {spec.model!r} answers ({why})",
            retry_after_ns=NO_BACKEND_RETRY_NS,
        )
    return ModelUnknown(spec.model, nearest(spec.model, all_names(backends)))


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
    ModelUnknown where no backend has it any more; what it lacks where it is another by now, which
    cannot do this or is not as the request requires."""
    problem: BrokerError | None = None
    for backend in backends.values():
        if model in backend.models:
            try:
                check_able(spec, backend.models[model], backends)
                return context_line(spec, backend.models[model])
            except BrokerError as error:
                problem = problem or error
    raise problem or ModelUnknown(spec.model, nearest(spec.model, all_names(backends)))


def all_names(backends: Mapping[str, BackendState]) -> list[str]:
    """The names of all models on all backends, each once, in order."""
    return sorted({model.name for each in backends.values() for model in each.models.values()})


def check_capabilities(spec: RequestSpec, model: ModelSpec) -> None:
    """A backend that tells no capabilities is believed to have them all."""
    needs = spec.needs if spec.wants is None else spec.needs | spec.wants.capabilities
    if not model.capabilities or needs <= model.capabilities:
        return
    for missing in lacking(model.capabilities, needs):
        has = ", ".join(sorted(model.capabilities))
        raise CapabilityMissing(f"{model.name} cannot do this: it {missing} (it has {has})")


def check_able(spec: RequestSpec, model: ModelSpec, backends: Mapping[str, BackendState]) -> None:
    """Raises what the model lacks: CapabilityMissing where it cannot do this, NoModelFits where it
    is not as the request requires it besides."""
    check_capabilities(spec, model)
    if spec.wants is None:
        return
    wants = spec.wants
    memory_bytes = memory_of(model.runner, backends) if wants.memory_bytes_max else 0
    found = lacks(known_of(model), wish_of(spec, wants), memory_bytes, was_named=True)
    if found:
        raise NoModelFits((RejectedModel(model.name, ", ".join(found)),))


def known_of(model: ModelSpec) -> Known:
    """What of a model never changes while it lies there."""
    return Known(
        key=comparison_key(model.name),
        name=model.name,
        size_bytes=model.size_bytes,
        capabilities=model.capabilities,
        context_max=max(model.num_ctx_max, model.num_ctx or NUM_CTX_ASSUMED),
        is_guard=is_guard(model.name),
    )


def memory_of(runner: str, backends: Mapping[str, BackendState]) -> int:
    """Bytes that it takes where it takes least, measured or else estimated; 0: nobody knows."""
    needs = (memory_needed(each, runner) for each in backends.values())
    return min((each for each in needs if each), default=0)


def check_startable(model: ModelSpec, backends: Mapping[str, BackendState], now_ns: int) -> None:
    """Raises why no backend that answers and has the model would start anything of it for a while:
    it failed to load just now, its calls have failed too often, nothing is started there. Of these
    what ends first counts. What may end at any moment (a cure, a restart, a call or a load that was
    let through to prove something) is waited for."""
    barred, away = list[tuple[BackendState, Barrier]](), list[str]()
    for backend in backends.values():
        if model.runner not in backend.by_runner:
            continue
        found = barrier(backend, model.runner, now_ns)
        if found is None or found.wait_ns <= 0:
            return
        if backend.up:
            barred.append((backend, found))
        else:
            away.append(backend.name)
    if barred:
        backend, found = min(barred, key=lambda each: each[1].wait_ns)
        raise _refusal(backend, model, found, away)


def _refusal(
    backend: BackendState, model: ModelSpec, found: Barrier, away: Sequence[str]
) -> BrokerError:
    """What a newcomer is told of a barrier that lasts; `away` have the model and do not answer."""
    if found.kind is Bar.CLOSED:
        words = (
            f"{backend.name}, which has {model.name}, is being drained: nothing is started there"
        )
        if away:
            words += f"; {', '.join(away)} {'does' if len(away) == 1 else 'do'} not answer"
        return NoBackend(words, retry_after_ns=NO_BACKEND_RETRY_NS)
    wait_ns = int(found.wait_ns)
    if found.kind is Bar.BROKEN:
        return CircuitOpen(
            f"calls of {model.name} on {backend.name} have failed too often lately: the next is "
            f"let through in {wait_ns / 1e9:.0f} s",
            retry_after_ns=wait_ns,
        )
    if found.kind is Bar.WEDGED:
        return LoadFailed(
            f"{backend.name}, which has {model.name}, loads nothing at the moment: the next load "
            f"is tried in {wait_ns / 1e9:.0f} s",
            retry_after_ns=wait_ns,
        )
    why = backend.held_because.get(model.runner, "")
    words = f"{model.name} could not be loaded on {backend.name}"
    words = why if why.startswith(words) else f"{words}: {why}" if why else words
    again = f"it is tried again in {max(1, round(wait_ns / 1e9))} s"
    return LoadFailed(f"{words}; {again}", retry_after_ns=wait_ns)


def may_start(backend: BackendState, runner: str, now_ns: int) -> bool:
    """Would this backend, which has the runner, serve it or load it now?"""
    return barrier(backend, runner, now_ns) is None


def may_run(runner: str, backends: Mapping[str, BackendState], now_ns: int) -> bool:
    """Does some backend that is up have this runner, and hold it or may load it?"""
    return any(
        runner in backend.by_runner and may_start(backend, runner, now_ns)
        for backend in backends.values()
    )
