"""What a session's credit may cost others: within the credit and nobody's place beyond it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.queueing import AgentOrder, QueuePolicy
from broker.core.requests import RequestKey
from broker.core.stimuli import Arrived
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, Scene, model, request, serving

CREDIT_NS = 10 * SECOND_NS
# Nobody is served more than another by this: what decides is age, sizes and credits considered.
QUEUE = QueuePolicy(
    session_credit_ns=CREDIT_NS, fairness_grain=1 << 30, agent_order=AgentOrder.ARRIVAL
)
HANDICAP = QUEUE.size_handicap


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
        agent=st.integers(0, 5),
        session=st.integers(0, 2),
        expected=st.sampled_from([0, 1, 2, 5]),
        size_bytes=st.sampled_from([100, 400, 2_000]),
        gap_s=st.integers(0, 6),
    ),
    min_size=2,
    max_size=14,
)


def played(calls: list[Call], served_every: int) -> tuple[Scene, list[RequestKey]]:
    """All come, and after every so many of them one that runs ends: the order of the starts."""
    scene = serving(model("m"), queue=QUEUE)
    started = list[RequestKey]()

    def end_one() -> None:
        started.append(scene.end_one())

    for number, call in enumerate(calls):
        scene.wait(call.gap_s * SECOND_NS)
        session = f"s{call.session}" if call.session else ""
        spec = request(
            str(number),
            agent=f"a{call.agent}",
            size_bytes=call.size_bytes,
            deadline_ns=600 * MINUTE_NS,
        )
        expected = call.expected if session else 0
        scene.turn(Arrived(replace(spec, session_id=session, expected_calls=expected)))
        if number % served_every == served_every - 1:
            end_one()
    while scene.engine.attempts:
        end_one()
    return scene, started


@settings(max_examples=60)
@given(calls=CALLS, served_every=st.integers(1, 4))
def test_nobody_is_passed_by_who_came_later_than_credit_and_size_allow(
    calls: list[Call], served_every: int
) -> None:
    scene, order = played(calls, served_every)
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
