"""How well it is known which models there are, in a line of the status and a finding of doctor."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker_client import ModelListStatus
from brokerctl.finding import Severity
from brokerctl.model_list_lines import model_list_findings, model_list_lines

HOUR_MS = 3_600_000
FRESH = ModelListStatus(
    downloaded=12,
    downloadable=5_120,
    freshness="fresh",
    age_ms=HOUR_MS,
    refreshing=False,
    problem="",
    next_ms=5 * HOUR_MS,
    bytes_per_s=2e6,
    file="/cache/model_cache.json",
)
STALE = replace(FRESH, freshness="stale", age_ms=7 * HOUR_MS, refreshing=True)
EXPIRED = replace(FRESH, freshness="expired", age_ms=None, problem="gpu0: refused\nhere")
EMPTY = replace(FRESH, downloaded=0, downloadable=0, freshness="empty", age_ms=None)


@pytest.mark.parametrize(
    ("known", "line"),
    [
        (FRESH, "models: 12 downloaded, 5120 more to download"),
        (replace(FRESH, downloadable=0), "models: 12 downloaded"),
        (
            STALE,
            "models: 12 downloaded, 5120 more to download; 7 h 0 min old; being refreshed",
        ),
        (
            replace(FRESH, problem="library: away"),
            "models: 12 downloaded, 5120 more to download; 1 h 0 min old; library: away",
        ),
        (
            EXPIRED,
            "models: 12 downloaded, 5120 more to download; nobody knows how old that is; "
            "gpu0: refused here",
        ),
        (replace(EMPTY, refreshing=True), "models: none known yet; being refreshed"),
    ],
)
def test_one_line_of_the_status(known: ModelListStatus, line: str) -> None:
    (found,) = model_list_lines(known)
    assert found.plain == line
    assert bool(found.style) == bool(known.problem or known.freshness in ("expired", "empty"))


def test_of_a_broker_that_does_not_tell_nothing_is_said() -> None:
    silent = replace(FRESH, freshness="")
    assert model_list_lines(silent) == []
    assert model_list_findings(silent) == []


def test_a_list_worth_going_by_is_a_good_finding() -> None:
    for known in (FRESH, STALE, replace(EXPIRED, refreshing=True)):
        (found,) = model_list_findings(known)
        assert (found.severity, found.next_step) == (Severity.GOOD, "")
        assert found.text == f"the list of 5132 models is {known.freshness}"


def test_one_that_is_too_old_is_odd_and_says_where_to_look() -> None:
    (found,) = model_list_findings(EXPIRED)
    assert found.severity is Severity.ODD
    assert "of unknown age" in found.text
    assert "gpu0: refused" in found.text
    assert "[library]" in found.next_step
    (aged,) = model_list_findings(replace(EXPIRED, age_ms=30 * HOUR_MS, problem=""))
    assert "30 h 0 min old" in aged.text


def test_that_nothing_is_known_is_a_finding_of_backends() -> None:
    assert model_list_findings(EMPTY) == []
