"""Downloads: their states, whose turn it is, what a failure means, how far and fast they are."""

from __future__ import annotations

import pytest

from broker.core.errors import (
    BackendFailed,
    BrokerError,
    DiskFull,
    PullFailed,
    PullsFull,
)
from broker.core.ports import PullProgress, PullStep
from broker.core.pull_hours import Hours
from broker.core.state_machine import InvalidTransition
from broker.models.pull import OVER, PULL, RATE_WINDOW_NS, Pull, PullState, PullTrigger, Rate
from broker.models.pulls import ENDED_KEPT, PullPolicy, Pulls

S = 1_000_000_000
GB = 10**9
NOON = 720


def asked(pulls: Pulls, name: str = "m", backend: str = "b", *, is_urgent: bool = False) -> Pull:
    return pulls.ask(name, backend, "", is_urgent=is_urgent, expected_bytes=0, unix_ms=1)


def said(
    completed: int, total: int, fetched: int, step: PullStep = PullStep.PULLING
) -> PullProgress:
    return PullProgress(
        step=step, completed_bytes=completed, total_bytes=total, fetched_bytes=fetched
    )


def begun(pulls: Pulls, *, is_urgent: bool = False) -> Pull:
    pull = asked(pulls, is_urgent=is_urgent)
    assert pulls.due(0, NOON) == [pull]
    pull.begin(0)
    return pull


# The table


def test_what_is_over_stays_so() -> None:
    for state in OVER:
        for trigger in PullTrigger:
            with pytest.raises(InvalidTransition):
                PULL.step(state, trigger)


def test_from_everywhere_else_it_may_be_cancelled_and_fail() -> None:
    for state in set(PullState) - OVER:
        assert PULL.step(state, PullTrigger.CANCEL) is PullState.CANCELLED
        assert PULL.step(state, PullTrigger.FAIL) is PullState.FAILED


# One download


def test_it_goes_from_its_turn_to_its_end() -> None:
    pulls = Pulls(PullPolicy())
    pull = asked(pulls)
    assert pull.view(0).state is PullState.WAITING
    pull.begin(0)
    pull.hear(said(0, 10 * GB, 0), 0)
    pull.hear(said(5 * GB, 10 * GB, 5 * GB), 5 * S)
    view = pull.view(5 * S)
    assert (view.completed_bytes, view.total_bytes) == (5 * GB, 10 * GB)
    assert view.bytes_per_s == pytest.approx(GB)
    assert view.eta_ms == pytest.approx(5000, abs=1)
    pull.hear(said(10 * GB, 10 * GB, 10 * GB, PullStep.VERIFYING), 10 * S)
    assert pull.view(10 * S).state is PullState.VERIFYING
    assert pull.view(10 * S).bytes_per_s == 0.0
    pulls.done(pull, 11 * S)
    assert (pull.state, len(pulls)) == (PullState.DONE, 0)
    assert [each.name for each in pulls.all()] == ["m"]


def test_what_was_there_before_does_not_count_as_speed() -> None:
    pull = begun(Pulls(PullPolicy()))
    pull.hear(said(8 * GB, 10 * GB, 0), S)
    assert pull.view(S).bytes_per_s == 0.0
    pull.hear(said(9 * GB, 10 * GB, GB), 2 * S)
    assert pull.view(2 * S).bytes_per_s == pytest.approx(GB / 2)


def test_what_is_shown_never_goes_back_and_says_what_comes_anew() -> None:
    pulls = Pulls(PullPolicy())
    pull = begun(pulls)
    pull.hear(said(5 * GB, 10 * GB, 5 * GB), S)
    pulls.failed(pull, BackendFailed("it broke"), 2 * S)
    assert pull.view(2 * S).completed_bytes == 5 * GB
    pull.begin(9 * S)
    pull.hear(said(2 * GB, 10 * GB, GB), 10 * S)
    view = pull.view(10 * S)
    assert view.completed_bytes == 5 * GB
    assert "3 GB of it come anew" in view.detail


