"""Agents and operators around a perfect shell, who ask for what they like and when they like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol, TypeVar

from broker.core.effects import Effect, StartAttempt
from broker.core.errors import QuotaExceeded
from broker.core.level import Level
from broker.core.requests import AttemptId, Criticality, OnInterruption, Substitution
from broker.core.requirements import ANYTHING, Preference, Requirements
from broker.core.stimuli import (
    Arrived,
    AttemptEnded,
    BlockAsked,
    BoostAsked,
    CancelAsked,
    CancelCause,
    DrainAsked,
    GpusSensed,
    HostSensed,
    LevelAsked,
    LoadAsked,
    PauseAsked,
    PolicyChanged,
    ResumeAsked,
    Scope,
    TimerFired,
    UnloadAsked,
    WishWithdrawn,
)
from broker.core.story import Rule, explain
from broker.core.time_outs import NO_TIME_OUTS, TimeOuts
from tests.property.house_rules import AGENTS, House
from tests.property.perfect_shell import PerfectShell
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, arrived, request
from tests.unit.core.sensed import card, gpus, host

T = TypeVar("T")

# What an agent may bound by itself.
TIME_OUTS: Final = (
    *[NO_TIME_OUTS] * 5,
    TimeOuts(queue_ns=20 * SECOND_NS, load_ns=5 * SECOND_NS),
    TimeOuts(first_token_ns=SECOND_NS, token_gap_ns=SECOND_NS),
    TimeOuts(total_ns=40 * SECOND_NS),
)


SMALL: Final = Requirements(size_bytes_max=2_000, prefer=Preference.SMALL)
WISHED: Final = ("m:latest", "n:latest", "o:latest", "alias:latest", "nobody:latest")


class Choose(Protocol):
    """Picks one of several. Never asked to pick from nothing."""

    def __call__(self, among: Sequence[T]) -> T: ...


class UnrulyPeople(PerfectShell):
    """Their actions, and the time that passes meanwhile."""

    def __init__(self, choose: Choose, house: House) -> None:
        super().__init__(house)
        self.choose = choose
        self.wish = 0  # the number of the last one
        self.credits = 0  # starts of what had one for its session
        self._started: dict[AttemptId, int] = {}

    # What the books of sessions hear

    def _start(self, effect: StartAttempt) -> None:
        super()._start(effect)
        self._started[effect.attempt] = self.now_ns
        self.credits += self.calls[effect.attempt].live.credit_ns > 0

    def _attempt_ended(self, ended: AttemptEnded, effects: Sequence[Effect]) -> None:
        spec, since_ns = self.calls[ended.attempt].live.spec, self._started.pop(ended.attempt)
        if spec.session_id and ended.error is None:
            self.entry.sessions.completed(spec, self.now_ns - since_ns)
        super()._attempt_ended(ended, effects)

    # Actions: agents

    @property
    def _words(self) -> list[str]:
        """What may be named in place of a model, or nothing at all."""
        aliases = self.engine.policy.aliases
        return [*aliases, ""] if aliases else []

    def arrive(self) -> None:
        spec = request(
            f"r{self.choose(range(12))}",
            agent=self.choose(AGENTS),
            model=self.choose([*"mmmmmmnnnoo", "alias", "nowhere", *self._words]),
            priority=self.choose([5, 5, 1, 3, 9]),
            deadline_ns=self.now_ns + self.choose([*[10 * MINUTE_NS] * 6, 30 * SECOND_NS, 0]),
            content=self.choose([b"content"] * 5 + [b"other"]),
            num_ctx_needed=self.choose([*[0] * 9, 5000, 8000, 9000]),
            fallback_models=self.choose([(), ("m",), ("o", "m"), ("n",)]),
            size_bytes=self.choose([100, 100, 100, 3000, 11_000]),
        )
        wants = self.choose([None, None, ANYTHING, SMALL]) if spec.model in self._words else None
        criticality = self.choose([Criticality.NORMAL] * 4 + list(Criticality))
        substitution = Substitution.ANY
        if not spec.fallback_models:
            substitution = self.choose([Substitution.ANY, *Substitution])
        spec = replace(
            spec,
            criticality=criticality,
            wants=wants,
            substitution=substitution,
            prefer_loaded=self.choose([False, True]),
            accepts_default=self.choose([False, False, True]),
            output_tokens_max=self.choose([0, 0, 20, 500]),
            on_interruption=self.choose(list(OnInterruption)),
            preemptible=self.choose([spec.priority >= 8, True, True]),
            time_outs=self.choose(TIME_OUTS),
            session_id=self.choose(["", "s", "s", "t"]),
            expected_calls=self.choose([0, 0, 2, 6]),
            soft_deadline_ns=self.choose([0, 0, self.now_ns + 20 * SECOND_NS]),
            prefixes=self.choose([(), (self.admitted // 8,)]),  # of each eight some begin alike
        )
        self.feed(Arrived(spec))

    def flood(self) -> None:
        """One agent sends many alike at once, some of which begin as none did before."""
        agent, model, begins = self.choose(AGENTS), self.choose("mn"), (-1 - self.admitted,)
        for number in range(self.choose([3, 6])):
            spec = request(
                f"f{number}",
                agent=agent,
                model=model,
                priority=self.choose([5, 5, 2]),
                deadline_ns=self.now_ns + 10 * MINUTE_NS,
                size_bytes=self.choose([100, 1_500]),
            )
            self.feed(Arrived(replace(spec, prefixes=self.choose([(), begins, begins]))))

    def urge(self) -> None:
        """Something urgent comes for a model that others use, who may be set aside."""
        running = [each.live.spec for each in self.calls.values() if not each.is_aborted]
        models = sorted({each.model for each in running if each.preemptible})
        if models:
            self.wait(self.choose([0, 2 * SECOND_NS, 20 * SECOND_NS]))
            self.feed(
                arrived(
                    f"u{self.choose(range(8))}",
                    agent=self.choose(AGENTS),
                    model=self.choose([*models, "n"]),
                    priority=self.choose([1, 2]),
                    deadline_ns=self.now_ns + 10 * MINUTE_NS,
                )
            )

    def come_when_told(self) -> None:
        """Its own bucket had too little, and said when there will be enough: there is."""
        refused, turn = self.refusal, self.turn
        if type(refused) is not QuotaExceeded or not isinstance(turn, Arrived):
            return
        agent, policy = turn.spec.key[0], self.operators.policy
        factor = self.operators.rate_factor(agent)
        assert refused.retry_after_ns is not None
        self.wait(refused.retry_after_ns)
        is_as_before = factor == self.operators.rate_factor(agent)
        assert policy is self.operators.policy
        self.feed(Arrived(replace(turn.spec, deadline_ns=self.now_ns + MINUTE_NS)))
        assert not (is_as_before and type(self.refusal) is QuotaExceeded), "came when told, in vain"

    def cancel(self) -> None:
        if self.live:
            self.feed(CancelAsked(self.choose(sorted(self.live)), self.choose(list(CancelCause))))

    def drain(self) -> None:
        """Seldom: nothing new comes after it."""
        if self.choose(range(60)) == 59:
            self.feed(DrainAsked(self.now_ns + self.choose([5 * MINUTE_NS, 0])))

    # Actions: operators

    def _scope(self) -> Scope:
        return self.choose(
            [
                *(Scope(agent_id=each) for each in AGENTS),
                *(Scope(agent_type=each.name) for each in self.operators.policy.agents.types),
                Scope(),
            ]
        )

    def _until_ns(self) -> int | None:
        until_ns = self.choose([None, SECOND_NS, 20 * SECOND_NS, 2 * MINUTE_NS])
        return None if until_ns is None else self.now_ns + until_ns

    def boost(self) -> None:
        boost = BoostAsked(
            scope=self._scope(),
            weight_factor=self.choose([1.0, 4.0, 0.25]),
            rate_factor=self.choose([1.0, 3.0, 0.5]),
            priority_best=self.choose([0, 0, 1, 5]),
            until_ns=self._until_ns(),
        )
        self.feed(boost)

    def block(self) -> None:
        until_ns, cancels = self._until_ns(), self.choose([False, True])
        self.feed(BlockAsked(scope=self._scope(), cancels_waiting=cancels, until_ns=until_ns))

    def pause(self) -> None:
        self.feed(PauseAsked(scope=self._scope(), until_ns=self._until_ns()))

    def resume(self) -> None:
        scopes = sorted({scope for scope, _ in self.operators.changes}, key=repr)
        self.feed(ResumeAsked(self.choose(scopes or [Scope()])))

    def set_level(self) -> None:
        """An operator sets the level, for a while or not, or leaves it to the load."""
        level = self.choose([None, None, *Level])
        until_ns = None if level is None else self._until_ns()
        self.feed(LevelAsked(level=level, until_ns=until_ns))

    def sense(self) -> None:
        """Others use so much of the host's memory: that holds a level up absolutely. So much of
        the GPU's is in use: little, but the models here take little."""
        free_gb = self.choose([60, 60, 30, 20, 8, 1])
        self.feed(HostSensed(host(free_gb=free_gb, at_ns=self.now_ns)))
        used_bytes = self.choose([0, 1_200, 3_000, 7_000])
        self.feed(GpusSensed(gpus(card(used_bytes / 1e9), at_ns=self.now_ns)))

    def reload(self) -> None:
        """Seldom."""
        if self.choose(range(4)) == 3:
            self.feed(PolicyChanged(self.choose(self.house.others)))

    def wish_load(self) -> None:
        """Somebody wants a model to be there, known or not, anywhere or in one place."""
        self.wish += 1
        self.feed(
            LoadAsked(
                wish=self.wish,
                model=self.choose(WISHED),
                backend=self.choose(["", "", *self.servers]),
                until_ns=self.now_ns + self.choose([SECOND_NS, 40 * SECOND_NS, 5 * MINUTE_NS]),
            )
        )

    def wish_unload(self) -> None:
        """The same of one that is to leave; some that leave are not loaded again for a while."""
        self.wish += 1
        until_ns = self.now_ns + self.choose([SECOND_NS, 40 * SECOND_NS, 5 * MINUTE_NS])
        self.feed(
            UnloadAsked(
                wish=self.wish,
                model=self.choose(WISHED),
                backend=self.choose(["", "", *self.servers]),
                until_ns=until_ns,
                hold_until_ns=self.choose([0, 0, self.now_ns + 10 * SECOND_NS]),
            )
        )

    def withdraw(self) -> None:
        """Whoever wished goes away; also after the answer."""
        if self.wish:
            self.feed(WishWithdrawn(self.choose(range(1, self.wish + 1))))

    def explain(self) -> None:
        """What a waiting request is told of who overtook it is true, and is all of it."""
        candidates = [key for key, each in self.order.waiting.items() if not each.has_moved]
        if not candidates:
            return
        key = self.choose(sorted(candidates))
        waiting = self.order.waiting[key]
        overtaken = explain(self.engine, key, self.now_ns).overtaken
        views = [each for each in overtaken if each.rule != Rule.ROOM]
        assert sum(each.count for each in views) == len(waiting.overtakings), f"{key}: {views}"
        agent = self.engine.agents.find(key[0])
        assert agent is not None
        # What began and what was paused at one moment cannot be told apart.
        moments = {at_ns for pause in agent.pauses for at_ns in pause}
        ties = sum(at_ns in moments for at_ns in waiting.overtakings)
        for view in views:
            allowed = waiting.rules[view.rule] + (ties if view.rule == Rule.PAUSE else 0)
            assert view.count <= allowed, f"{key}: {view}"

    # Time

    def wait(self, duration_ns: int) -> None:
        until_ns = self.now_ns + duration_ns
        for _ in range(1000):
            if self.alarm_ns is None or self.alarm_ns > until_ns:
                self.now_ns = until_ns
                return
            self.now_ns, self.alarm_ns = max(self.now_ns, self.alarm_ns), None
            self.feed(TimerFired())
        raise AssertionError("the engine's alarm goes off for ever")
