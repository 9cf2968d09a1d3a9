"""How far the sessions of agents have come, and how much older that makes their next call.

A session is a task of several calls, one after the other. Its next call counts as older than it
is, among agents that were served alike and among its own agent's requests, by a *credit*: where
its caller has said how many calls there will be, the part of them that is done, of the most that
there is; else the time for which its calls have run. So what is nearly finished is not passed by
what has only begun, and what was spent on it is not lost to an agent that gives up (docs/adr/0023).

A session ends unseen: it is one that nobody has called for `IDLE_NS`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from broker.core.requests import RequestSpec

# Sessions that are remembered; the one not called for longest goes. As many as agents.
SESSIONS_MAX: Final = 10_000

# After so long without a call a session is over, and one of the same name is another. People who
# think between two calls think for minutes.
IDLE_NS: Final = 1_800_000_000_000

_Key = tuple[str, str]  # agent, session


class Session:
    """One session. `calls` were completed and took `attained_ns`; `expected` as its caller said
    last, 0 where it never did. `last_rank` is the place of its latest call among its agent's."""

    __slots__ = ("attained_ns", "calls", "expected", "last_rank", "used_ns")

    def __init__(self, now_ns: int) -> None:
        self.used_ns = now_ns
        self.calls = self.attained_ns = self.expected = 0
        self.last_rank = -1

    def credit_ns(self, most_ns: int) -> int:
        """How much older its next call counts as. Of what has gone on for longer than expected one
        call is left."""
        if self.expected:
            return most_ns * self.calls // max(self.expected, self.calls + 1)
        return min(most_ns, self.attained_ns)


class Sessions:
    """See the module. All steps take constant time, forgetting included in the mean."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[_Key, Session] = OrderedDict()  # the one called last at the end

    def __len__(self) -> int:
        return len(self._known)

    def find(self, agent_id: str, session_id: str) -> Session | None:
        return self._known.get((agent_id, session_id))

    def called(self, spec: RequestSpec, now_ns: int) -> Session:
        """A call of a session comes."""
        self._forget_idle(now_ns)
        key = spec.key[0], spec.session_id
        session = self._known.get(key)
        if session is None:
            if len(self._known) >= SESSIONS_MAX:
                self._known.popitem(last=False)
            session = self._known[key] = Session(now_ns)
        else:
            self._known.move_to_end(key)
            session.used_ns = now_ns
        if spec.expected_calls:
            session.expected = spec.expected_calls
        return session

    def served(self, spec: RequestSpec, service_ns: int) -> None:
        """One of its calls was completed."""
        session = self._known.get((spec.key[0], spec.session_id))
        if session is not None:
            session.calls += 1
            session.attained_ns += service_ns

    def _forget_idle(self, now_ns: int) -> None:
        """What is over, the oldest first."""
        known = self._known
        while known:
            key = next(iter(known))
            if now_ns - known[key].used_ns < IDLE_NS:
                return
            del known[key]
