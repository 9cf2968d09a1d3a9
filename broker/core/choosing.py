"""Which model answers a request that names an alias, or says only what its model must be.

A name is put in the place of the alias when the request comes, and what else fits among the models
that may answer instead; from then on it goes its way like any other. Where what was chosen cannot
answer any more before it started (its model is gone, is being cured, the level rules it out), it is
chosen again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final, NamedTuple

from broker.core.backlog import Backlog
from broker.core.errors import NoBackend
from broker.core.estimates import Estimates
from broker.core.failover import Ways, line_if_able
from broker.core.model_errors import NoModelFits, RejectedModel
from broker.core.model_name import comparison_key
from broker.core.outlook import Outlook
from broker.core.placement import BackendState
from broker.core.requests import RequestKind, RequestSpec, Substitution
from broker.core.requirements import Alias
from broker.core.residency import Residency, ResidencyState
from broker.core.selection import (
    Known,
    Selection,
    Stage,
    Standing,
    Wish,
    by_size,
    distance,
    first_of,
    lacks,
    select,
    wish_of,
)
from broker.core.stimuli import ModelSpec
from broker.core.targets import NO_BACKEND_RETRY_NS, context_line, known_of, memory_of

# Where nothing was measured: a file is read at a gigabyte a second, and an answer takes as long as
# it takes to read it a few hundred times at the bandwidth of a card. Only their order counts.
LOAD_NS_PER_BYTE: Final = 1.0
ANSWER_NS_PER_BYTE: Final = 0.5

# What fits which wish is remembered, until backends have other models: a fleet asks for few.
WISHES_MAX: Final = 256

_NOTHING: Final = Alias()


class Chosen(NamedTuple):
    """`spec` names the model. `is_ready`: may it start now, and does the level let it answer?"""

    spec: RequestSpec
    because: str
    is_ready: bool


class _Fitting(NamedTuple):
    """What fits a wish, by comparison keys, and what does not, the nearest first."""

    fits: dict[str, Known]
    rejected: tuple[RejectedModel, ...]


@dataclass(frozen=True, slots=True)
class _Moment:
    """What is looked at together: who asks, and for which runners somebody waits already."""

    spec: RequestSpec
    ways: Ways
    waiting: frozenset[str]
    waits_for: str


class Choosing:
    """See the module."""

    def __init__(
        self,
        aliases: Mapping[str, Alias],
        backends: Mapping[str, BackendState],
        backlog: Backlog,
        estimates: Estimates,
    ) -> None:
        self._backends = backends
        self._backlog = backlog
        self._estimates = estimates
        self._outlook = Outlook(backends, backlog, estimates)
        self.configure(aliases)

    def configure(self, aliases: Mapping[str, Alias]) -> None:
        """What comes from now on is chosen by these."""
        self.aliases: Mapping[str, Alias] = {name.lower(): each for name, each in aliases.items()}
        self.models_changed()

    def models_changed(self) -> None:
        """Backends have others than before."""
        self._known: dict[str, list[Known]] = {}  # several, where backends have different ones
        self._specs: dict[str, ModelSpec] = {}  # of which the first of these are made
        self._names: dict[str, dict[str, None]] = {}  # the keys of those that a runner answers for
        self._by_wish: dict[Wish, _Fitting] = {}

    def alias(self, name: str) -> Alias | None:
        """What a word means, where it is one."""
        return self.aliases.get(name.lower())

    def concerns(self, spec: RequestSpec) -> bool:
        """Does this name no model? One look into a dictionary for each that does."""
        if not spec.model:
            return spec.wants is not None
        return spec.model.lower() in self.aliases

    def choose(self, spec: RequestSpec, now_ns: int, waits_for: str = "") -> Chosen:
        """The request as if it had named what was chosen, and what fits as well as its fallbacks,
        before those that it names itself. NoModelFits where nothing fits. `waits_for`: the runner
        that it waits for already."""
        return self.naming(spec, self.select(spec, now_ns, waits_for))

    def naming(self, spec: RequestSpec, selection: Selection) -> Chosen:
        """The request as if it had named what was selected for it."""
        alias = self._alias(spec)
        others: tuple[str, ...] = ()
        # The vectors of another model mean nothing; and who wants no other keeps what was chosen.
        if spec.kind is not RequestKind.EMBED and spec.substitution is not Substitution.NEVER:
            names = (*(each.name for each in selection.alternatives), *spec.fallback_models)
            others = tuple(dict.fromkeys(names))
        chosen = replace(
            spec,
            model=selection.model.name,
            fallback_models=others,
            wants=alias.wants.joined(spec.wants),
        )
        return Chosen(chosen, selection.because, selection.is_ready)

    def select(self, spec: RequestSpec, now_ns: int, waits_for: str = "") -> Selection:
        """What such a request would get, with all that may be told of it."""
        alias = self._alias(spec)
        wish = wish_of(spec, alias.wants.joined(spec.wants))
        asked = spec if alias is _NOTHING else replace(spec, wants=wish.wants)
        moment = self._moment(asked, now_ns, waits_for)

        def judge(model: Known) -> Standing:
            return self._standing(model, moment)

        try:
            if alias.models:
                return first_of(*self._listed(alias.models, wish), wish, judge)
            fitting = self._fitting(wish)
            may_start = any(each.is_open for each in self._backends.values())
            return select(*fitting, wish, judge, self._near(fitting.fits), may_start=may_start)
        except NoModelFits:
            self._check_backends()
            raise

    def standing(self, spec: RequestSpec, model: ModelSpec, now_ns: int) -> Standing:
        """How it is with a model, for such a request."""
        return self._standing(known_of(model), self._moment(spec, now_ns, ""))

    def ways(self, now_ns: int) -> Ways:
        """What there is now, and which models the level lets answer."""
        return Ways(self._backends, self._backlog.ready, self._suits, now_ns)

    def _moment(self, spec: RequestSpec, now_ns: int, waits_for: str) -> _Moment:
        waiting = frozenset(runner for runner, _ in self._backlog.lines)
        return _Moment(spec=spec, ways=self.ways(now_ns), waiting=waiting, waits_for=waits_for)

    def _alias(self, spec: RequestSpec) -> Alias:
        return self.aliases.get(spec.model.lower(), _NOTHING) if spec.model else _NOTHING

    def _check_backends(self) -> None:
        """NoBackend while one that does not answer may have what fits."""
        down = [each for each in self._backends.values() if not each.up]
        if down and (len(down) == len(self._backends) or any(not each.models for each in down)):
            why = "; ".join(f"{each.name}: {each.problem}" for each in down)
            raise NoBackend(
                f"no backend that may have a model that fits answers ({why})",
                retry_after_ns=NO_BACKEND_RETRY_NS,
            )

    def _suits(self, model: ModelSpec) -> bool:
        offers = self._backlog.offers
        return not offers.has_small_only or offers.is_small(model)

    # What fits, whatever the moment

    def _fitting(self, wish: Wish) -> _Fitting:
        """Of all models. Remembered, unless it depends on memory, which is measured again and
        again."""
        found = self._by_wish.get(wish)
        if found is None:
            known = by_size(chain.from_iterable(self._models().values()), wish.prefer)
            found = self._judged(known, wish, was_named=False)
            if not wish.wants.memory_bytes_max:
                if len(self._by_wish) >= WISHES_MAX:
                    self._by_wish.clear()
                self._by_wish[wish] = found
        return found

    def _listed(self, names: Sequence[str], wish: Wish) -> _Fitting:
        """Of those that an operator has listed."""
        known = self._models()
        there = [each for key in map(comparison_key, names) for each in known.get(key, ())]
        away = [
            RejectedModel(each, "is on no backend")
            for each in names
            if comparison_key(each) not in known
        ]
        fits, rejected = self._judged(there, wish, was_named=True)
        return _Fitting(fits, (*rejected, *away))

    def _judged(self, models: Sequence[Known], wish: Wish, *, was_named: bool) -> _Fitting:
        fits, others = dict[str, Known](), list[tuple[int, str, str, str]]()
        for each in models:
            memory_bytes = self._memory_bytes(each) if wish.wants.memory_bytes_max else 0
            found = lacks(each, wish, memory_bytes, was_named=was_named)
            if found:
                far = distance(each, wish, found)
                others.append((far, each.name, ", ".join(found), each.key))
            else:
                fits.setdefault(each.key, each)
        nearest = dict[str, RejectedModel]()
        for _, name, why, key in sorted(others):
            if key not in fits:
                nearest.setdefault(key, RejectedModel(name, why))
        return _Fitting(fits, tuple(nearest.values()))

    def _models(self) -> dict[str, list[Known]]:
        """All models of all backends."""
        if not self._known:
            for backend in self._backends.values():
                for key, model in backend.models.items():
                    self._names.setdefault(model.runner, {})[key] = None
                    first = self._specs.setdefault(key, model)
                    known = self._known.setdefault(key, [])
                    if (not known or model != first) and (its := known_of(model)) not in known:
                        known.append(its)
        return self._known

    def _memory_bytes(self, model: Known) -> int:
        """Where it takes least; 0: nobody knows."""
        runners = {
            its.runner
            for backend in self._backends.values()
            if (its := backend.models.get(model.key)) is not None
        }
        needs = (memory_of(each, self._backends) for each in runners)
        return min((each for each in needs if each), default=0)

    def _near(self, fits: Mapping[str, Known]) -> list[Known]:
        """Of these what is in memory, or is about to be, whatever the name by which it came there:
        those of one runner may be able to do different things."""
        keys = dict.fromkeys(
            key
            for backend in self._backends.values()
            for runner in backend.residents
            for key in self._names.get(runner, ())
        )
        return [fits[each] for each in keys if each in fits]

    # How it is at this moment

    def _standing(self, model: Known, moment: _Moment) -> Standing:
        """On the backend where its answer would come soonest."""
        ways, first = moment.ways, None
        if len(self._known.get(model.key, ())) == 1:
            first = self._specs[model.key]
        best: Standing | None = None
        for backend in self._backends.values():
            its = backend.models.get(model.key)
            if its is None or not ways.is_ready(backend, its.runner, moment.waits_for):
                continue
            is_same = its is first or its == first
            if not is_same and line_if_able(moment.spec, its, self._backends) is None:
                continue  # under the same name this one has another model
            at = self._on(backend, its, moment)
            if best is None or (at.stage, at.answer_ns) < (best.stage, best.answer_ns):
                best = at
        if best is None:
            barred = ways.why_not(model.name)
            return Standing(Stage.AWAY, "", 0.0, barred, self._suits_somewhere(model))
        return best

    def _suits_somewhere(self, model: Known) -> bool:
        having = (each.models.get(model.key) for each in self._backends.values())
        return any(self._suits(each) for each in having if each is not None)

    def _on(self, backend: BackendState, model: ModelSpec, moment: _Moment) -> Standing:
        spec, runner, where = moment.spec, model.runner, backend.name
        suits = moment.ways.suits(model)
        service_ns = self._service_ns(model, spec)
        before_ns = self._backlog.work.of(runner) / model.slots
        residency = backend.residents.get(runner)
        if residency is not None and residency.fits(context_line(spec, model)[1]):
            if residency.state is ResidencyState.RESIDENT:
                if residency.has_free_slot and runner not in moment.waiting:
                    return Standing(Stage.FREE, f"resident on {where}", service_ns, "", suits)
                answer_ns = before_ns + service_ns / model.slots + service_ns
                words = f"resident on {where} and busy"
                return Standing(Stage.HERE, words, answer_ns, "", suits)
            if residency.state is ResidencyState.LOADING:
                load_ns = self._rest_of_load_ns(backend, residency, model, moment.ways.now_ns)
                answer_ns = load_ns + before_ns + service_ns
                return Standing(Stage.HERE, f"being loaded on {where}", answer_ns, "", suits)
        load_ns = self._load_ns(backend, model)
        soonest_ns = self._outlook.soonest_ns(where, runner, load_ns, moment.ways.now_ns)
        ready_ns = load_ns if soonest_ns is None else soonest_ns
        answer_ns = ready_ns + before_ns + service_ns
        return Standing(Stage.AWAY, f"to be loaded on {where}", answer_ns, "", suits)

    def _service_ns(self, model: ModelSpec, spec: RequestSpec) -> float:
        """How long it works for such a request: as measured, else by its size."""
        has_served = self._estimates.cost(model.runner) > 0
        measured_ns = self._estimates.size_ns(model.runner, spec) if has_served else 0
        return measured_ns or ANSWER_NS_PER_BYTE * model.size_bytes

    def _load_ns(self, backend: BackendState, model: ModelSpec) -> float:
        measured_ns = self._estimates.load_ns_on(backend.name, model.runner)
        return measured_ns or LOAD_NS_PER_BYTE * model.size_bytes

    def _rest_of_load_ns(
        self, backend: BackendState, residency: Residency, model: ModelSpec, now_ns: int
    ) -> float:
        return max(0.0, self._load_ns(backend, model) - (now_ns - residency.load_started_ns))
