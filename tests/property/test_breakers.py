"""The circuit breaker against a naive one, which remembers every call and works out the rest."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.core.breaker import BreakerPolicy
from broker.core.breakers import CALLS_MIN
from broker.core.errors import BackendFailed, BackendRefused, BrokerError
from broker.core.record import Attempt
from tests.unit.core.breaker_stage import RUNNER, Stage
from tests.unit.core.scene import SECOND_NS

POLICY = BreakerPolicy(
    failures=3,
    window_ns=20 * SECOND_NS,
    failure_share=0.4,
    slow_ns=9 * SECOND_NS,
    open_ns=5 * SECOND_NS,
    open_ns_max=30 * SECOND_NS,
)
ENDS: dict[str, BrokerError | None] = {
    "well": None,
    "broken": BackendFailed("it broke"),
    "its own fault": BackendRefused("bad input", status=400),
}


@dataclass
class Naive:
    """Every call since it was closed, when it opened and how often in a row; nothing clever."""

    now_ns: int
    closed_ns: int = -1
    ended: list[tuple[int, bool]] | None = None
    opened_ns: int | None = None
    opened_in_row: int = 0
    probe: Attempt | None = None

    @property
    def open_ns(self) -> int:
        length = POLICY.open_ns
        for _ in range(self.opened_in_row - 1):
            length *= 2
        return min(length, POLICY.open_ns_max)

    @property
    def state(self) -> str:
        if self.opened_ns is None:
            return "closed"
        return "open" if self.now_ns < self.opened_ns + self.open_ns else "half_open"

    @property
    def may_start(self) -> bool:
        return self.state == "closed" or (self.state == "half_open" and self.probe is None)

    def open(self) -> None:
        self.opened_ns, self.ended, self.probe = self.now_ns, [], None
        self.opened_in_row += 1

    def close(self) -> None:
        self.opened_ns, self.ended, self.probe = None, [], None
        self.opened_in_row, self.closed_ns = 0, self.now_ns

    def end(self, attempt: Attempt, has_failed: bool | None) -> None:
        if attempt is self.probe:
            self.probe = None
            if has_failed:
                self.open()
            elif has_failed is False:
                self.close()
            return
        is_counted = self.state == "closed" and attempt.started_ns >= self.closed_ns
        if has_failed is None or not is_counted:
            return
        self.ended = [*(self.ended or []), (self.now_ns, has_failed)]
        recent = [each for each in self.ended if each[0] > self.now_ns - POLICY.window_ns]
        recent = recent[-CALLS_MIN:]
        failures = sum(each[1] for each in recent)
        is_share = failures >= POLICY.failure_share * len(recent)
        if has_failed and failures >= POLICY.failures and is_share:
            self.open()


class BreakerMachine(RuleBasedStateMachine):
    """Calls begin and end in any order, time passes, cures reset."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage(POLICY)
        self.naive = Naive(self.stage.now_ns)
        self.running: list[Attempt] = []

    def _advance(self, duration_ns: int) -> None:
        self.stage.wait(duration_ns)
        self.naive.now_ns = self.stage.now_ns

    @precondition(lambda self: self.naive.may_start and len(self.running) < 5)
    @rule()
    def start(self) -> None:
        attempt = self.stage.starts()
        if self.naive.state == "half_open":
            self.naive.probe = attempt
        self.running.append(attempt)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 4))
    def first_piece(self, which: int) -> None:
        attempt = self.running[which % len(self.running)]
        attempt.first_token_ns = attempt.first_token_ns or self.stage.now_ns

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 4), how=st.sampled_from([*ENDS, "cancelled"]))
    def end(self, which: int, how: str) -> None:
        attempt = self.running.pop(which % len(self.running))
        first_ns = attempt.first_token_ns or self.stage.now_ns
        has_failed: bool | None
        if first_ns - attempt.started_ns >= POLICY.slow_ns:
            has_failed = True
        else:
            has_failed = {"well": False, "broken": True}.get(how)
        if how == "cancelled":
            self.stage.given_up(attempt, BackendFailed("cut off"))
        else:
            self.stage.ends(attempt, ENDS[how])
        self.naive.end(attempt, has_failed)

    @rule(calls=st.lists(st.booleans(), min_size=20, max_size=90))
    def many(self, calls: list[bool]) -> None:
        """One after the other, as long as any may begin."""
        for is_well in calls:
            if not self.naive.may_start:
                return
            self.start()
            self.end(len(self.running) - 1, "well" if is_well else "broken")

    @rule(duration_ns=st.integers(1, 12 * SECOND_NS))
    def wait(self, duration_ns: int) -> None:
        self._advance(duration_ns)

    @rule()
    def reset(self) -> None:
        self._advance(1)  # what began before must have begun before
        self.stage.breakers.reset(self.stage.backend, RUNNER, "it was cured", self.stage.now_ns)
        self.naive.close()

    @rule()
    def tidy(self) -> None:
        self.stage.breakers.tidy(self.stage.backend, self.stage.now_ns)
        if not len(self.stage.breakers):  # nor does it know any more when it was closed
            since_ns = self.stage.now_ns - POLICY.window_ns
            assert self.naive.state == "closed"
            assert self.naive.closed_ns <= since_ns
            assert all(at_ns <= since_ns for at_ns, _ in self.naive.ended or ())
            self.naive.closed_ns = -1

    @invariant()
    def agrees(self) -> None:
        assert self.stage.is_open is not self.naive.may_start
        self.stage.breakers.check()
        views = self.stage.breakers.views(self.stage.backend)
        state = views[0].state.value if views else "closed"
        assert state == self.naive.state
        if state == "open":
            assert self.naive.opened_ns is not None
            assert views[0].until_ns == self.naive.opened_ns + self.naive.open_ns
        assert len(self.stage.breakers) <= 1
        assert len(self.stage.timers) == (state == "open")


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
