"""All downloads of models: whose turn it is, who joins which, and what a failure means for one.

Pure: time, the local clock's minute and what backends say are handed in; what is to be done comes
back. One download of a model on a backend serves everybody who wants it. It runs in the hours that
are allowed, as many at once as may, the oldest first; one that breaks goes on after a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from broker.core.errors import (
    AccessDenied,
    BackendRefused,
    BrokerError,
    DiskFull,
    ModelUnknown,
    PullFailed,
    PullsFull,
)
from broker.core.model_name import comparison_key
from broker.core.pull_entries import PullEntry, PullsState
from broker.core.pull_hours import ALWAYS, Hours
from broker.models.pull import NS_PER_S, Pull, PullState

# Of those that have ended so many are still listed.
ENDED_KEPT: Final = 32
# The wait after a failure is doubled at most so often.
RETRY_DOUBLED_MAX: Final = 16
RETRY_AFTER_FULL_NS: Final = 60 * NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class PullPolicy:
    """`pulls_max` wait and run, to which `listeners_max` may listen. `tries_max`: after so many
    calls in a row in which nothing came a download has failed. The first wait between two is
    `retry_ns`, doubled each time up to `retry_ns_max`. `stall_ns`: a call in which nothing came for
    so long is broken off; `verify_ns` the same while it checks, of which it tells nothing.
    `reserve_bytes` of disk are left free. `stops_unheard`: a download that nobody listens to any
    more is cancelled."""

    concurrent_max: int = 1
    pulls_max: int = 32
    listeners_max: int = 200
    hours: Hours = ALWAYS
    tries_max: int = 10
    retry_ns: int = 2 * NS_PER_S
    retry_ns_max: int = 300 * NS_PER_S
    stall_ns: int = 120 * NS_PER_S
    verify_ns: int = 3_600 * NS_PER_S
    reserve_bytes: int = 5_000_000_000
    stops_unheard: bool = False


Key = tuple[str, str]


class Pulls:
    """See the module."""

    def __init__(self, policy: PullPolicy) -> None:
        self.policy = policy
        self._open: dict[Key, Pull] = {}
        self._ended: deque[Pull] = deque(maxlen=ENDED_KEPT)
        self._number = 0
        self.ended_count: dict[PullState, int] = {}
        self.fetched_bytes = 0  # of those that have ended, since start

    def __iter__(self) -> Iterator[Pull]:
        """Those that wait or run, the oldest first."""
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    def all(self) -> list[Pull]:
        """Those that ended lately as well, the oldest first."""
        return sorted((*self._ended, *self._open.values()), key=lambda each: each.number)

    def find(self, name: str, backend: str) -> Pull | None:
        """The one of this model there that waits or runs; with "" the first one anywhere."""
        key = comparison_key(name)
        if backend:
            return self._open.get((key, backend))
        return next((each for (of, _), each in self._open.items() if of == key), None)

    def ask(
        self,
        name: str,
        backend: str,
        agent_id: str,
        *,
        is_urgent: bool,
        expected_bytes: int,
        unix_ms: int,
    ) -> Pull:
        """The download that serves this wish: one that waits or runs, else a new one. PullsFull."""
        key = comparison_key(name), backend
        pull = self._open.get(key)
        if pull is None:
            if len(self._open) >= self.policy.pulls_max:
                raise PullsFull(
                    f"{self.policy.pulls_max} downloads wait or run already",
                    retry_after_ns=RETRY_AFTER_FULL_NS,
                )
            self._number += 1
            pull = self._open[key] = Pull(
                name=name,
                backend=backend,
                agent_id=agent_id,
                number=self._number,
                asked_unix_ms=unix_ms,
                expected_bytes=expected_bytes,
            )
        if is_urgent:
            pull.is_urgent = True
        return pull

    def restore(self, entries: Iterable[PullEntry]) -> None:
        """What the broker before this one has left; no more than may be."""
        for entry in list(entries)[: self.policy.pulls_max]:
            pull = self.ask(
                entry.name,
                entry.backend,
                entry.agent_id,
                is_urgent=entry.is_urgent,
                expected_bytes=entry.total_bytes,
                unix_ms=entry.asked_unix_ms,
            )
            pull.completed_bytes = entry.completed_bytes
            pull.detail = "it goes on where the broker before left it"

    def entries(self) -> tuple[PullEntry, ...]:
        """What is to be kept over a restart."""
        return tuple(
            PullEntry(
                name=each.name,
                backend=each.backend,
                agent_id=each.agent_id,
                asked_unix_ms=each.asked_unix_ms,
                is_urgent=each.is_urgent,
                completed_bytes=each.completed_bytes,
                total_bytes=each.size_bytes,
            )
            for each in self._open.values()
        )

    def state(self) -> PullsState:
        """For metrics."""
        running = sum(each.is_running for each in self._open.values())
        return PullsState(
            waiting=len(self._open) - running,
            running=running,
            done=self.ended_count.get(PullState.DONE, 0),
            failed=self.ended_count.get(PullState.FAILED, 0),
            cancelled=self.ended_count.get(PullState.CANCELLED, 0),
            fetched_bytes=self.fetched_bytes + sum(each.fetched_bytes for each in self),
        )

    # Whose turn it is

    def due(self, now_ns: int, minute: int) -> list[Pull]:
        """Those that may begin now; each is to be begun."""
        free = self.policy.concurrent_max - sum(each.is_running for each in self._open.values())
        is_open = self.policy.hours.is_open(minute)
        found = list[Pull]()
        for pull in self._open.values():
            if pull.state is not PullState.WAITING:
                continue
            if not is_open and not pull.is_urgent:
                pull.detail = f"it waits for its hours: {self.policy.hours}"
            elif pull.retry_at_ns > now_ns:
                continue
            elif len(found) >= free:
                pull.detail = "it waits for its turn"
            else:
                found.append(pull)
        return found

    def out_of_hours(self, minute: int) -> list[Pull]:
        """Those that run and may not any more."""
        if self.policy.hours.is_open(minute):
            return []
        return [each for each in self._open.values() if each.is_running and not each.is_urgent]

    def stalled(self, now_ns: int) -> list[Pull]:
        """Those that run and of which nothing was heard for too long."""
        limits = {
            PullState.PULLING: self.policy.stall_ns,
            PullState.VERIFYING: self.policy.verify_ns,
        }
        return [
            each
            for each in self._open.values()
            if each.state in limits and now_ns - each.grew_ns >= limits[each.state]
        ]

    # What becomes of it

    def done(self, pull: Pull, now_ns: int) -> None:
        pull.succeed(now_ns)
        self._close(pull)

    def failed(self, pull: Pull, error: BrokerError, now_ns: int) -> None:
        """A call has ended badly: it goes on later, unless that would not help."""
        pull.tries += 1
        is_final = isinstance(error, DiskFull | ModelUnknown | BackendRefused | AccessDenied) or (
            isinstance(error, PullFailed) and error.is_final
        )
        if is_final or pull.tries >= self.policy.tries_max:
            tried = "" if is_final else f" (tried {pull.tries} times)"
            pull.fail(error if is_final else PullFailed(f"{error.message}{tried}"), now_ns)
            self._close(pull)
            return
        doubled = min(pull.tries - 1, RETRY_DOUBLED_MAX)
        wait_ns = min(self.policy.retry_ns << doubled, self.policy.retry_ns_max)
        words = f"it goes on in {wait_ns / NS_PER_S:g} s, after: {error.message}"
        pull.wait(words, now_ns + wait_ns)

    def interrupted(self, pull: Pull, why: str, now_ns: int) -> None:
        """Its call was closed by the broker: it goes on when it may."""
        pull.wait(why, now_ns)

    def refused(self, pull: Pull, error: BrokerError, now_ns: int) -> None:
        """It fails for good, whatever was tried."""
        pull.fail(error, now_ns)
        self._close(pull)

    def cancelled(self, pull: Pull, why: str, now_ns: int) -> None:
        pull.cancel(why, now_ns)
        self._close(pull)

    def _close(self, pull: Pull) -> None:
        del self._open[comparison_key(pull.name), pull.backend]
        self._ended.append(pull)
        self.fetched_bytes += pull.fetched_bytes
        self.ended_count[pull.state] = self.ended_count.get(pull.state, 0) + 1
