"""What each error of an attempt means."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker.core import errors
from broker.core.errors import (
    AccessDenied,
    BackendBusy,
    BackendFailed,
    BackendFrozen,
    BackendRefused,
    BackendUnreachable,
    BrokerError,
    Cancelled,
    ClientTooSlow,
    ClosedForCure,
    DeadlineExpired,
    Internal,
    LoadFailed,
    ModelUnknown,
    TimedOut,
)
from broker.core.failures import (
    AWAY,
    BROKE,
    GONE,
    NOT_THE_BACKENDS,
    OUR_DOING,
    TIMED_OUT,
    Failure,
    failure_of,
)
from broker.core.time_outs import Phase


class HalfBroken(BackendFailed):
    """A class that the table does not list."""


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (BackendFailed("it broke"), BROKE),
        (BackendFailed("500", status=500), BROKE),
        (BackendFrozen("no piece for 9 s"), BROKE),
        (ClosedForCure("the one beside it is frozen"), OUR_DOING),
        (BackendBusy("503", status=503), BROKE),
        (HalfBroken("as its base class"), BROKE),
        (AccessDenied("401", status=401), BROKE._replace(elsewhere_only=True)),
        (BackendUnreachable("refused"), AWAY),
        (BackendRefused("400", status=400), NOT_THE_BACKENDS),
        (ClientTooSlow("its buffer is full"), NOT_THE_BACKENDS),
        (Cancelled("its agent"), NOT_THE_BACKENDS),
        (ModelUnknown("x", ()), GONE),
        (Internal("a bug"), NOT_THE_BACKENDS),
        (TimedOut("no first token", Phase.FIRST_TOKEN), BROKE),
        (TimedOut("no further token", Phase.TOKEN_GAP), BROKE),
        (TimedOut("waited too long", Phase.QUEUE), NOT_THE_BACKENDS),
        (TimedOut("loaded too long", Phase.LOAD), NOT_THE_BACKENDS),
        (TimedOut("took too long", Phase.TOTAL), NOT_THE_BACKENDS),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BrokerError) else None,
)
def test_an_error_means(error: BrokerError, failure: Failure) -> None:
    assert failure_of(error)[:5] == failure[:5]


def test_the_answers_of_the_table() -> None:
    assert BROKE[:5] == (True, True, True, True, False)
    assert AWAY[:5] == (False, True, False, True, False)
    assert GONE[:5] == (False, True, False, True, False)
    assert OUR_DOING[:5] == (False, True, False, False, False)
    assert NOT_THE_BACKENDS[:5] == (False, False, True, True, False)


@pytest.mark.parametrize(
    ("error", "is_answered"),
    [
        (BackendFailed("it broke"), True),
        (LoadFailed("no memory"), True),
        (DeadlineExpired("it passed"), True),
        (TimedOut("no first token", Phase.FIRST_TOKEN), True),
        (TimedOut("waited too long", Phase.QUEUE), True),
        (BackendRefused("400", status=400), False),
        (Cancelled("its agent"), False),
        (Internal("a bug"), False),
    ],
)
def test_the_default_answer_stands_in_for(error: BrokerError, is_answered: bool) -> None:
    assert bool(failure_of(error).answer_why) is is_answered


def test_every_phase_has_an_answer() -> None:
    assert set(TIMED_OUT) == set(Phase)


def kinds(base: type[BrokerError]) -> Iterator[type[BrokerError]]:
    yield base
    for each in base.__subclasses__():
        yield from kinds(each)


def test_only_what_a_backend_did_counts_or_is_tried_again() -> None:
    """Of every class there is: bad input and ends that somebody asked for are no failures. What a
    backend lists and has not is its own doing, too."""
    for kind in kinds(BrokerError):
        if kind.__module__ != errors.__name__ or kind is TimedOut:
            continue
        failure = failure_of(kind.__new__(kind))
        is_its_doing = issubclass(kind, BackendFailed | ModelUnknown)
        assert (failure.counts or failure.retries) == is_its_doing, kind
