"""Clients that leave, runners that die or freeze, a server that ends, and each quirk switched off.

Sources: reference/OLLAMA.md §2, §3.6, §3.7, §7.9 and §7.10.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.sim.ollama_log import LogKind
from broker.sim.ollama_machine import Quirks
from broker.sim.ollama_work import Work, WorkKind
from tests.unit.sim.ollama_model_stage import STEADY, Stage, model

EOF = "an error was encountered while running the model: unexpected EOF"
GONE = "llama-server process no longer running: unknown"
NO_CHANCE = Quirks(slot_leak_chance=0.0)


def counts(stage: Stage) -> dict[LogKind, int]:
    return dict(stage.server.ledger.counts)


# -- leaving -------------------------------------------------------------------------------------


def test_who_started_the_load_takes_it_along() -> None:
    stage = Stage()
    owner = stage.generate("a")
    follower = stage.generate("a", 50.0)
    stage.close(owner, 100.0)
    stage.run(3000.0)
    assert stage.of(owner) == []
    assert stage.handed_over_ms(follower) == 350.0  # from nothing
    assert stage.server.runner_starts == 2


def test_one_that_only_waits_for_a_load_may_leave() -> None:
    stage = Stage()
    owner, follower = stage.generate("a"), stage.generate("a")
    stage.close(follower, 100.0)
    stage.run(3000.0)
    assert stage.finished(owner)
    assert stage.of(follower) == []
    assert stage.server.runner_starts == 1


def test_leaving_before_the_request_was_read_leaves_no_trace() -> None:
    stage = Stage(admission_ns=5_000_000)
    exchange = stage.generate("a")
    stage.close(exchange)
    stage.run(3000.0)
    assert stage.signals == []
    assert stage.server.runner_starts == 0


@pytest.mark.parametrize("cured", [False, True])
def test_dead_requests_fill_the_queue_unless_cured(cured: bool) -> None:
    stage = Stage(quirks=replace(NO_CHANCE, leak_cancelled_queue=not cured), max_queue=1)
    owner = stage.generate("a")
    stage.close(stage.generate("b"), 50.0)
    another = stage.generate("c", 60.0)
    stage.run(3000.0)
    assert stage.finished(owner)
    assert (stage.failed(another) is None) == cured
    assert counts(stage).get(LogKind.DROPPED, 0) == (0 if cured else 1)


def test_an_eviction_is_completed_for_a_client_that_left() -> None:
    stage = Stage(max_loaded_models=1)
    stage.load("a")
    running = stage.generate("a", tokens=50)
    stage.close(stage.generate("b"), stage.now_ms + 100.0)
    stage.run(stage.now_ms + 2000.0)
    assert stage.finished(running)
    assert stage.resident() == []
    assert stage.server.runner_starts == 2  # the doomed load was started, and killed
    assert counts(stage)[LogKind.ABORTED] == 1


def test_leaving_the_queue_for_a_slot_harms_nobody() -> None:
    stage = Stage()
    stage.load("a")
    first, second, third = (stage.generate("a", tokens=20) for _ in range(3))
    stage.close(second, stage.now_ms + 50.0)
    stage.run(stage.now_ms + 2000.0)
    assert stage.slot_ms(second) is None
    assert stage.slot_ms(third) == stage.end_ms(first)


def test_leaving_in_the_middle_frees_the_slot_within_a_token() -> None:
    stage = Stage()
    stage.load("a")
    begun_ms = stage.now_ms
    stage.close(stage.generate("a", tokens=1000), begun_ms + 105.0)
    following = stage.generate("a", tokens=1)
    stage.run(begun_ms + 1000.0)
    assert stage.tokens_ms(following) == [begun_ms + 120.0]


@pytest.mark.parametrize("cured", [False, True])
def test_an_unfinished_body_loses_the_slot_until_an_unload(cured: bool) -> None:
    quirks = replace(NO_CHANCE, leak_slot_on_unfinished_body=not cured)
    stage = Stage(quirks=quirks)
    stage.load("a")
    stage.close(stage.generate("a"), stage.now_ms + 50.0, body_unfinished=True)
    following = stage.generate("a", tokens=1)
    stage.run(stage.now_ms + 5000.0)
    assert (stage.slot_ms(following) is None) != cured
    stage.close(following)
    stage.unload("a")
    again = stage.generate("a", stage.now_ms + 100.0, tokens=1)
    stage.run(stage.now_ms + 1000.0)
    assert stage.finished(again)


def test_the_chance_of_losing_a_slot_is_drawn_once_per_cancel() -> None:
    stage = Stage(quirks=Quirks(slot_leak_chance=1.0))
    stage.load("a")
    stage.close(stage.generate("a", tokens=1000), stage.now_ms + 50.0)
    following = stage.generate("a")
    stage.run(stage.now_ms + 5000.0)
    assert stage.slot_ms(following) is None
    assert counts(stage)[LogKind.SLOT_LOST] == 1


@pytest.mark.parametrize("cured", [False, True])
def test_half_closing_is_taken_for_leaving(cured: bool) -> None:
    stage = Stage(quirks=replace(NO_CHANCE, silent_on_half_close=not cured), num_parallel=2)
    stage.load("a")
    begun_ms = stage.now_ms
    spoke, silent = stage.generate("a"), stage.generate("a", prompt=range(500))
    stage.run(begun_ms + 15.0)
    for exchange in (spoke, silent):
        stage.server.half_close(exchange, stage.now_ns)
    stage.run(begun_ms + 3000.0)
    text = "error reading llama-server response: context canceled"
    assert stage.failed(spoke) == (None if cured else (500, text))
    assert stage.failed(silent) is None
    assert (stage.finished(silent) is not None) == cured


@pytest.mark.parametrize("cured", [False, True])
def test_a_slow_reader_holds_its_slot_and_may_lose_it(cured: bool) -> None:
    stage = Stage(quirks=replace(NO_CHANCE, leak_slot_on_slow_reader=not cured))
    stage.load("a")
    begun_ms = stage.now_ms
    slow = stage.generate("a", tokens=30)
    stage.run(begun_ms + 55.0)
    stage.server.stall(slow, stage.now_ns)
    following = stage.generate("a", tokens=1)
    stage.run(begun_ms + 2000.0)
    assert len(stage.tokens_ms(slow)) == 5
    assert stage.slot_ms(following) is None
    stage.server.half_close(slow, stage.now_ns)
    stage.run(begun_ms + 4000.0)
    assert (stage.slot_ms(following) is not None) == cured


def test_a_slow_reader_that_reads_again_goes_on() -> None:
    stage = Stage()
    stage.load("a")
    begun_ms = stage.now_ms
    slow = stage.generate("a", tokens=10)
    stage.run(begun_ms + 55.0)
    stage.server.stall(slow, stage.now_ns)
    stage.run(begun_ms + 1000.0)
    stage.server.resume(slow, stage.now_ns)
    stage.run(begun_ms + 2000.0)
    assert len(stage.tokens_ms(slow)) == 10
    assert stage.finished(slow)


# -- runners that die ----------------------------------------------------------------------------


def test_a_crash_fails_all_that_run_and_wait_and_the_next_request_loads_again() -> None:
    stage = Stage()
    stage.load("a")
    running, waiting = stage.generate("a", tokens=100), stage.generate("a")
    stage.run(stage.now_ms + 100.0)
    stage.server.kill_runner("a", stage.now_ns)
    stage.run(stage.now_ms + 100.0)
    assert stage.failed(running) == (500, EOF)
    assert stage.failed(waiting) == (500, f"{GONE} ")
    assert stage.resident() == ["a"]  # listed is not alive
    again = stage.generate("a")
    stage.run(stage.now_ms + 2000.0)
    assert stage.finished(again)
    assert stage.server.runner_starts == 2


def test_a_crash_before_the_first_token_says_one_of_two_texts() -> None:
    stage = Stage(num_parallel=8)
    stage.load("a")
    exchanges = [stage.generate("a", prompt=range(500)) for _ in range(8)]
    stage.run(stage.now_ms + 100.0)
    stage.server.kill_runner("", stage.now_ns)
    stage.run(stage.now_ms + 1.0)
    failures = [stage.failed(exchange) for exchange in exchanges]
    assert {failure and failure[0] for failure in failures} == {500}
    starts = {failure[1][:12] for failure in failures if failure}
    assert starts == {"an error was", "model runner"}


def test_a_crash_is_a_bad_request_to_who_asked_for_embeddings() -> None:
    stage = Stage()
    stage.open(WorkKind.LOAD, "e")
    stage.run(1000.0)
    batch = stage.open(WorkKind.EMBED, "e", prompts=tuple((n,) for n in range(100)))
    one = stage.open(WorkKind.EMBED, "e", prompts=((1,),))
    stage.run(1020.0)
    stage.server.kill_runner("e", stage.now_ns)
    stage.run(1030.0)
    failed = stage.failed(batch)
    assert failed is not None
    assert failed[0] == 400
    assert failed[1].startswith('Post "http://127.0.0.1:')
    assert stage.failed(one) == (400, GONE)


def test_running_out_of_memory_at_work_unloads_everything() -> None:
    stage = Stage()
    stage.load("a", "b")
    running = stage.generate("a", tokens=100)
    stage.run(stage.now_ms + 100.0)
    stage.server.oom_runner("a", stage.now_ns)
    stage.run(stage.now_ms + 100.0)
    failed = stage.failed(running)
    assert failed is not None
    assert "out of memory" in failed[1]
    assert stage.resident() == []


# -- runners that freeze -------------------------------------------------------------------------


def test_a_frozen_runner_says_nothing_and_goes_on_when_thawed() -> None:
    stage = Stage()
    stage.load("a")
    begun_ms = stage.now_ms
    exchange = stage.generate("a", tokens=10)
    stage.run(begun_ms + 45.0)
    stage.server.freeze_runner("a", stage.now_ns)
    stage.run(begun_ms + 5045.0)
    assert len(stage.tokens_ms(exchange)) == 4
    stage.server.thaw_runner("a", stage.now_ns)
    stage.run(begun_ms + 6000.0)
    assert stage.tokens_ms(exchange)[4] == begun_ms + 5050.0
    assert stage.finished(exchange)


@pytest.mark.parametrize("cured", [False, True])
def test_asking_a_frozen_idle_runner_takes_two_checks_and_ps_hangs(cured: bool) -> None:
    stage = Stage(quirks=replace(NO_CHANCE, ps_hangs_on_frozen_runner=not cured))
    stage.load("a")
    begun_ms = stage.now_ms
    stage.server.freeze_runner("a", stage.now_ns)
    exchange = stage.generate("a")
    unload = stage.unload("a", begun_ms + 1000.0)
    for at_s, until_s in ((5, 10), (15, 20)):
        stage.run(begun_ms + at_s * 1000.0)
        hangs = stage.server.ps(stage.now_ns)
        until_ns = int((begun_ms + until_s * 1000.0) * 1e6)
        assert isinstance(hangs, tuple) if cured else hangs == until_ns
        assert stage.finished(unload) is None
    stage.run(begun_ms + 25_000.0)
    assert stage.finished(unload)
    assert stage.handed_over_ms(exchange) == begun_ms + 20_250.0
    assert stage.server.runner_starts == 2


def test_a_check_is_over_at_once_when_the_runner_thaws_or_dies() -> None:
    for kill in (False, True):
        stage = Stage()
        stage.load("a")
        begun_ms = stage.now_ms
        stage.server.freeze_runner("a", stage.now_ns)
        first, second = stage.generate("a", tokens=1), stage.generate("a", tokens=1)
        stage.run(begun_ms + 3000.0)
        if kill:
            stage.server.kill_runner("a", stage.now_ns)
        else:
            stage.server.thaw_runner("a", stage.now_ns)
        stage.run(begun_ms + 4000.0)
        assert stage.finished(first)
        assert stage.finished(second)
        assert stage.server.runner_starts == (2 if kill else 1)


def test_a_client_that_leaves_ends_the_check_that_it_caused() -> None:
    stage = Stage()
    stage.load("a")
    begun_ms = stage.now_ms
    stage.server.freeze_runner("a", stage.now_ns)
    stage.close(stage.generate("a"), begun_ms + 3000.0)
    stage.run(begun_ms + 3001.0)
    assert stage.resident() == ["a"]


def test_the_loader_waits_behind_a_check_that_is_going_on() -> None:
    """Else who caused that one would never hear of its end."""
    slow = model("slow", speed=replace(STEADY, load_bytes_per_s=100e6 / 30))
    stage = Stage(model("a"), slow)
    stage.load("a")
    begun_ms = stage.now_ms
    stage.server.freeze_runner("a", stage.now_ns)
    first = stage.generate("a", begun_ms + 1.0)
    stage.open(WorkKind.LOAD, "slow", begun_ms + 2.0)
    second = stage.generate("a", begun_ms + 25_000.0)  # the loader comes to the first at 30 s
    stage.run(begun_ms + 100_000.0)
    assert stage.finished(first)
    assert stage.finished(second)


def test_closing_everything_and_unloading_cures_a_frozen_runner() -> None:
    stage = Stage()
    stage.load("a")
    begun_ms = stage.now_ms
    exchanges = [stage.generate("a", tokens=100), stage.generate("a")]
    stage.run(begun_ms + 100.0)
    stage.server.freeze_runner("a", stage.now_ns)
    stage.run(begun_ms + 1000.0)
    for exchange in exchanges:
        stage.close(exchange)
    unload = stage.unload("a")
    again = stage.generate("a", begun_ms + 1100.0)
    stage.run(begun_ms + 2000.0)
    assert stage.finished(unload)
    assert stage.finished(again)


# -- the whole server ----------------------------------------------------------------------------


def test_terminating_breaks_every_connection_and_answers_no_more() -> None:
    stage = Stage()
    stage.load("a")
    exchanges = [stage.generate("a"), stage.generate("b"), stage.generate("a")]
    stage.run(stage.now_ms + 30.0)
    stage.server.terminate(stage.now_ns)
    late = stage.generate("a")
    stage.run(stage.now_ms + 1000.0)
    assert all(stage.cut_off(exchange) for exchange in (*exchanges, late))
    assert stage.server.next_event_ns() is None


def test_time_does_not_go_back() -> None:
    stage = Stage()
    stage.run(10.0)
    with pytest.raises(ValueError, match="goes back"):
        stage.server.advance(5)
    with pytest.raises(ValueError, match="goes back"):
        stage.server.open(Work(kind=WorkKind.LOAD, model="a"), 5)
