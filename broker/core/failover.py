"""Who answers where what was asked for cannot: the fallbacks that its caller named, in that order.

What was asked for cannot where no backend takes it: it is on none that answers, its calls have
failed too often, it could not be loaded, it is being cured, or nothing is started there. Another
backend that has it goes before every other model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from broker.core.barriers import Bar, barrier
from broker.core.errors import BrokerError, CapabilityMissing
from broker.core.guards import is_guard
from broker.core.model_errors import NoModelFits
from broker.core.model_name import comparison_key, nearest
from broker.core.placement import BackendState
from broker.core.queueing import Line, LineKey
from broker.core.requests import RequestKind, RequestSpec, Substitution
from broker.core.stimuli import ModelSpec
from broker.core.targets import (
    check_able,
    check_startable,
    context_line,
    may_start,
    no_model,
)

# Why what was asked for does not answer, by what ends first.
_WHY_NOT: Final[Mapping[Bar, str]] = {
    Bar.RESTARTING: "the backend that has {} is being restarted",
    Bar.CURED: "{} is being cured",
    Bar.BROKEN: "calls of {} have failed too often lately",
    Bar.SICK: "{} could not be loaded",
    Bar.WEDGED: "the backend that has {} loads nothing",
}


class Found(NamedTuple):
    """The model that is to answer. `instead`: why it is another than was asked for, in words."""

    key: str  # comparison key
    line: LineKey
    instead: str


@dataclass(frozen=True, slots=True)
class Ways:
    """What there is now. `lines` are those of which something could run; `suits` says which models
    the level lets answer."""

    backends: Mapping[str, BackendState]
    lines: Mapping[LineKey, Line]
    suits: Callable[[ModelSpec], bool]
    now_ns: int

    def find(self, spec: RequestSpec, waits_for: str = "") -> Found | None:
        """What was asked for, where that may start, else the first fallback that may and can do
        it; None where there is none. `waits_for`: the runner that it waits for already."""
        key = comparison_key(spec.model)
        line = self._line(spec, key, waits_for)
        if line is not None:
            return Found(key, line, "")
        return next(self.fallbacks(spec, waits_for), None)

    def fallbacks(self, spec: RequestSpec, waits_for: str = "") -> Iterator[Found]:
        """Those of the caller that may start and can do it, in the caller's order."""
        for key in fallback_keys(spec):
            line = self._line(spec, key, waits_for)
            if line is not None:
                yield Found(key, line, self.why_not(spec.model))

    def _line(self, spec: RequestSpec, key: str, waits_for: str) -> LineKey | None:
        """That of the first model of this name that may start, that the level lets answer and that
        can do it: two backends may have different ones."""
        for backend in self.backends.values():
            model = backend.models.get(key)
            if model is None or not self.is_ready(backend, model.runner, waits_for):
                continue
            line = line_if_able(spec, model, self.backends) if self.suits(model) else None
            if line is not None:
                return line
        return None

    def is_ready(self, backend: BackendState, runner: str, waits_for: str) -> bool:
        """Of what is to be proven one call may pass: whoever waits for it already is that one."""
        if not may_start(backend, runner, self.now_ns):
            return False
        is_to_be_proven = runner in backend.broken_until_ns or (
            backend.is_to_prove and runner not in backend.residents
        )
        return runner == waits_for or not (is_to_be_proven and self._is_waited_for(runner))

    def _is_waited_for(self, runner: str) -> bool:
        return any(key[0] == runner for key in self.lines)

    def why_not(self, asked: str) -> str:
        """Why what was asked for does not answer, in words."""
        key = comparison_key(asked)
        having = [each for each in self.backends.values() if key in each.models]
        up = [each for each in having if each.up]
        if not up:
            return f"no backend that has {asked} answers" if having else f"no backend has {asked}"
        found = [barrier(each, each.models[key].runner, self.now_ns) for each in up]
        closed = [each for each in found if each is not None]
        if not closed:
            return f"calls of {asked} have failed too often lately"  # and one proves it now
        # Where several have it, what ends by itself goes before a drain.
        kind = min(closed, key=lambda each: each.wait_ns).kind
        if kind is Bar.CLOSED:
            names = ", ".join(each.name for each in up)
            return f"nothing is started on {names}, which has {asked}"
        return _WHY_NOT[kind].format(asked)


def check_own(
    spec: RequestSpec, backends: Mapping[str, BackendState]
) -> tuple[ModelSpec, LineKey] | None:
    """The model that was asked for, on a backend that answers, and the line for it. Raises where it
    cannot do this, with what can: that is for the caller to hear, whatever a fallback could."""
    problem: BrokerError | None = None
    for model in known(comparison_key(spec.model), backends):
        try:
            check_able(spec, model, backends)
            return model, context_line(spec, model)
        except BrokerError as error:
            problem = problem or error
    if isinstance(problem, CapabilityMissing):
        raise CapabilityMissing(problem.problem, nearest_able(spec, backends)) from None
    if isinstance(problem, NoModelFits):
        raise NoModelFits(problem.rejected, nearest_able(spec, backends)) from None
    if problem is not None:
        raise problem
    return None


def nearest_able(spec: RequestSpec, backends: Mapping[str, BackendState]) -> tuple[str, ...]:
    """Up to three models that can do what this request calls for, those first that look most like
    what it names. None that judges."""
    able = {
        model.name
        for backend in backends.values()
        if backend.up
        for model in backend.models.values()
        if line_if_able(spec, model, backends) is not None and not is_guard(model.name)
    }
    return nearest(spec.model, sorted(able)) if able else ()


def find_target(spec: RequestSpec, ways: Ways) -> Found:
    """The model for a newcomer. Where none may start now it waits for what is about to; else this
    raises why there is none."""
    found = ways.find(spec)
    if found is not None:
        return found
    for key in (comparison_key(spec.model), *fallback_keys(spec)):
        for model in known(key, ways.backends):
            line = line_if_able(spec, model, ways.backends)
            if line is not None:
                check_startable(model, ways.backends, ways.now_ns)
                instead = "" if key == comparison_key(spec.model) else ways.why_not(spec.model)
                return Found(key, line, instead)
    raise no_model(spec, ways.backends)


def fallback_keys(spec: RequestSpec) -> tuple[str, ...]:
    """Comparison keys of what may answer instead; the vectors of another model mean nothing."""
    if spec.substitution is Substitution.NEVER or spec.kind is RequestKind.EMBED:
        return ()
    return tuple(comparison_key(each) for each in spec.fallback_models)


def known(key: str, backends: Mapping[str, BackendState]) -> Iterator[ModelSpec]:
    """The models of this name on backends that answer: usually the same on all."""
    for backend in backends.values():
        if backend.up and key in backend.models:
            yield backend.models[key]


def line_if_able(
    spec: RequestSpec, model: ModelSpec, backends: Mapping[str, BackendState]
) -> LineKey | None:
    """The line of this request for a model; None where that cannot do it."""
    try:
        check_able(spec, model, backends)
        return context_line(spec, model)
    except BrokerError:
        return None
