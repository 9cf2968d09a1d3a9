"""Every recording of several requests, played to the model of an Ollama, gives the same order of
events: who is answered first, who waits for whom, which runners are started, what ps lists and
when it hangs, who fails with which text.

Compared: statuses, error texts, ends of answers, counts, order of heads and ends that lay far
enough apart, runner starts, ps. Not compared: moments by themselves, and words. The recordings are
in tests/data/recorded/ (see its README.md).
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from broker.sim.ollama_catalogue import recorded_catalogue
from tests.contract.recorded_differences import (
    compare_order,
    compare_outcome,
    compare_ps,
    compare_starts,
    last_document,
)
from tests.contract.recorded_play import (
    FOLDER,
    Listing,
    Player,
    loading_within,
    play_in_turn,
    play_side_by_side,
    recording,
    restored,
    settings_of,
)

INDEX = dict(line.split(" ") for line in (FOLDER / "INDEX.txt").read_text().splitlines())
LEFT_OUT = tomllib.loads((FOLDER / "LEFT_OUT.toml").read_text())["several"]
SEVERAL = sorted(name for name, kind in INDEX.items() if kind == "several")
MANAGEMENT = ("/api/show", "/api/tags", "/api/delete", "/api/create")
HORIZON_MS = 60_000.0

# What was loaded before the first request, in this order.
LOADED: dict[str, tuple[str, ...]] = {
    "61_two_slots_five_requests": ("tiny-m",),
    "62_short_behind_long": ("tiny-m",),
    "66_after_cancel": ("tiny-l",),
    "66_waiting_cancelled": ("tiny-m",),
    "67_killed_before_first_token": ("tiny-l",),
    "67_killed_mid_embed": ("tiny-e",),
    "67_killed_while_idle": ("tiny-m",),
    "67_two_streams_killed": ("tiny-l", "tiny-m"),
    "68_frozen_cured": ("tiny-m",),
    "68_frozen_idle_runner": ("tiny-m",),
    "68_frozen_not_all_closed": ("tiny-m",),
    "68_frozen_while_streaming": ("tiny-m", "tiny-s"),
    "71_503_everywhere": ("tiny-m",),
    "73_embed_behind_a_batch": ("tiny-e",),
    "73_slot_wait_in_last_line": ("tiny-m",),
    "74_loaded_model_runs_during_a_load": ("tiny-s",),
    "76_keep_alive_expires_while_streaming": ("tiny-m",),
    "76_unload_undone": ("tiny-m",),
    "76_unload_while_streaming": ("tiny-m",),
    "77_cancelled_while_eviction_pends": ("tiny-m",),
    "77_steady_traffic_starves_a_load": ("tiny-m",),
    "77_victim_kept_by_keep_alive": ("tiny-m",),
    "78_dead_requests_fill_the_queue": ("tiny-m",),
    "79_runner_hangs_while_loading": ("tiny-s",),
    "80_server_terminated": ("tiny-m",),
    "82_delete_while_streaming": ("gone",),
    "82_name_points_elsewhere": ("swap",),
    "83_prompt_cache": ("tiny-l",),
    "84_others_during_truncation": ("tiny-s", "plain"),
    "85_first_token_after_idle": ("tiny-l",),
    "86_corrupt_file_evicts_too": ("tiny-m",),
    "86_load_fails_in_runner": ("tiny-m",),
}
# Names of the recordings that are not models of their own: which file they lay over.
NAMES = {"alias": "tiny-s", "gone": "tiny-m", "swap": "tiny-m"}
# Loads that took another number of polls than in most recordings, in ms.
LOAD_MS: dict[str, dict[str, float]] = {
    "64_victim_chosen_once": {"tiny-m": 900.0, "tiny-s": 600.0},
    "67_killed_while_idle": {"tiny-m": 450.0},
    "70_swap_waits_for_running": {"tiny-l": 450.0},
    "73_identical_cold_loads": {"tiny-l": 900.0},
    "74_loaded_model_runs_during_a_load": {"tiny-l": 1400.0},
    "74_two_models_load_one_after_the_other": {"tiny-m": 450.0},
    "79_runner_hangs_while_loading": {"tiny-m": 900.0},
}
# Where the recorded speed does not tell how long an answer took: its first token came late.
TOKEN_MS = {"64_victim_chosen_once": {"tiny-m": 13.0}}
# Where the answer that tells the speed shared its runner with another one.
TWO_AT_ONCE = {"61_two_slots_five_requests", "62_short_behind_long"}
FREEZE_IDLE = {"68_frozen_idle_runner": "tiny-m"}
KILL_IDLE = {"67_killed_while_idle": "tiny-m"}
# What was done to a process during the recording, by the words of its `actions`.
ACTIONS: dict[str, Callable[[Player], None]] = {
    "runner killed": lambda p: p.model.kill_runner("tiny-l", p.now_ns),
    "runners killed": lambda p: p.model.kill_runner("", p.now_ns),
    "m's runner stopped": lambda p: p.model.freeze_runner("tiny-m", p.now_ns),
    "first runner stopped 0.1 s after its start": lambda p: p.model.freeze_runner(
        "tiny-l", p.now_ns
    ),
    "first runner killed 0.2 s after its start": lambda p: p.model.kill_runner("tiny-l", p.now_ns),
    "SIGTERM to Ollama": lambda p: p.model.terminate(p.now_ns),
}
# Played by test_ollama_model_recordings_alone.py.
BY_THEMSELVES = {
    "13_env_keep_alive",
    "66_cancel_by_body_framing",
    "66_cancel_many",
    "66_slow_reader",
    "83_prefill_stalls_decode",
    "84_history_truncation_cost",
}
PLAYED = [
    name
    for name in SEVERAL
    if name not in BY_THEMSELVES and not any(fnmatch.fnmatchcase(name, key) for key in LEFT_OUT)
]


def token_ms(wanted: list[dict[str, Any]], requests: list[dict[str, Any]]) -> dict[str, float]:
    """What a token of each model took in this recording, by its longest answer."""
    longest: dict[str, tuple[int, float]] = {}
    for request, outcome in zip(requests, wanted, strict=True):
        body = request.get("body")
        done = last_document(outcome.get("last", ""))
        count = done.get("eval_count", 0)
        if isinstance(body, dict) and count > max(20, longest.get(body["model"], (0, 0.0))[0]):
            longest[body["model"]] = (count, done["eval_duration"] / 1e6 / (count - 1))
    return {NAMES.get(name, name): length for name, (_, length) in longest.items()}


def prepared(name: str, recorded: dict[str, Any], requests: list[dict[str, Any]]) -> Player:
    """The server as it stood before the first request."""
    catalogue = loading_within(recorded_catalogue(), LOAD_MS.get(name, {}))
    settings = settings_of(recorded.get("env") or {})
    lengths_ms = {**token_ms(recorded["outcomes"], requests), **TOKEN_MS.get(name, {})}
    for model_name, length_ms in lengths_ms.items():
        model = catalogue.find(model_name)
        assert model is not None
        slowdown = 1.0 + (model.speed.batch_slowdown if name in TWO_AT_ONCE else 0.0)
        speed = replace(model.speed, decode_tokens_per_s=1000.0 / length_ms * slowdown)
        catalogue.put(replace(model, speed=speed))
    for alias, of in NAMES.items():
        model = catalogue.find(of)
        assert model is not None
        catalogue.put(replace(model, name=f"{alias}:latest"))
    player = Player(settings, catalogue)
    player.load(*LOADED.get(name, ()))
    player.begin()
    if name in FREEZE_IDLE:
        player.model.freeze_runner(FREEZE_IDLE[name], player.now_ns)
    if name in KILL_IDLE:
        player.at(50.0, lambda: player.model.kill_runner(KILL_IDLE[name], player.now_ns))
    for action in recorded.get("actions", ()):
        player.at(action["at_ms"], partial(ACTIONS[action["did"]], player))
    return player


def _delete(player: Player, name: str) -> None:
    assert player.catalogue.remove(name)


def manage(player: Player, requests: list[dict[str, Any]], recorded: list[dict[str, Any]]) -> None:
    """Names that were deleted or given to another file."""
    for request, outcome in zip(requests, recorded, strict=True):
        body = request.get("body")
        if request.get("path") == "/api/delete" and isinstance(body, dict):
            player.at(outcome["sent_at_ms"], partial(_delete, player, body["model"]))
        if request.get("path") == "/api/create" and isinstance(body, dict):
            model = player.catalogue.find("tiny-s")
            assert model is not None
            named = replace(model, name=f"{body['model']}:latest")
            player.at(outcome["sent_at_ms"], partial(player.catalogue.put, named))


def last_moment_ms(recorded: dict[str, Any]) -> float:
    moments = [0.0]
    for outcome in recorded["outcomes"]:
        moments.append(outcome["sent_at_ms"] + (outcome["end_at_ms"] or 0.0))
    moments += [listing.get("at_ms", 0.0) for listing in recorded.get("ps", ())]
    return max(moments)


@pytest.mark.parametrize("name", PLAYED)
def test_requests_that_meet_do_so_as_recorded(name: str) -> None:
    recorded = recording(name)
    everything = [restored(request) for request in recorded["requests"]]
    player = prepared(name, recorded, everything)
    manage(player, everything, recorded["outcomes"])
    kept = [i for i, r in enumerate(everything) if r.get("path") not in MANAGEMENT]
    requests = [everything[i] for i in kept]
    wanted = [recorded["outcomes"][i] for i in kept]
    labels = {outcome["label"] for outcome in wanted}
    lists = [ps for ps in recorded.get("ps", ()) if ps.get("after", "") in labels | {""}]
    listings: list[Listing] = []
    if all("sent_after_s" in request for request in requests):
        outcomes = play_side_by_side(player, requests, wanted)
        for listing in lists:
            player.at(listing["at_ms"], partial(player.ask_ps, listings))
    else:

        def after_each(place: int) -> None:
            if lists:
                ended_ms = wanted[place]["sent_at_ms"] + wanted[place]["end_at_ms"]
                later_ns = int((lists[place]["at_ms"] - ended_ms) * 1e6)
                player.at_ns(player.now_ns + later_ns, partial(player.ask_ps, listings))

        outcomes = play_in_turn(player, requests, wanted, after_each)
    player.run(until_ms=last_moment_ms(recorded) + HORIZON_MS)
    assert len(outcomes) == len(wanted)
    differences = [d for pair in zip(wanted, outcomes, strict=True) for d in compare_outcome(*pair)]
    for one, outcome in zip(wanted, outcomes, strict=True):
        differences += compare_starts(one, outcome, player)
    differences += compare_order(wanted, outcomes)
    assert len(listings) == len(lists)
    for one, listing in zip(lists, listings, strict=True):
        differences += compare_ps(one, listing)
    assert differences == []


def test_every_recording_is_played_or_left_out_with_a_reason() -> None:
    copied = {path.stem for path in FOLDER.glob("*.json")}
    assert set(PLAYED) | BY_THEMSELVES <= copied
    assert BY_THEMSELVES.issubset(SEVERAL)
    for key, reason in LEFT_OUT.items():
        assert [name for name in SEVERAL if fnmatch.fnmatchcase(name, key)], f"{key}: no such one"
        assert len(reason) > 10
    tables = (LOADED, LOAD_MS, FREEZE_IDLE, KILL_IDLE, TWO_AT_ONCE, TOKEN_MS)
    assert {name for table in tables for name in table} <= set(PLAYED)
    assert len(PLAYED) + len(BY_THEMSELVES) > 55
