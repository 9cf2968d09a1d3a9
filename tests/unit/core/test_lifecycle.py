"""The life of a request: what the engine relies on beyond the walk in test_state_machines.py."""

from __future__ import annotations

import pytest

from broker.core.lifecycle import HOLDS_SLOT, LIFECYCLE, OUTCOME_OF, WAITS, State, Trigger
from broker.core.requests import Outcome


def test_each_outcome_is_the_end_of_one_state() -> None:
    assert sorted(OUTCOME_OF.values(), key=lambda each: each.value) == sorted(
        Outcome, key=lambda each: each.value
    )


def test_a_slot_is_taken_by_dispatch_alone_and_left_by_an_end_or_a_requeue() -> None:
    entries = {
        trigger
        for (before, trigger), after in LIFECYCLE.table.items()
        if after in HOLDS_SLOT and before not in HOLDS_SLOT
    }
    exits = {
        after
        for (before, _), after in LIFECYCLE.table.items()
        if before in HOLDS_SLOT and after not in HOLDS_SLOT
    }
    assert entries == {Trigger.DISPATCH}
    assert exits <= set(OUTCOME_OF) | {State.REQUEUED}


@pytest.mark.parametrize("state", [State.DISPATCHED, State.STREAMING])
@pytest.mark.parametrize("trigger", [Trigger.CANCEL, Trigger.EXPIRE, Trigger.SHED])
def test_what_holds_a_slot_is_aborted_before_it_has_ended(state: State, trigger: Trigger) -> None:
    assert (state, trigger) not in LIFECYCLE.table
    cancelling = LIFECYCLE.step(state, Trigger.ABORT)
    assert cancelling is State.CANCELLING
    assert LIFECYCLE.step(cancelling, trigger) in OUTCOME_OF


def test_only_what_holds_a_slot_is_requeued_and_not_once_it_was_told_to_end() -> None:
    requeued = {before for (before, trigger) in LIFECYCLE.table if trigger is Trigger.REQUEUE}
    assert requeued == {State.DISPATCHED, State.STREAMING}


def test_no_default_answer_is_given_over_what_is_streaming() -> None:
    answered = {before for (before, trigger) in LIFECYCLE.table if trigger is Trigger.ANSWER}
    assert State.STREAMING not in answered
    assert answered >= WAITS
