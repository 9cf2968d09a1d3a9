"""What the sessions of agents have come to, kept by the prose of docs/scheduling.md."""

from __future__ import annotations

from dataclasses import dataclass

from broker.core.requests import RequestSpec

HALF_AN_HOUR_NS = 1_800_000_000_000


@dataclass(slots=True)
class Session:
    called_ns: int
    done: int = 0
    ran_ns: int = 0
    expected: int = 0
    last_rank: int = -1


class SessionBooks:
    """By agent and name."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Session] = {}

    def called(self, spec: RequestSpec, now_ns: int) -> Session:
        key = spec.key[0], spec.session_id
        session = self._known.get(key)
        if session is None or now_ns - session.called_ns >= HALF_AN_HOUR_NS:
            session = self._known[key] = Session(now_ns)
        session.called_ns = now_ns
        session.expected = spec.expected_calls or session.expected
        return session

    def credit_ns(self, session: Session, most_ns: int) -> int:
        if session.expected > session.done:
            return most_ns * session.done // session.expected
        if session.expected:  # it goes on for longer than it said
            return most_ns * session.done // (session.done + 1)
        return min(most_ns, session.ran_ns)

    def completed(self, spec: RequestSpec, ran_ns: int) -> None:
        session = self._known[spec.key[0], spec.session_id]
        session.done += 1
        session.ran_ns += ran_ns
