"""How far the sessions of agents have come, and how much older that makes their next call.

A session is a task of several calls, one after the other. Its next call counts as older than it
is, among agents that were served alike and among its own agent's requests, by a *credit*: the part
of the session that is done, of what a whole one gets. So what is nearly finished is not passed by
what has only begun, and what was spent on it is not lost to an agent that gives up. How many calls
a session will have is what its caller expects, else what this agent's sessions had before; without
either nothing is known to be nearly done, and there is no credit (docs/adr/0023).

A session ends unseen: it is one that nobody has called for `IDLE_NS`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from _sched.average import MovingAverage
from broker.core.requests import RequestSpec

SECOND_NS: Final = 1_000_000_000

# Sessions that are remembered; the one not called for longest goes. As many as agents.
SESSIONS_MAX: Final = 10_000

# After so long without a call a session is over. The longest think times of agents are minutes.
IDLE_NS: Final = 900 * SECOND_NS

# Agents whose lengths of sessions are remembered, and the weight of another one.
AGENTS_MAX: Final = 10_000
LENGTH_WEIGHT: Final = 0.1

# Below so many ended sessions nothing is said of how long the next one will be.
LENGTHS_MIN: Final = 3

_Key = tuple[str, str]  # agent, session


class Session:
    """One session. `calls` were completed and took `attained_ns`; `expected` as its caller said
    last, 0 where it never did. `last_rank` is the place of its latest call among its agent's."""

    __slots__ = ("attained_ns", "began_ns", "calls", "expected", "last_rank", "used_ns")

    def __init__(self, now_ns: int) -> None:
        self.began_ns = self.used_ns = now_ns
        self.calls = self.attained_ns = self.expected = 0
        self.last_rank = -1


class Sessions:
    """See the module. All steps take constant time, forgetting included in the mean."""

    __slots__ = ("_known", "_lengths")

    def __init__(self) -> None:
        self._known: OrderedDict[_Key, Session] = OrderedDict()  # the one called last at the end
        self._lengths: OrderedDict[str, MovingAverage] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, agent_id: str, session_id: str) -> Session | None:
        return self._known.get((agent_id, session_id))

    def called(self, spec: RequestSpec, now_ns: int) -> Session:
        """A call of a session comes."""
        key = spec.key[0], spec.session_id
        session = self._known.get(key)
        if session is not None and now_ns - session.used_ns >= IDLE_NS:
            self._forget(key)
            session = None
        if session is None:
            self._make_room(now_ns)
            session = self._known[key] = Session(now_ns)
        else:
            self._known.move_to_end(key)
        session.used_ns = now_ns
        if spec.expected_calls:
            session.expected = spec.expected_calls
        return session

    def served(self, spec: RequestSpec, service_ns: int, now_ns: int) -> None:
        """One of its calls was completed."""
        session = self._known.get((spec.key[0], spec.session_id))
        if session is not None:
            session.calls += 1
            session.attained_ns += service_ns
            session.used_ns = max(session.used_ns, now_ns)

    def done_share(self, agent_id: str, session: Session) -> float:
        """Which part of it is done, 0 to 1; 0 while nobody knows. The call that comes is never
        the last but one of nothing: of what has gone on for longer than expected one is left."""
        expected = float(session.expected)
        if not session.expected:
            lengths = self._lengths.get(agent_id)
            expected = (lengths.mean(LENGTHS_MIN) or 0.0) if lengths is not None else 0.0
        if not expected:
            return 0.0
        return session.calls / max(expected, session.calls + 1)

    def _make_room(self, now_ns: int) -> None:
        """Forgets what is over, oldest first, and one more where it is full."""
        known = self._known
        while known:
            key = next(iter(known))
            if len(known) < SESSIONS_MAX and now_ns - known[key].used_ns < IDLE_NS:
                return
            self._forget(key)

    def _forget(self, key: _Key) -> None:
        """It is over: so long are the sessions of this agent."""
        calls = self._known.pop(key).calls
        if calls == 0:
            return  # it came to nothing, which tells of no length
        lengths = self._lengths.get(key[0])
        if lengths is None:
            if len(self._lengths) >= AGENTS_MAX:
                self._lengths.popitem(last=False)
            lengths = self._lengths[key[0]] = MovingAverage(LENGTH_WEIGHT)
        else:
            self._lengths.move_to_end(key[0])
        lengths.add(calls)
