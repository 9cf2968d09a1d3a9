"""The circuit breakers, one per (backend, runner): who failed too often gets nothing for a while.

A breaker is made when the first call of its pair has ended, and forgotten when the model or the
backend goes, or when it is closed and has counted nothing lately. `BackendState.broken` holds the
runners that nothing passes to now, which is all that the rest of the core looks at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from broker.core.breaker import BREAKER, BreakerPolicy, BreakerState, BreakerTrigger
from broker.core.effects import Effect, TellBreaker
from broker.core.errors import BrokerError, InvariantBroken
from broker.core.failures import failure_of
from broker.core.placement import BackendState
from broker.core.record import Attempt
from broker.core.requests import AttemptId
from broker.core.timers import Timers
from broker.core.views import BreakerView

_State, _Trigger = BreakerState, BreakerTrigger

# Calls that one breaker remembers at least; more where so many failures are needed to trip it.
CALLS_MIN: Final = 64
CALLS_PER_FAILURE: Final = 4

# So often the time for which a breaker is open is doubled at most, whatever its limit in seconds.
DOUBLED_MAX: Final = 30

NO_ATTEMPT: Final = AttemptId(0)  # attempts are counted from 1


class Breaker:
    """One of them. `probe` is the attempt that decides while it is half-open. A call that began
    before `since_ns` says nothing: the breaker was reset, or has closed, since."""

    __slots__ = (
        "_calls",
        "backend",
        "failures",
        "probe",
        "relapses",
        "runner",
        "since_ns",
        "state",
        "timer",
        "until_ns",
        "why",
    )

    def __init__(self, backend: BackendState, runner: str, calls_max: int) -> None:
        self.backend = backend
        self.runner = runner
        self.state = _State.CLOSED
        self.failures = 0  # within the window
        self.since_ns = 0
        self.relapses = 0  # since it was closed the last time
        self.probe = NO_ATTEMPT
        self.until_ns: int | None = None
        self.timer = 0
        self.why = ""
        # Of each call that counted when it ended, doubled, plus 1 if it failed: one small number.
        self._calls: deque[int] = deque(maxlen=calls_max)

    @property
    def calls(self) -> int:
        """How many calls of the window are remembered."""
        return len(self._calls)

    def count(self, now_ns: int, window_ns: int, *, has_failed: bool) -> None:
        """A call has ended. Of too many the oldest is forgotten."""
        self.look_back(now_ns, window_ns)
        if len(self._calls) == self._calls.maxlen:
            self.failures -= self._calls[0] & 1
        self._calls.append(now_ns << 1 | has_failed)
        self.failures += has_failed

    def look_back(self, now_ns: int, window_ns: int) -> None:
        """Forgets what lies before the window."""
        oldest, calls = now_ns - window_ns, self._calls
        while calls and calls[0] >> 1 <= oldest:
            self.failures -= calls.popleft() & 1

    def clear(self, now_ns: int) -> None:
        """What was counted, and what is under way, says nothing any more."""
        self._calls.clear()
        self.failures, self.since_ns = 0, now_ns

    def resize(self, calls_max: int) -> None:
        """Remembers at most so many calls from now on: the last of them."""
        self._calls = deque(self._calls, maxlen=calls_max)
        self.failures = sum(each & 1 for each in self._calls)

    @property
    def model(self) -> str:
        """A name that people know."""
        spec = self.backend.by_runner.get(self.runner)
        return spec.name if spec else self.runner


class Breakers:
    """All of them. `emit` takes effects; `note` hears of each runner whose waiting requests may
    wait for something else now, `on_change` of what may run now and could not, or may no longer."""

    def __init__(
        self,
        policy: BreakerPolicy,
        backends: Mapping[str, BackendState],
        timers: Timers,
        emit: Callable[[Effect], None],
        note: Callable[[str], None],
        on_change: Callable[[int], None],
    ) -> None:
        self._policy = policy
        self._backends = backends
        self._timers = timers
        self._emit = emit
        self._note = note
        self._on_change = on_change
        self._of: dict[str, dict[str, Breaker]] = {}  # by backend, then by runner
        self._half_open: set[Breaker] = set()

    def __len__(self) -> int:
        return sum(len(each) for each in self._of.values())

    def configure(self, policy: BreakerPolicy, now_ns: int) -> None:
        """From the next call on this is what counts. What is open is so for no longer than the new
        policy would have it at most."""
        self._policy = policy
        for breaker in self._all():
            breaker.resize(self._calls_max())
            if breaker.until_ns is not None and breaker.until_ns > now_ns + policy.open_ns_max:
                self._open_until(breaker, now_ns + policy.open_ns_max)

    # The calls

    def started(
        self, backend: BackendState, runner: str, attempt_id: AttemptId, now_ns: int
    ) -> None:
        """An attempt has begun: where the breaker is half-open it is the probe, and nothing else
        passes until it has ended."""
        if not self._half_open:
            return  # the usual case
        breaker = self._find(backend.name, runner)
        if breaker is None or breaker.state is not _State.HALF_OPEN or breaker.probe:
            return
        breaker.probe = attempt_id
        backend.broken.add(runner)

    def ended(self, attempt: Attempt, error: BrokerError | None, now_ns: int) -> None:
        """An attempt is over, with this error."""
        runner = attempt.residency.runner
        breaker = self._find(attempt.backend, runner)
        has_failed = self._has_failed(attempt, error, now_ns)
        if breaker is None:
            backend = self._backends.get(attempt.backend)
            if has_failed is None or backend is None or runner not in backend.by_runner:
                return  # nothing is kept of what is gone
            breaker = self._make(backend, runner)
        if breaker.probe == attempt.id:
            self._probe_ended(breaker, has_failed, error, now_ns)
            return
        if has_failed is None or breaker.state is not _State.CLOSED:
            return
        if attempt.started_ns < breaker.since_ns:
            return
        policy = self._policy
        breaker.count(now_ns, policy.window_ns, has_failed=has_failed)
        if not has_failed or breaker.failures < policy.failures:
            return
        if breaker.failures >= policy.failure_share * breaker.calls:
            words = (
                f"{breaker.failures} of {breaker.calls} calls failed or were slow within "
                f"{policy.window_ns / 1e9:g} s, the last: {_problem(error)}"
            )
            self._open(breaker, _Trigger.TRIP, words, now_ns)

    def _has_failed(self, attempt: Attempt, error: BrokerError | None, now_ns: int) -> bool | None:
        """None: it says nothing of the model. A call was slow, and counts as failed, whose first
        piece took too long or never came for so long, however it ended."""
        first_ns = attempt.first_token_ns or now_ns
        if first_ns - attempt.started_ns >= self._policy.slow_ns:
            return True
        if error is None:
            return False
        if failure_of(error).counts and attempt.ending is None:
            return True
        return None

    def _probe_ended(
        self, breaker: Breaker, has_failed: bool | None, error: BrokerError | None, now_ns: int
    ) -> None:
        """What it proves. One that its client gave up, or that was wrong itself, proves nothing:
        the next one is the probe."""
        breaker.probe = NO_ATTEMPT
        if has_failed:
            breaker.relapses += 1
            words = f"the call that was let through came to nothing: {_problem(error)}"
            self._open(breaker, _Trigger.RELAPSE, words, now_ns)
        elif has_failed is None:
            breaker.backend.broken.discard(breaker.runner)
            self._changed(breaker, now_ns)
        else:
            words = "the call that was let through came back well"
            self._close(breaker, _Trigger.PROVE, words, now_ns)

    # The states

    def _open(self, breaker: Breaker, trigger: BreakerTrigger, why: str, now_ns: int) -> None:
        policy = self._policy
        open_ns = policy.open_ns << min(breaker.relapses, DOUBLED_MAX)
        self._open_until(breaker, now_ns + min(open_ns, policy.open_ns_max))
        breaker.clear(now_ns)
        breaker.backend.broken.add(breaker.runner)
        self._move(breaker, trigger, why, now_ns)

    def _open_until(self, breaker: Breaker, until_ns: int) -> None:
        self._timers.cancel(breaker.timer)
        breaker.until_ns = breaker.backend.broken_until_ns[breaker.runner] = until_ns
        breaker.timer = self._timers.set(until_ns, self._cool, breaker)

    def _cool(self, breaker: Breaker, now_ns: int) -> None:
        """It was open long enough: one call may pass."""
        breaker.timer, breaker.until_ns = 0, None
        breaker.backend.broken.discard(breaker.runner)
        self._move(breaker, _Trigger.COOL, "one call is let through", now_ns)

    def _close(self, breaker: Breaker, trigger: BreakerTrigger, why: str, now_ns: int) -> None:
        """All may pass. `broken_until_ns` forgets it as well."""
        self._timers.cancel(breaker.timer)
        breaker.timer, breaker.until_ns, breaker.relapses = 0, None, 0
        breaker.probe = NO_ATTEMPT
        breaker.clear(now_ns)
        breaker.backend.broken.discard(breaker.runner)
        breaker.backend.broken_until_ns.pop(breaker.runner, None)
        self._move(breaker, trigger, why, now_ns)

    def _move(self, breaker: Breaker, trigger: BreakerTrigger, why: str, now_ns: int) -> None:
        before = breaker.state
        after = breaker.state = BREAKER.step(before, trigger)
        breaker.why = why if after is not _State.CLOSED else ""
        if after is _State.HALF_OPEN:
            self._half_open.add(breaker)
        else:
            self._half_open.discard(breaker)
        if after is before:
            return
        self._emit(
            TellBreaker(
                backend=breaker.backend.name,
                model=breaker.model,
                before=before,
                after=after,
                why=why,
                until_ns=breaker.until_ns,
            )
        )
        self._changed(breaker, now_ns)

    def _changed(self, breaker: Breaker, now_ns: int) -> None:
        self._note(breaker.runner)
        self._on_change(now_ns)

    def reset(self, backend: BackendState, runner: str, why: str, now_ns: int) -> None:
        """A cure, a new process, an operator: what was counted says nothing now, nor does what is
        under way."""
        breaker = self._find(backend.name, runner)
        if breaker is None and runner in backend.by_runner:
            breaker = self._make(backend, runner)
        if breaker is not None:
            self._close(breaker, _Trigger.RESET, why, now_ns)

    def reset_all(self, backend: BackendState, why: str, now_ns: int) -> None:
        """The same of all models on a backend."""
        for runner in list(self._of.get(backend.name, ())):
            self.reset(backend, runner, why, now_ns)

    # Which are kept

    def tidy(self, backend: BackendState, now_ns: int) -> None:
        """Forgets those of models that are gone, and those that have nothing to say."""
        policy, kept = self._policy, self._of.get(backend.name)
        if not kept:
            return
        for runner, breaker in list(kept.items()):
            breaker.look_back(now_ns, policy.window_ns)
            if runner not in backend.by_runner:
                self._close(breaker, _Trigger.RESET, "the model is gone", now_ns)
                del kept[runner]
                continue
            # One that has just closed still knows which calls say nothing.
            is_idle = breaker.state is _State.CLOSED and not breaker.calls
            if is_idle and breaker.since_ns <= now_ns - policy.window_ns:
                del kept[runner]
        if not kept:
            del self._of[backend.name]

    def forget(self, backend: BackendState, now_ns: int) -> None:
        """It is gone for good; another one may have its name."""
        self.reset_all(backend, "the backend is gone", now_ns)
        self._of.pop(backend.name, None)

    # What is told

    def views(self, backend: BackendState) -> tuple[BreakerView, ...]:
        """Those of a backend that are not closed, or have counted failures."""
        return tuple(
            BreakerView(
                model=each.model,
                state=each.state,
                failures=each.failures,
                calls=each.calls,
                until_ns=each.until_ns,
                why=each.why,
            )
            for each in self._of.get(backend.name, {}).values()
            if each.state is not _State.CLOSED or each.failures
        )

    def check(self) -> None:
        """Raises InvariantBroken where what the backends say is not what the breakers are. O(n)."""
        for backend in self._backends.values():
            kept = self._of.get(backend.name, {})
            broken = {x.runner for x in kept.values() if x.state is _State.OPEN or x.probe}
            if broken != backend.broken:
                raise InvariantBroken("what is broken is not what its breakers say")
            not_closed = {x.runner for x in kept.values() if x.state is not _State.CLOSED}
            if not_closed != backend.broken_until_ns.keys():
                raise InvariantBroken("a breaker is not closed, and its backend does not know")
        for breaker in self._all():
            if self._backends.get(breaker.backend.name) is not breaker.backend:
                raise InvariantBroken("a breaker of a backend that is gone")
            if breaker.probe and breaker.state is not _State.HALF_OPEN:
                raise InvariantBroken("a probe of a breaker that is not half-open")
            if bool(breaker.timer) is not (breaker.state is _State.OPEN):
                raise InvariantBroken("an open breaker without an alarm, or the reverse")

    def _all(self) -> Iterator[Breaker]:
        for kept in self._of.values():
            yield from kept.values()

    def _find(self, backend: str, runner: str) -> Breaker | None:
        kept = self._of.get(backend)
        return None if kept is None else kept.get(runner)

    def _make(self, backend: BackendState, runner: str) -> Breaker:
        breaker = Breaker(backend, runner, self._calls_max())
        self._of.setdefault(backend.name, {})[runner] = breaker
        return breaker

    def _calls_max(self) -> int:
        return max(CALLS_MIN, CALLS_PER_FAILURE * self._policy.failures)


def _problem(error: BrokerError | None) -> str:
    return "it was too slow" if error is None else error.message
