"""Recordings of several requests that only a test of their own can see: statistics, clients that do
not read or do not finish their bodies, prompts that hold others up, histories that are trimmed.

The recordings are in tests/data/recorded/; those that play by themselves are in
test_ollama_model_recordings.py.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from broker.sim.ollama_log import LogKind
from broker.sim.ollama_machine import MILLISECOND_NS, Quirks
from broker.sim.ollama_resident import PsRow
from tests.contract.recorded_differences import compare_ps, error_of, last_document
from tests.contract.recorded_play import (
    Listing,
    Player,
    history,
    recording,
    restored,
    settings_of,
)


def residents(player: Player) -> tuple[PsRow, ...]:
    rows = player.model.ps(player.now_ns)
    assert not isinstance(rows, int)
    return rows


GO = {"model": "tiny-s", "prompt": "go:", "raw": True, "options": {"num_predict": 1, "seed": 1}}


@pytest.mark.parametrize(
    "wanted", recording("13_env_keep_alive")["outcomes"], ids=lambda o: o["OLLAMA_KEEP_ALIVE"]
)
def test_the_keep_alive_of_the_environment_is_as_recorded(wanted: dict[str, Any]) -> None:
    """What ps shows 0.4 s after a load-only request."""
    environment = {"OLLAMA_KEEP_ALIVE": wanted["OLLAMA_KEEP_ALIVE"]}
    player = Player(settings_of({**environment, "OLLAMA_CONTEXT_LENGTH": "1024"}))
    listings: list[Listing] = []
    player.send(
        {"body": {"model": "tiny-s"}},
        on_end=lambda: player.at_ns(
            player.now_ns + 400 * MILLISECOND_NS, lambda: player.ask_ps(listings)
        ),
    )
    player.run(until_ms=2000.0)
    listed = {"resident": wanted["ps_0.4_s_later"], "date": wanted["date"]}
    assert compare_ps(listed, listings[0]) == []


@pytest.mark.parametrize(
    "wanted", recording("66_cancel_by_body_framing")["outcomes"], ids=lambda o: o["label"]
)
def test_a_body_that_never_ends_costs_the_slot(wanted: dict[str, Any]) -> None:
    """The head of an answer is held back until the whole body is there: that is the shell's."""
    player = Player(settings_of({"OLLAMA_CONTEXT_LENGTH": "1024"}))
    player.load("tiny-m")
    player.begin()
    body = {**GO, "model": "tiny-m"}
    first = player.send({"body": {**body, "options": {"num_predict": 300}}})
    unfinished = wanted["first_head_at_ms"] is None
    left_ms = wanted["closed_after_ms"] if unfinished else max(wanted["first_head_at_ms"], 20.0)
    # A request of 300 tokens is over before one with an unfinished body is given up.
    player.run(until_ms=min(left_ms, 2000.0))
    player.close(player.identity_of(first), body_unfinished=unfinished)
    following = player.send({"body": body})
    player.run(until_ms=10_000.0)
    assert (following.head_at_ms is None) == (wanted["next_request_head_at_ms"] is None)
    if unfinished:
        player.close(player.identity_of(following))
        player.send({"body": {"model": "tiny-m", "keep_alive": 0}})
        player.run(until_ms=11_000.0)
        assert [row.name for row in residents(player)] == wanted["resident_1_s_after_unload"]
        again = player.send({"body": body})
        player.run(until_ms=13_000.0)
        assert again.status == 200


def test_about_one_cancel_in_seven_hundred_loses_the_slot() -> None:
    """As many cancels as were recorded; after each a request tells whether the slot came back."""
    recorded = recording("66_cancel_many")["outcomes"]
    settings = replace(settings_of({"OLLAMA_CONTEXT_LENGTH": "1024"}), quirks=Quirks())
    player = Player(settings, seed=5)
    player.load("tiny-s")
    player.begin()
    lost, clock_ms = 0, 0.0
    for number in range(sum(outcome["cancelled"] for outcome in recorded)):
        streamed = player.send({"body": {**GO, "options": {"num_predict": 400}}})
        player.run(until_ms=clock_ms + 8.0 + number % 190)
        player.close(player.identity_of(streamed))
        following = player.send({"body": GO})
        clock_ms += 6200.0
        player.run(until_ms=clock_ms)
        if following.status is None:
            lost += 1
            player.close(player.identity_of(following))
            player.send({"body": {"model": "tiny-s", "keep_alive": 0}})
            clock_ms += 1000.0
            player.run(until_ms=clock_ms)
        else:
            slowest_ms = max(outcome["next_request_head_at_ms"]["max"] for outcome in recorded)
            assert following.head_at_ms is not None
            assert following.head_at_ms < slowest_ms + 300.0
    assert sum(outcome["slots_lost"] for outcome in recorded) == 1
    assert 1 <= lost <= 4
    assert player.model.ledger.counts[LogKind.SLOT_LOST] == lost