def test_its_size_may_be_known_before() -> None:
    pulls = Pulls(PullPolicy())
    pull = pulls.ask("m", "b", "", is_urgent=False, expected_bytes=7 * GB, unix_ms=1)
    assert pull.view(0).total_bytes == 7 * GB
    pull.begin(0)
    pull.hear(said(0, 6 * GB, 0), 0)
    assert pull.view(0).total_bytes == 7 * GB, "what was told so far may grow"


@pytest.mark.parametrize("step_ns", [S // 100, S, 7 * S])
def test_the_rate_is_that_of_the_last_seconds(step_ns: int) -> None:
    rate, now_ns, come = Rate(), 0, 0
    rate.begin(0)
    while now_ns < 30 * S:
        now_ns, come = now_ns + step_ns, come + step_ns // 10
        rate.came(come, now_ns)
    assert rate.bytes_per_s(now_ns) == pytest.approx(S / 10, rel=0.01)
    slow_ns = now_ns + 3 * RATE_WINDOW_NS
    while now_ns < slow_ns:
        now_ns, come = now_ns + step_ns, come + step_ns // 100
        rate.came(come, now_ns)
    assert rate.bytes_per_s(now_ns) == pytest.approx(S / 100, rel=0.1)
    assert rate.bytes_per_s(now_ns + 60 * S) < S / 400, "what says nothing for long is slow"


# All of them


def test_whoever_wants_the_same_joins_it() -> None:
    pulls = Pulls(PullPolicy())
    assert asked(pulls, "m") is asked(pulls, "M:latest")
    assert asked(pulls, "m", "other") is not asked(pulls, "m")
    assert pulls.find("m:latest", "") is asked(pulls, "m")


def test_only_so_many_run_and_wait() -> None:
    pulls = Pulls(PullPolicy(concurrent_max=2, pulls_max=3))
    three = [asked(pulls, name) for name in "abc"]
    with pytest.raises(PullsFull) as full:
        asked(pulls, "d")
    assert full.value.retry_after_ns
    assert asked(pulls, "c") is three[2], "who joins needs no place"
    for pull in pulls.due(0, NOON):
        pull.begin(0)
    assert [each.state for each in three[:2]] == [PullState.PULLING] * 2
    assert pulls.due(0, NOON) == []
    assert three[2].detail == "it waits for its turn"
    pulls.cancelled(three[0], "an operator cancelled it", 0)
    assert pulls.due(0, NOON) == [three[2]]


@pytest.mark.parametrize(
    "error",
    [DiskFull("full"), PullFailed("no such model", is_final=True)],
    ids=["disk", "final"],
)
def test_some_failures_are_not_tried_again(error: BrokerError) -> None:
    pulls = Pulls(PullPolicy())
    pull = begun(pulls)
    pulls.failed(pull, error, S)
    assert (pull.state, pull.error) == (PullState.FAILED, error)


def test_others_are_after_longer_and_longer_waits_until_there_were_too_many() -> None:
    pulls = Pulls(PullPolicy(tries_max=4, retry_ns=S, retry_ns_max=3 * S))
    pull, now_ns, waits = begun(pulls), 0, []
    for _ in range(3):
        pulls.failed(pull, BackendFailed("it broke"), now_ns)
        assert pull.state is PullState.WAITING
        assert pulls.due(now_ns, NOON) == []
        waits.append(pull.retry_at_ns - now_ns)
        now_ns = pull.retry_at_ns
        assert pulls.due(now_ns, NOON) == [pull]
        pull.begin(now_ns)
    assert waits == [S, 2 * S, 3 * S]
    pulls.failed(pull, BackendFailed("it broke"), now_ns)
    assert pull.state is PullState.FAILED
    assert isinstance(pull.error, PullFailed)
    assert "tried 4 times" in pull.error.message


def test_what_gets_on_is_tried_for_ever() -> None:
    pulls = Pulls(PullPolicy(tries_max=2, retry_ns=S))
    pull, now_ns = begun(pulls), 0
    for number in range(1, 20):
        pull.hear(said(number, 100, 1), now_ns)
        pulls.failed(pull, BackendFailed("it broke"), now_ns)
        now_ns = pull.retry_at_ns
        pull.begin(now_ns)
    assert pull.state is PullState.PULLING


def test_what_says_nothing_has_stalled_and_what_checks_may_take_longer() -> None:
    pulls = Pulls(PullPolicy(stall_ns=10 * S, verify_ns=60 * S))
    pull = begun(pulls)
    pull.hear(said(1, 2, 1), 5 * S)
    pull.hear(said(1, 2, 1), 14 * S)
    assert pulls.stalled(14 * S) == []
    assert pulls.stalled(15 * S) == [pull]
    pull.hear(said(2, 2, 2, PullStep.VERIFYING), 15 * S)
    assert pulls.stalled(74 * S) == []
    assert pulls.stalled(75 * S) == [pull]


def test_hours_hold_back_all_but_what_is_urgent() -> None:
    pulls = Pulls(PullPolicy(hours=Hours.parse(("22:00-06:00",)), concurrent_max=3))
    usual, urgent = asked(pulls, "usual"), asked(pulls, "urgent", is_urgent=True)
    assert pulls.due(0, NOON) == [urgent]
    assert usual.detail == "it waits for its hours: 22:00-06:00"
    assert pulls.due(0, 23 * 60) == [usual, urgent]
    usual.begin(0)
    urgent.begin(0)
    assert pulls.out_of_hours(5 * 60) == []
    assert pulls.out_of_hours(6 * 60) == [usual]
    pulls.interrupted(usual, "its hours are over", S)
    assert (usual.state, usual.tries) == (PullState.WAITING, 0)
    asked(pulls, "usual", is_urgent=True)
    assert pulls.due(S, NOON) == [usual], "an operator who joins it may hurry it"


def test_it_survives_its_broker() -> None:
    before = Pulls(PullPolicy())
    pull = begun(before, is_urgent=True)
    pull.hear(said(4, 10, 4), S)
    after = Pulls(PullPolicy(pulls_max=1))
    after.restore((*before.entries(), *before.entries()))
    (again,) = after
    assert (again.state, again.is_urgent) == (PullState.WAITING, True)
    assert (again.completed_bytes, again.size_bytes) == (4, 10)
    assert after.entries() == before.entries()


def test_of_those_that_ended_the_last_ones_are_listed() -> None:
    pulls = Pulls(PullPolicy())
    for number in range(ENDED_KEPT + 5):
        pulls.cancelled(asked(pulls, f"m{number}"), "no more", 0)
    assert [each.name for each in pulls.all()] == [f"m{n}" for n in range(5, ENDED_KEPT + 5)]
    assert pulls.ended_count == {PullState.CANCELLED: ENDED_KEPT + 5}


# Hours


@pytest.mark.parametrize(
    ("texts", "minute", "is_open", "opens_in"),
    [
        ((), 0, True, 0),
        (("22:00-06:00",), 22 * 60, True, 0),
        (("22:00-06:00",), 6 * 60 - 1, True, 0),
        (("22:00-06:00",), 6 * 60, False, 16 * 60),
        (("22:00-06:00",), 22 * 60 - 1, False, 1),
        (("01:30-02:00", "12:00-13:00"), 119, True, 0),
        (("01:30-02:00", "12:00-13:00"), 120, False, 600),
        (("01:30-02:00", "12:00-13:00"), 13 * 60, False, 750),
    ],
)
def test_windows_of_the_day(
    texts: tuple[str, ...], minute: int, is_open: bool, opens_in: int
) -> None:
    hours = Hours.parse(texts)
    assert (hours.is_open(minute), hours.opens_in(minute)) == (is_open, opens_in)
    assert str(hours) == ", ".join(texts)


@pytest.mark.parametrize(
    "text", ["", "22-6", "24:00-06:00", "22:00-06:60", "08:00-08:00", " 1:00-2:00"]
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="window"):
        Hours.parse((text,))
