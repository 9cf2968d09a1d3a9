"""Who is next where sessions have credits: as the prose says, and nobody is passed beyond it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from _sched.reference_queue import FairQueue
from broker.core.queueing import AgentOrder, QueuePolicy
from broker.core.requests import RequestKey
from broker.core.stimuli import Arrived
from tests.property.session_books import SessionBooks
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, model, request, serving

CREDIT_NS = 10 * SECOND_NS
# Nobody is ever served more than another: what decides is age, sizes and credits considered.
QUEUE = QueuePolicy(
    session_credit_ns=CREDIT_NS,
    agent_order=AgentOrder.ARRIVAL,
    prompt_token_cost=0,
    output_token_cost=0,
)
HANDICAP = QUEUE.size_handicap
AGENTS = 6


@dataclass(frozen=True)
class Call:
    agent: int
    session: int  # 0: of none
    expected: int
    size_bytes: int
    gap_s: int  # after the one before


CALLS = st.lists(
    st.builds(
        Call,
        agent=st.integers(0, AGENTS - 1),
        session=st.integers(0, 2),
        expected=st.sampled_from([0, 1, 2, 5]),
        size_bytes=st.sampled_from([100, 400, 2_000]),
        gap_s=st.integers(0, 6),
    ),
    min_size=2,
    max_size=14,
)


class Play:
    """One server of one slot; who is next is asked of the reference as well."""

    def __init__(self) -> None:
        self.scene = serving(model("m"), queue=QUEUE)
        self.books = SessionBooks()
        self.started = list[RequestKey]()
        self._reference = FairQueue(QUEUE.handicap_ns_per_priority, grain=QUEUE.fairness_grain)
        self._group = self._reference.open_group()
        self._agents = [self._reference.add_agent(1.0) for _ in range(AGENTS)]
        self._waiting: dict[int, RequestKey] = {}  # by the handle of the reference
        self._flow, self._since_ns = 0, 0  # of what runs

    def comes(self, number: int, call: Call) -> None:
        scene, session = self.scene, f"s{call.session}" if call.session else ""
        scene.wait(call.gap_s * SECOND_NS)
        spec = request(
            str(number),
            agent=f"a{call.agent}",
            size_bytes=call.size_bytes,
            deadline_ns=600 * MINUTE_NS,
        )
        expected = call.expected if session else 0
        spec = replace(spec, session_id=session, expected_calls=expected)
        is_free = not scene.engine.attempts
        scene.turn(Arrived(spec))
        service_ns = scene.engine.records[spec.key].service_ns
        rank, credit_ns = 100 * scene.now_ns + number, 0  # in order of arrival at one moment, too
        if session:
            own = self.books.called(spec, scene.now_ns)
            credit_ns = self.books.credit_ns(own, CREDIT_NS)
            before = own.last_rank + 1 if own.last_rank >= 0 else -(1 << 62)
            rank = max(rank - 100 * credit_ns, before) if credit_ns else rank
            own.last_rank = rank
        entry = self._reference.push(
            self._group,
            5,
            0,
            self._agents[call.agent],
            rank,
            scene.now_ns,
            scene.now_ns,
            stand_back_ns=CREDIT_NS + int(HANDICAP * service_ns) - credit_ns,
        )
        self._waiting[entry] = spec.key
        if is_free:
            self._starts()

    def _starts(self) -> None:
        """The engine has started one: the one that the reference would."""
        best = self._reference.best(self._group, 0)
        assert best is not None
        (running,) = self.scene.engine.attempts.values()
        assert running.record.spec.key == self._waiting.pop(best[2])
        taken = self._reference.take(best[2], 0, self.scene.now_ns)
        assert taken is not None
        self._flow = taken[0]
        self._since_ns = self.scene.now_ns
        self.started.append(running.record.spec.key)

    def end_one(self) -> None:
        (running,) = self.scene.engine.attempts.values()
        spec = running.record.spec
        self.scene.end_one()
        self._reference.settle(self._flow, 0, 0)
        if spec.session_id:
            self.books.completed(spec, self.scene.now_ns - self._since_ns)
        if self.scene.engine.attempts:
            self._starts()


def played(calls: list[Call], served_every: int) -> Play:
    """All come, and after every so many of them the one that runs ends."""
    play = Play()
    for number, call in enumerate(calls):
        play.comes(number, call)
        if number % served_every == served_every - 1:
            play.end_one()
    while play.scene.engine.attempts:
        play.end_one()
    return play


@settings(max_examples=60)
@given(calls=CALLS, served_every=st.integers(1, 4))
def test_nobody_is_passed_by_who_came_later_than_credit_and_size_allow(
    calls: list[Call], served_every: int
) -> None:
    play = played(calls, served_every)
    scene, order = play.scene, play.started
    records = {key: each.record for key, each in scene.engine.ledger.journal.ended.items()}
    sent = Counter(agent for agent, _ in order)
    at = {key: place for place, key in enumerate(order)}
    assert len(at) == len(calls)
    starts = {each.key: each.at_ns for each in scene.engine.ledger.journal.starts}
    for early, one in records.items():
        for late, other in records.items():
            was_waiting = one.arrived_ns < other.arrived_ns <= starts[early]
            if not (was_waiting and at[late] < at[early]):
                continue
            assert 0 <= other.credit_ns <= CREDIT_NS
            ahead_ns = other.arrived_ns - one.arrived_ns
            if early[0] == late[0]:
                assert ahead_ns <= other.credit_ns - one.credit_ns
                assert one.spec.session_id != other.spec.session_id or not one.spec.session_id
            elif sent[early[0]] == sent[late[0]] == 1:  # each was head of its agent at once
                smaller_ns = int(HANDICAP * one.service_ns) - int(HANDICAP * other.service_ns)
                assert ahead_ns <= smaller_ns + other.credit_ns - one.credit_ns
