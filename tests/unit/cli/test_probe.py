"""What the probe concludes from when tokens came."""

from __future__ import annotations

import pytest

from brokerctl.finding import Severity
from brokerctl.probe import Answer, most_at_once, slots_finding, speed_finding, tokens_per_s

S = 1_000_000_000


def answer(first_s: float, end_s: float, tokens: int = 10) -> Answer:
    return Answer(first_ns=round(first_s * S), end_ns=round(end_s * S), tokens=tokens)


ALONE = answer(0, 1)


@pytest.mark.parametrize(
    ("answers", "at_once"),
    [
        ([], 0),
        ([answer(0, 1)], 1),
        ([answer(0, 1), answer(1, 2)], 1),  # one begins as the other ends
        ([answer(0, 1.05), answer(1, 2)], 1),  # they touch, which is no work side by side
        ([answer(0, 1), answer(0.1, 1.1), answer(0.2, 1.2)], 3),
        ([answer(0, 1), answer(0.1, 1.1), answer(1.1, 2), answer(1.2, 2.1)], 2),
    ],
)
def test_how_many_gave_tokens_side_by_side(answers: list[Answer], at_once: int) -> None:
    assert most_at_once(answers) == at_once


def test_slots_that_the_server_does_not_have_are_odd() -> None:
    finding = slots_finding("m", ALONE, [answer(0, 1), answer(1, 2)], "(cost)")
    assert finding.severity is Severity.ODD
    assert finding.text == "m has 2 slots, but at most 1 request ran at once (cost)"
    assert "OLLAMA_NUM_PARALLEL=2" in finding.next_step
    assert "slots = 1" in finding.next_step


def test_slots_that_only_share_one_speed_are_odd() -> None:
    finding = slots_finding("m", ALONE, [answer(0, 2), answer(0, 2)], "(cost)")
    assert finding.severity is Severity.ODD
    assert "1.0 times as fast as one alone" in finding.text


def test_slots_that_pay_are_good_and_more_is_not_claimed() -> None:
    finding = slots_finding("m", ALONE, [answer(0, 1.1), answer(0, 1.1)], "(cost)")
    assert finding.severity is Severity.GOOD
    assert "runs 2 requests at once, 1.8 times as fast" in finding.text
    assert "more may be possible" in finding.text


def test_one_slot_proves_nothing_and_says_so() -> None:
    finding = slots_finding("m", ALONE, [answer(0, 1)], "(cost)")
    assert finding.severity is Severity.GOOD
    assert "is not seen from here" in finding.text


def test_speed_is_of_all_tokens_over_the_time_of_all() -> None:
    assert tokens_per_s([answer(0, 1), answer(1, 2)]) == 10
    assert tokens_per_s([answer(1, 1)]) == 0
    assert speed_finding("m", ALONE).text == "m answers, 10 tokens/s alone"
    assert speed_finding("m", answer(0, 1, tokens=0)).severity is Severity.ODD
