"""What was wished of models, by the prose: each wish has one answer, unless it is withdrawn."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.core.effects import WishEnded
from broker.core.engine import Engine
from broker.core.residency import ResidencyState
from broker.core.stimuli import LoadAsked, Stimulus, UnloadAsked, WishWithdrawn
from tests.property.server_books import Server


@dataclass(slots=True)
class WishBooks:
    """`answered` counts by what came of it."""

    open: dict[int, LoadAsked | UnloadAsked] = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=dict)

    def hear(self, stimulus: Stimulus) -> None:
        match stimulus:
            case LoadAsked() | UnloadAsked():
                assert stimulus.wish not in self.open
                self.open[stimulus.wish] = stimulus
            case WishWithdrawn():
                self.open.pop(stimulus.wish, None)

    def ended(self, effect: WishEnded, servers: dict[str, Server], engine: Engine) -> None:
        asked = self.open.pop(effect.wish)  # KeyError: answered twice, or after it was withdrawn
        word = type(asked).__name__ if effect.error is None else type(effect.error).__name__
        self.answered[word] = self.answered.get(word, 0) + 1
        assert effect.error is None or not effect.backends
        for name in effect.backends:
            assert asked.backend in ("", name)
        if effect.error is None and isinstance(asked, LoadAsked):
            (name,) = effect.backends
            residents = engine.backends[name].residents.values()
            # In the same turn another wish may already have it leave.
            absent = (ResidencyState.ABSENT, ResidencyState.LOADING)
            there = {each.runner for each in residents if each.state not in absent}
            runners = {each.name: each.runner for each in servers[name].listed}
            assert runners[asked.model] in there, "it is not there"

    def check(self, now_ns: int, engine: Engine) -> None:
        """Nobody waits past the moment that it named, and nothing is left undone of others."""
        assert len(engine.wishes) == len(self.open)
        next_ns = engine.timers.next_ns()
        for asked in self.open.values():
            assert asked.until_ns >= now_ns or (next_ns is not None and next_ns <= now_ns)
        wanted = bool(self.open)
        for backend in engine.backends.values():
            for residency in backend.residents.values():
                assert wanted or not (residency.is_wished or residency.is_dismissed)
