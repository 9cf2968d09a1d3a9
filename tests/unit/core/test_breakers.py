"""The circuit breaker: what it counts, when it opens, for how long, and what closes it again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.breaker import BREAKER, BreakerPolicy, BreakerState, BreakerTrigger
from broker.core.breakers import CALLS_MIN
from broker.core.errors import (
    BackendBusy,
    BackendFrozen,
    BackendRefused,
    BackendUnreachable,
    BrokerError,
    Cancelled,
    ClientTooSlow,
    DeadlineExpired,
    TimedOut,
)
from broker.core.state_machine import InvalidTransition
from broker.core.time_outs import Phase
from tests.unit.core.breaker_stage import BROKE, RUNNER, Stage
from tests.unit.core.scene import SECOND_NS, model

POLICY = BreakerPolicy(
    failures=3,
    window_ns=60 * SECOND_NS,
    failure_share=0.5,
    slow_ns=20 * SECOND_NS,
    open_ns=10 * SECOND_NS,
    open_ns_max=50 * SECOND_NS,
)


def tripped(policy: BreakerPolicy = POLICY) -> Stage:
    """One that has just opened; what was told of it is forgotten."""
    stage = Stage(policy)
    stage.calls(*[BROKE] * policy.failures)
    assert stage.states() == ["closed -> open"]
    return stage


# The table


def test_the_table_knows_each_way_and_no_other() -> None:
    ways = {
        ("closed", "trip"): "open",
        ("open", "cool"): "half_open",
        ("half_open", "prove"): "closed",
        ("half_open", "relapse"): "open",
        ("closed", "reset"): "closed",
        ("open", "reset"): "closed",
        ("half_open", "reset"): "closed",
    }
    for state in BreakerState:
        for trigger in BreakerTrigger:
            after = ways.get((state.value, trigger.value))
            if after is None:
                with pytest.raises(InvalidTransition):
                    BREAKER.step(state, trigger)
            else:
                assert BREAKER.step(state, trigger).value == after


# What trips it


def test_so_many_failures_open_it_and_one_less_does_not() -> None:
    stage = Stage(POLICY)
    stage.calls(BROKE, BROKE)
    assert (stage.is_open, stage.told) == (False, [])
    stage.calls(BROKE)
    assert stage.is_open
    [told] = stage.told
    assert (told.backend, told.model, told.until_ns) == (
        "b1",
        "m:latest",
        stage.now_ns + 10 * SECOND_NS,
    )
    assert told.why == "3 of 3 calls failed or were slow within 60 s, the last: it broke"
    assert (stage.noted, stage.changes) == ([RUNNER], 1)


def test_failures_that_are_a_small_part_of_the_calls_do_not_open_it() -> None:
    stage = Stage(POLICY)
    stage.calls(*[None] * 4, BROKE, BROKE, BROKE)
    assert not stage.is_open  # 3 of 7
    stage.calls(BROKE)
    assert stage.is_open  # 4 of 8


def test_what_lies_before_the_window_does_not_count() -> None:
    stage = Stage(POLICY)
    stage.calls(BROKE, BROKE)
    stage.wait(60 * SECOND_NS)
    stage.calls(BROKE)
    assert not stage.is_open
    stage.wait(60 * SECOND_NS - 1)
    stage.calls(BROKE, BROKE)
    assert stage.is_open  # the third is just within


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (BROKE, True),
        (BackendBusy("503"), True),
        (BackendFrozen("nothing came"), True),
        (TimedOut("too late", Phase.FIRST_TOKEN), True),
        (TimedOut("too long", Phase.TOTAL), False),
        (BackendRefused("bad input", status=400), False),
        (BackendUnreachable("refused"), False),  # a server that is away is known as such
        (ClientTooSlow("it did not read"), False),
        (Cancelled("an operator cancelled it"), False),
        (DeadlineExpired("late"), False),
    ],
)
def test_only_what_speaks_against_the_backend_counts(error: BrokerError, counts: bool) -> None:
    stage = Stage(POLICY)
    stage.calls(error, error, error)
    assert stage.is_open is counts


def test_what_its_client_gave_up_says_nothing_whatever_it_then_ended_with() -> None:
    stage = Stage(POLICY)
    for _ in range(3):
        stage.given_up(stage.starts(), BROKE)
    assert (stage.is_open, len(stage.breakers)) == (False, 0)


@pytest.mark.parametrize("ends_well", [True, False])
def test_a_slow_first_piece_counts_however_the_call_ended(ends_well: bool) -> None:
    stage = Stage(POLICY)
    for _ in range(3):
        attempt = stage.starts()
        stage.wait(20 * SECOND_NS)
        attempt.first_token_ns = stage.now_ns
        if ends_well:
            stage.ends(attempt)
        else:
            stage.given_up(attempt, Cancelled("its client went away"))
    assert stage.is_open


def test_a_call_that_gave_nothing_for_as_long_is_slow_and_a_long_answer_is_not() -> None:
    stage = Stage(POLICY)
    for _ in range(6):
        attempt = stage.starts()
        attempt.first_token_ns = stage.now_ns + 20 * SECOND_NS - 1
        stage.wait(40 * SECOND_NS)
        stage.ends(attempt)
    assert not stage.is_open
    for _ in range(3):
        attempt = stage.starts()
        stage.wait(20 * SECOND_NS)
        stage.given_up(attempt, Cancelled("its client went away"))
    assert stage.is_open


# Open, half-open


def test_it_is_open_for_its_time_and_then_one_call_may_pass() -> None:
    stage = tripped()
    stage.wait(10 * SECOND_NS - 1)
    assert stage.is_open
    stage.wait(1)
    assert (stage.is_open, stage.states()) == (False, ["open -> half_open"])
    stage.starts()
    assert stage.is_open  # until it is known what became of it


def test_a_probe_that_comes_back_well_closes_it() -> None:
    stage = tripped()
    stage.wait(10 * SECOND_NS)
    stage.calls(None)
    assert (stage.is_open, stage.states()) == (False, ["open -> half_open", "half_open -> closed"])
    stage.calls(BROKE, BROKE)
    assert not stage.is_open  # what was counted before is forgotten


def test_each_probe_that_fails_doubles_the_time_up_to_a_limit_and_a_good_one_ends_that() -> None:
    stage = tripped()
    for open_s in (10, 20, 40, 50, 50):
        stage.wait(open_s * SECOND_NS - 1)
        assert stage.is_open
        stage.wait(1)
        stage.states()
        stage.calls(BROKE)
        [told] = stage.told
        assert told.why == "the call that was let through came to nothing: it broke"
    stage.wait(50 * SECOND_NS)
    stage.calls(None, BROKE, BROKE, BROKE)
    assert stage.told[-1].until_ns == stage.now_ns + 10 * SECOND_NS


@pytest.mark.parametrize("error", [Cancelled("its client went away"), BROKE])
def test_a_probe_that_its_client_gave_up_proves_nothing_and_the_next_is_one(
    error: BrokerError,
) -> None:
    stage = tripped()
    stage.wait(10 * SECOND_NS)
    first = stage.starts()
    changes = stage.changes
    stage.given_up(first, error)
    assert (stage.is_open, stage.changes) == (False, changes + 1)
    second = stage.starts()
    assert stage.is_open
    stage.ends(second)
    assert stage.states() == ["open -> half_open", "half_open -> closed"]


def test_a_probe_that_was_wrong_itself_proves_nothing() -> None:
    stage = tripped()
    stage.wait(10 * SECOND_NS)
    stage.calls(BackendRefused("bad input", status=400))
    assert (stage.is_open, stage.states()) == (False, ["open -> half_open"])


def test_a_slow_probe_is_a_relapse() -> None:
    stage = tripped()
    stage.wait(10 * SECOND_NS)
    attempt = stage.starts()
    stage.wait(20 * SECOND_NS)
    stage.ends(attempt)
    assert stage.states()[-1] == "half_open -> open"


def test_calls_from_before_it_opened_say_nothing_afterwards() -> None:
    stage = Stage(POLICY)
    early = [stage.starts() for _ in range(4)]
    stage.wait(SECOND_NS)
    stage.calls(BROKE, BROKE, BROKE)
    stage.ends(early[0])
    assert stage.is_open  # an answer from before proves nothing
    stage.wait(10 * SECOND_NS)
    probe = stage.starts()
    stage.ends(early[1])
    assert stage.is_open
    stage.ends(probe)
    assert not stage.is_open
    for attempt in early[2:]:
        stage.ends(attempt, BROKE)
    stage.calls(BROKE, BROKE)
    assert not stage.is_open


# Reset


@pytest.mark.parametrize("state", ["closed", "open", "half_open", "probing"])
def test_a_reset_closes_it_whatever_it_was_and_forgets_what_it_counted(state: str) -> None:
    stage = Stage(POLICY)
    stage.calls(BROKE, BROKE)
    if state != "closed":
        stage.calls(BROKE)
    if state in ("half_open", "probing"):
        stage.wait(10 * SECOND_NS)
    probe = stage.starts() if state == "probing" else None
    stage.wait(1)
    stage.states()
    stage.breakers.reset(stage.backend, RUNNER, "it was cured", stage.now_ns)
    stage.breakers.check()
    if state == "closed":
        assert stage.told == []  # nobody need hear of it
    else:
        [told] = stage.told
        assert (told.after, told.why) == (BreakerState.CLOSED, "it was cured")
    assert (stage.is_open, stage.timers.next_ns()) == (False, None)
    if probe is not None:
        stage.ends(probe, BROKE)
    stage.calls(BROKE, BROKE)
    assert not stage.is_open
    stage.calls(BROKE)
    assert stage.is_open


def test_a_reset_of_all_is_of_each_model_of_that_backend() -> None:
    stage = Stage(POLICY, model("m"), model("n"))
    for runner in (RUNNER, "blob-n"):
        for _ in range(3):
            stage.ends(stage.starts(runner), BROKE)
    assert stage.backend.broken == {RUNNER, "blob-n"}
    stage.breakers.reset_all(stage.backend, "it came back", stage.now_ns)
    assert (stage.backend.broken, stage.backend.broken_until_ns) == (set(), {})


# What is kept


def test_each_model_has_its_own() -> None:
    stage = Stage(POLICY, model("m"), model("n"))
    stage.calls(BROKE, BROKE, BROKE)
    assert stage.backend.takes("blob-n")
    assert len(stage.breakers) == 1  # none for what was never called


def test_it_remembers_a_bounded_number_of_calls() -> None:
    stage = Stage(replace(POLICY, failure_share=0.04))
    stage.calls(BROKE, BROKE, *[None] * (CALLS_MIN - 1))
    [view] = stage.breakers.views(stage.backend)
    assert (view.failures, view.calls) == (1, CALLS_MIN)  # the first failure is forgotten
    stage.calls(None)
    assert stage.breakers.views(stage.backend) == ()
    stage.calls(BROKE, BROKE, BROKE)
    assert stage.is_open  # 3 of 64


def test_one_that_is_closed_and_has_nothing_to_say_is_forgotten() -> None:
    stage = Stage(POLICY)
    stage.calls(None, BROKE)
    stage.breakers.tidy(stage.backend, stage.now_ns)
    assert len(stage.breakers) == 1
    stage.wait(60 * SECOND_NS)
    stage.breakers.tidy(stage.backend, stage.now_ns)
    assert len(stage.breakers) == 0


def test_one_that_is_open_is_kept_however_long() -> None:
    stage = tripped(replace(POLICY, open_ns=900 * SECOND_NS, open_ns_max=900 * SECOND_NS))
    stage.wait(800 * SECOND_NS)
    stage.breakers.tidy(stage.backend, stage.now_ns)
    assert stage.is_open


def test_of_a_model_that_is_gone_nothing_remains() -> None:
    """A backend that goes has no models first."""
    stage = tripped()
    stage.backend.list_models([])
    stage.breakers.tidy(stage.backend, stage.now_ns)
    stage.breakers.check()
    assert stage.states() == ["open -> closed"]
    assert (len(stage.breakers), stage.timers.next_ns()) == (0, None)


def test_neither_a_late_call_nor_a_reset_brings_back_what_is_gone() -> None:
    stage = Stage(POLICY)
    late = stage.starts()
    stage.backend.list_models([])
    stage.ends(late, BROKE)
    stage.breakers.reset(stage.backend, RUNNER, "it was cured", stage.now_ns)
    assert len(stage.breakers) == 0


def test_the_end_of_a_call_of_a_backend_that_is_gone_makes_no_breaker() -> None:
    stage = Stage(POLICY)
    attempt = stage.starts()
    attempt.backend = "removed"
    stage.ends(attempt, BROKE)
    assert len(stage.breakers) == 0


# Other policies, and what is told


def test_a_reload_counts_by_the_new_policy_from_the_next_call_on() -> None:
    stage = Stage(POLICY)
    stage.calls(BROKE, BROKE)
    stage.breakers.configure(replace(POLICY, failures=2), stage.now_ns)
    assert not stage.is_open
    stage.calls(BROKE)
    assert stage.is_open


def test_a_reload_that_opens_for_less_holds_for_what_is_open() -> None:
    stage = tripped()
    shorter = replace(POLICY, open_ns=SECOND_NS, open_ns_max=2 * SECOND_NS)
    stage.breakers.configure(shorter, stage.now_ns)
    stage.breakers.check()
    stage.wait(2 * SECOND_NS)
    assert stage.states() == ["open -> half_open"]


def test_the_view_says_what_was_counted_until_when_and_why() -> None:
    stage = Stage(POLICY)
    stage.calls(None)
    assert stage.breakers.views(stage.backend) == ()
    stage.calls(BROKE)
    [view] = stage.breakers.views(stage.backend)
    assert (view.model, view.state, view.failures, view.calls, view.until_ns, view.why) == (
        "m:latest",
        BreakerState.CLOSED,
        1,
        2,
        None,
        "",
    )
    stage.calls(BROKE, BROKE)
    [view] = stage.breakers.views(stage.backend)
    assert (view.state, view.until_ns) == (BreakerState.OPEN, stage.now_ns + 10 * SECOND_NS)
    assert view.why == "3 of 4 calls failed or were slow within 60 s, the last: it broke"
