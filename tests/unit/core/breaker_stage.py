"""Circuit breakers on a stage of their own: one backend, calls that end, and what is told."""

from __future__ import annotations

from broker.core.agent_policy import AgentTypePolicy
from broker.core.agents import Agent
from broker.core.breaker import BreakerPolicy
from broker.core.breakers import Breakers
from broker.core.effects import Effect, TellBreaker
from broker.core.errors import BackendFailed, BrokerError
from broker.core.lifecycle import Trigger
from broker.core.placement import BackendPolicy, BackendState
from broker.core.record import Attempt, Passage, Record
from broker.core.requests import AttemptId
from broker.core.residency import Residency, ResidencyState
from broker.core.stimuli import ModelSpec
from broker.core.timers import Timers
from tests.unit.core.scene import SECOND_NS, model, request

BROKE = BackendFailed("it broke")
RUNNER = "blob-m"


class Stage:
    """Time stands still unless it is told to pass. `changes` counts how often it was said that
    something may run now that could not, or the reverse."""

    def __init__(self, policy: BreakerPolicy, *models: ModelSpec) -> None:
        self.policy = policy
        self.now_ns = 1_000 * SECOND_NS
        self.backend = BackendState(BackendPolicy(name="b1"), up=True)
        self.backend.list_models(models or (model("m"),))
        self.timers = Timers()
        self.told: list[TellBreaker] = []
        self.noted: list[str] = []
        self.changes = 0
        self.breakers = Breakers(
            policy,
            {"b1": self.backend},
            self.timers,
            self._emit,
            self.noted.append,
            self._changed,
        )
        self._calls = 0

    def _emit(self, effect: Effect) -> None:
        assert isinstance(effect, TellBreaker)
        self.told.append(effect)

    def _changed(self, now_ns: int) -> None:
        assert now_ns == self.now_ns
        self.changes += 1

    def wait(self, duration_ns: int) -> None:
        """Time passes, alarms go off at their moments."""
        until_ns = self.now_ns + duration_ns
        while (next_ns := self.timers.next_ns()) is not None and next_ns <= until_ns:
            self.now_ns = max(self.now_ns, next_ns)
            self.timers.fire(self.now_ns)
            self.breakers.check()
        self.now_ns = until_ns

    def starts(self, runner: str = RUNNER) -> Attempt:
        """A call begins, as the engine would begin it."""
        assert self.backend.takes(runner), "nothing may be started"
        self._calls += 1
        record = Record(
            spec=request(f"r{self._calls}"),
            agent=Agent(id="a", type=AgentTypePolicy(name="all", match=("*",)), handle=1),
            priority=5,
            compartment=0,
            model="m:latest",
            substituted_for="",
            line=(runner, 0),
            arrived_ns=self.now_ns,
            rank=self._calls,
            passage=Passage(),
            starts_before=0,
        )
        residency = Residency(
            runner=runner,
            model="m:latest",
            state=ResidencyState.RESIDENT,
            managed=True,
            slots=1,
            num_ctx_sent=None,
            num_ctx=0,
        )
        attempt = Attempt(
            id=AttemptId(self._calls),
            record=record,
            backend="b1",
            residency=residency,
            started_ns=self.now_ns,
            flow=0,
            charged=0,
            model="m:latest",
        )
        self.breakers.started(self.backend, runner, attempt.id, self.now_ns)
        self.breakers.check()
        return attempt

    def ends(self, attempt: Attempt, error: BrokerError | None = None) -> None:
        self.breakers.ended(attempt, error, self.now_ns)
        self.breakers.check()

    def given_up(self, attempt: Attempt, error: BrokerError) -> None:
        """Its client has cancelled it."""
        attempt.ending = Trigger.CANCEL
        self.ends(attempt, error)

    def calls(self, *errors: BrokerError | None) -> None:
        """One call after the other, each over at once."""
        for error in errors:
            self.ends(self.starts(), error)

    @property
    def is_open(self) -> bool:
        """Does nothing pass?"""
        return not self.backend.takes(RUNNER)

    def states(self) -> list[str]:
        """What was told, as words, since it was asked the last time."""
        words = [f"{each.before.value} -> {each.after.value}" for each in self.told]
        self.told.clear()
        return words