@pytest.mark.parametrize("wanted", recording("66_slow_reader")["outcomes"][1:])
def test_a_client_that_stops_reading_keeps_its_slot(wanted: dict[str, Any]) -> None:
    player = Player(settings_of({"OLLAMA_CONTEXT_LENGTH": "1024"}))
    player.load("tiny-s")
    player.begin()
    stopped = player.send({"body": {**GO, "options": {"num_predict": 3000}}})
    identity = player.identity_of(stopped)
    player.run(until_ms=60.0)
    player.model.stall(identity, player.now_ns)
    said = len(stopped.parts)
    another = player.send({"body": GO})
    player.run(until_ms=3060.0)
    assert wanted["another_request_while_it_holds"]["head_at_ms"] is None
    assert (another.head_at_ms, len(stopped.parts)) == (None, said)
    player.close(player.identity_of(another))
    if "two steps" in wanted["label"]:
        player.model.half_close(identity, player.now_ns)
        player.run(until_ms=3360.0)
    player.close(identity)
    later = player.send({"body": GO})
    player.run(until_ms=8000.0)
    recorded_ms = wanted["another_request_after_it_closed"]["head_at_ms"]
    assert (later.head_at_ms is None) == (recorded_ms is None)
    assert [row.name for row in residents(player)] == ["tiny-s:latest"]
    if recorded_ms is None:
        player.send({"body": {"model": "tiny-s", "keep_alive": 0}})
        player.close(player.identity_of(later))
        player.run(until_ms=8700.0)
        assert [row.name for row in residents(player)] == wanted["resident_0.7_s_after_unload"]


def test_a_long_prompt_lets_a_stream_have_one_token_per_batch() -> None:
    recorded = recording("83_prefill_stalls_decode")
    requests = [restored(request) for request in recorded["requests"]]
    player = Player(settings_of(recorded["env"]))
    player.load("tiny-l")
    player.begin()
    streams = player.send(requests[0])
    player.run(until_ms=600.0)
    long_prompt = player.send(requests[1])
    player.run(until_ms=60_000.0)
    wanted = recorded["outcomes"][0]["token_times_ms"]
    gaps = [[b - a for a, b in pairwise(times)] for times in (wanted, streams.token_times_ms)]
    stalls = [[gap for gap in line if gap > 1000.0] for line in gaps]
    assert len(stalls[1]) == len(stalls[0]) == 4
    assert all(0.5 < ours / theirs < 1.5 for theirs, ours in zip(*stalls, strict=True))
    done = last_document(long_prompt.last)
    assert done["prompt_eval_count"] == 1802
    assert done["prompt_eval_duration"] / 1e6 > 0.9 * sum(stalls[1])


def test_trimming_a_history_costs_time_that_grows_with_the_square_of_it() -> None:
    recorded = recording("84_history_truncation_cost")
    player = Player(settings_of(recorded["env"]))
    player.load("tiny-s", "plain")
    player.begin()
    outcomes = []
    for place, request in enumerate(recorded["requests"]):
        body = {**request["body"], "messages": history(int(request["body"]["messages"].split()[0]))}
        player.run(until_ms=place * 20_000.0)
        outcomes.append(player.send({**request, "body": body}))
    player.run(until_ms=300_000.0)
    for wanted, outcome in zip(recorded["outcomes"], outcomes, strict=True):
        assert (wanted["label"], wanted["status"]) == (outcome.label, outcome.status)
        assert error_of(wanted["last"]) == error_of(outcome.last)
    lasted = [
        [w["end_at_ms"], o.end_at_ms] for w, o in zip(recorded["outcomes"], outcomes, strict=True)
    ]
    for first in (0, 6):
        (short, ours), (longest, ours_longest) = lasted[first], lasted[first + 4]
        assert longest > 5 * short
        assert ours_longest > 5 * ours
