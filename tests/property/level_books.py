"""What a level does to requests, by the design's prose. Which level holds is not judged here.

`test_degradation.py` and the closed loop hold the level against the load; these books take it as
it is and say who may be let in, who goes first, and on which model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from broker.core.effects import Answer, StartAttempt
from broker.core.engine import Engine
from broker.core.errors import BrokerError, Degraded, SmallModelsOnly
from broker.core.healing import Health
from broker.core.level import Level
from broker.core.model_name import comparison_key
from broker.core.placement import BackendState
from broker.core.queueing import LineKey
from broker.core.requests import Criticality, RequestKind, RequestSpec, Substitution
from tests.property.entry_books import Live

FIRST_WORST: Final = 3
CRITICAL_WORST: Final = 7


class LevelBooks:
    """`sizes`: the bytes of each runner's file."""

    def __init__(self, engine: Engine, sizes: Mapping[str, int]) -> None:
        self._engine = engine
        self._sizes = sizes
        self.chosen: Counter[str] = Counter()  # starts of what named no model, by that which it got

    @property
    def level(self) -> Level:
        return self._engine.degradation.level

    def is_small(self, runner: str) -> bool:
        return self._sizes[runner] <= self._engine.policy.degradation.small_model_bytes_max

    def is_critical_work(self, spec: RequestSpec, priority: int) -> bool:
        return priority <= CRITICAL_WORST and spec.criticality is not Criticality.BATCH

    def holds(self, live: Live, line: LineKey) -> bool:
        """Does it go after the others?"""
        return self._is_after(self.level, live, line)

    def bars(self, live: Live, line: LineKey) -> bool:
        """Does it not run at all, as memory alone asks for a level that holds it?"""
        return self._is_after(self._engine.degradation.memory_level, live, line)

    def _is_after(self, level: Level, live: Live, line: LineKey) -> bool:
        if level < Level.LEVEL_2:
            return False
        is_first = self.is_critical_work(live.spec, live.priority)
        if level is Level.CRITICAL:
            is_first = is_first and live.priority <= FIRST_WORST
        return not (is_first and self.is_small(line[0]))

    def is_small_first(self, one: LineKey, other: LineKey) -> bool:
        """Does the level let the one go before the other for its small model?"""
        is_on = self.level >= Level.LEVEL_2
        return is_on and self.is_small(one[0]) and not self.is_small(other[0])

    # The laws

    def check_entered(self, live: Live, line: LineKey) -> None:
        """A newcomer that is to wait is critical work, for a small model, from level 2 on."""
        if self.level >= Level.LEVEL_2:
            assert self.is_critical_work(live.spec, live.priority), "let in at this level"
            assert self.is_small(line[0]), "let in for a large model at this level"

    def check_refused(self, spec: RequestSpec, priority: int, error: BrokerError) -> None:
        """Nobody is refused for a level that does not say so."""
        if isinstance(error, Degraded | SmallModelsOnly):
            assert self.level >= Level.LEVEL_2
            assert error.retry_after_ns, "told nothing of when to come again"
            is_critical = self.is_critical_work(spec, priority)
            assert isinstance(error, SmallModelsOnly) == is_critical

    def check_started(self, effect: StartAttempt, live: Live) -> None:
        """It says the level, and its answer is cut where the level says so; and by what came
        before, where it goes on from that."""
        spec = live.spec
        assert effect.level is self.level
        most, asked = self._engine.policy.degradation.output_tokens_max, spec.output_tokens_max
        is_cut = self.level >= Level.LEVEL_1 and not 0 < asked <= most
        limit = most if is_cut else (asked or None) if live.kept else None
        if live.kept and limit is not None:
            limit = max(1, limit - live.kept)
        assert effect.output_tokens_max == limit
        assert any("max_tokens" in each for each in effect.changes) == is_cut
        if effect.substituted_for:
            assert spec.substitution is not Substitution.NEVER
        self._check_accepted(live)

    def _check_accepted(self, live: Live) -> None:
        """What answers is what was asked for, or a fallback of the caller, or is for the level's
        sake; one that is loaded rather than another only where the caller prefers that."""
        spec, record = live.spec, self._engine.records[live.key]
        if record.is_for_level:
            return
        if record.sent is not None:  # it names no model: what was chosen stands in its place
            assert record.sent.fingerprint == spec.fingerprint
            assert record.because
            assert not record.substituted_for
            spec = record.spec
            self.chosen[record.model] += 1
        asked = comparison_key(spec.model)
        fallbacks = {comparison_key(each) for each in spec.fallback_models}
        assert record.model == asked or record.model in fallbacks, "nobody named this model"
        is_at_hand = record.is_at_hand
        assert not is_at_hand or (spec.prefer_loaded and record.model != asked)

    def check_answered(self, effect: Answer, live: Live, line: LineKey | None) -> None:
        """Only at the critical level, where it may be, and where the level would hold it."""
        assert effect.level is self.level is Level.CRITICAL
        assert live.spec.accepts_default
        assert live.spec.kind is RequestKind.GENERATE
        assert self._engine.policy.degradation.has_default_answer
        might_run = line and not self.holds(live, line) and self._can_be_had(line[0])
        assert not might_run, "answered though it might have run"

    def check_moved(self, live: Live, before: LineKey, after: LineKey) -> None:
        """For the level's sake from a large model to a small one, and back once it has fallen or
        where the small one can be had no longer."""
        if self.level >= Level.LEVEL_2:
            if self.is_small(before[0]):
                record = self._engine.records[live.key]
                is_home = record.model == comparison_key(record.spec.model)
                is_back = is_home and self.is_small(after[0])  # from a fallback, by need
                may_stay = self._can_be_had(before[0])
                # To one that is loaded, where its caller prefers that; or back as that has left.
                is_by_choice = live.spec.prefer_loaded and self.is_small(after[0])
                may_move = is_back or is_by_choice
                assert may_move or not may_stay, "moved though it had a small model"
            else:
                assert self.is_small(after[0])
            assert live.spec.substitution is not Substitution.NEVER
        else:
            record = self._engine.records[live.key]
            assert not record.is_for_level, "it stays with a small model for no level's sake"

    def _can_be_had(self, runner: str) -> bool:
        """Is there a server that takes work for it, has it, and would load it if it had to?"""
        return any(
            each.takes(runner)
            and runner in each.by_runner
            and (runner in each.residents or _may_load(each, runner))
            for each in self._engine.backends.values()
        )


def _may_load(backend: BackendState, runner: str) -> bool:
    """Has its load not failed just now, and is the server not wedged, or tried by this load?"""
    is_tried = backend.health is Health.WEDGED and backend.is_switching
    return runner not in backend.held_until_ns and backend.may_load and not is_tried
