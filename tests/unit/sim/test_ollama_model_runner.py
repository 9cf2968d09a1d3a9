"""What a runner does with its slots, its batches and the prompts it remembers.

Sources: reference/OLLAMA.md §7.6 and §7.7; hypothesis compares coarse tokens with fine ones.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.sim.ollama_machine import MILLISECOND_NS
from broker.sim.ollama_runner_prompts import PromptMemory, common_prefix
from broker.sim.ollama_work import CutOff, ExchangeId, Failed, Finished, Signal, Token
from tests.unit.sim.ollama_model_stage import STEADY, Stage, model

LONG_A = tuple(range(1, 600))
LONG_B = tuple(range(1001, 1600))


def test_slots_are_given_first_come_first_served() -> None:
    stage = Stage(num_parallel=2)
    stage.load("a")
    exchanges = [stage.generate("a", tokens=n) for n in (40, 20, 10, 10, 10)]
    stage.run(stage.now_ms + 5000.0)
    slots = [stage.slot_ms(exchange) for exchange in exchanges]
    assert None not in slots
    assert slots[0] == slots[1]
    assert slots[2] == stage.end_ms(exchanges[1])
    assert slots[3] == stage.end_ms(exchanges[2])
    assert stage.end_in_order(exchanges[1], exchanges[2], exchanges[3])


def test_tokens_come_at_the_rate_of_the_model() -> None:
    stage = Stage()
    stage.load("a")
    begun_ms = stage.now_ms
    exchange = stage.generate("a", tokens=5, prompt=range(100))
    stage.run(begun_ms + 1000.0)
    assert stage.tokens_ms(exchange) == [begun_ms + at for at in (100, 110, 120, 130, 140)]
    done = stage.finished(exchange)
    assert done is not None
    assert (done.prompt_eval_count, done.eval_count) == (100, 5)
    assert done.prompt_eval_duration_ns == 100 * MILLISECOND_NS
    assert done.eval_duration_ns == 40 * MILLISECOND_NS


def test_an_answer_of_one_token_took_a_microsecond() -> None:
    stage = Stage()
    exchange = stage.generate("a", tokens=1)
    stage.run(1000.0)
    done = stage.finished(exchange)
    assert done is not None
    assert done.eval_duration_ns == 1000


def test_answers_side_by_side_slow_one_another() -> None:
    slow = model("a", speed=replace(STEADY, spawn_ms=50.0, batch_slowdown=0.25))
    stage = Stage(slow, num_parallel=4)
    stage.load("a")
    exchanges = [stage.generate("a", tokens=11) for _ in range(3)]
    stage.run(stage.now_ms + 5000.0)
    times = stage.tokens_ms(exchanges[0])
    assert [b - a for a, b in pairwise(times)][1:] == [15.0] * 9


def test_a_prompt_being_read_leaves_the_others_one_token_per_batch() -> None:
    stage = Stage(num_parallel=2)
    stage.load("a")
    begun_ms = stage.now_ms
    stream = stage.generate("a", tokens=100)
    long = stage.generate("a", begun_ms + 50.0, tokens=1, prompt=range(1025))
    stage.run(begun_ms + 3000.0)
    first_ms = stage.tokens_ms(long)[0]
    meanwhile = [at for at in stage.tokens_ms(stream) if begun_ms + 60.0 < at <= first_ms]
    gaps = [b - a for a, b in pairwise(meanwhile)]
    assert gaps == [522.0, 11.0]  # the first batch began before the first of these tokens


def test_a_known_beginning_is_not_read_again() -> None:
    stage = Stage()
    stage.load("a")
    durations = []
    for prompt in (LONG_A, LONG_A, (*LONG_A, 9999), LONG_B, LONG_A, LONG_B):
        exchange = stage.generate("a", tokens=1, prompt=prompt)
        stage.run(stage.now_ms + 2000.0)
        done = stage.finished(exchange)
        assert done is not None
        assert done.prompt_eval_count == len(prompt)
        durations.append(done.prompt_eval_duration_ns / MILLISECOND_NS)
    # A token at the least is read; the older prompts come back from host memory.
    assert durations == [599.0, 10.0, 10.0, 599.0, 10.0, 10.0]


def test_a_reload_forgets_every_prompt() -> None:
    stage = Stage()
    for _ in range(2):
        exchange = stage.generate("a", tokens=1, prompt=LONG_A, keep_alive_ns=0)
        stage.run(stage.now_ms + 3000.0)
        done = stage.finished(exchange)
        assert done is not None
        assert done.prompt_eval_duration_ns == 599 * MILLISECOND_NS


def test_bringing_a_prompt_back_shows_in_no_figure_but_the_total() -> None:
    slow = model("a", speed=replace(STEADY, spawn_ms=50.0, restore_ms=80.0))
    stage = Stage(slow)
    stage.load("a")
    for prompt in (LONG_A, LONG_B, LONG_A):
        exchange = stage.generate("a", tokens=1, prompt=prompt)
        stage.run(stage.now_ms + 2000.0)
    done = stage.finished(exchange)
    assert done is not None
    assert done.total_duration_ns - done.prompt_eval_duration_ns == 80 * MILLISECOND_NS


def test_the_slot_with_the_longest_beginning_is_taken_else_the_oldest() -> None:
    memory = PromptMemory(3, capacity_tokens=0)
    first, second, third = (memory.take(prompt).slot for prompt in ((1, 2, 3), (4, 5), (6,)))
    for slot in (first, second, third):
        slot.busy = False
    place = memory.take((4, 5, 6))
    assert (place.slot, place.cached, place.restored) == (second, 2, False)
    assert memory.take((9,)).slot is first
    assert memory.take((8,)).slot is third
    with pytest.raises(RuntimeError, match="no free slot"):
        memory.take((1,))


def test_host_memory_is_bounded_and_forgets_the_oldest() -> None:
    memory = PromptMemory(1, capacity_tokens=70)
    prompts = [tuple(range(n * 100, n * 100 + 30)) for n in range(5)]
    for prompt in (*prompts, prompts[3]):
        place = memory.take(prompt)
        place.slot.busy = False
    assert (place.cached, place.restored) == (29, True)
    assert not memory.take(prompts[0]).restored


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40))
def test_the_common_beginning_is_what_a_loop_finds(a: list[int], b: list[int]) -> None:
    same = 0
    while same < min(len(a), len(b)) and a[same] == b[same]:
        same += 1
    assert common_prefix(tuple(a), tuple(b)) == same


Play = list[tuple[int, str, int, int, int]]
PLAYS = st.lists(
    st.tuples(
        st.integers(0, 400),  # ms since the one before
        st.sampled_from(["a", "a", "a", "b", "c", "e"]),
        st.integers(1, 60),  # tokens
        st.sampled_from([1, 3, 40, 700]),  # tokens of the prompt
        st.integers(0, 900),  # leaves so many ms later, unless it is below 500
    ),
    min_size=1,
    max_size=25,
)


def played(play: Play, tokens: str, seed: int) -> tuple[Stage, list[ExchangeId], set[ExchangeId]]:
    """Requests that come, are served, and partly leave in the middle."""
    stage = Stage(
        seed=seed,
        tokens="each" if tokens == "each" else "first_and_last",
        num_parallel=2,
        max_loaded_models=2,
        max_queue=3,
        admission_ns=MILLISECOND_NS,
    )
    leaves: list[tuple[float, ExchangeId]] = []
    opened: list[ExchangeId] = []
    left: set[ExchangeId] = set()
    at_ms = 0.0
    for gap_ms, name, output, prompt, patience_ms in play:
        at_ms += gap_ms
        for leave_ms, exchange in sorted(leaves):
            if leave_ms <= at_ms:
                stage.close(exchange, leave_ms)
                left.add(exchange)
        leaves = [entry for entry in leaves if entry[0] > at_ms]
        opened.append(stage.generate(name, at_ms, tokens=output, prompt=range(prompt)))
        if patience_ms >= 500:
            leaves.append((at_ms + patience_ms, opened[-1]))
    for leave_ms, exchange in sorted(leaves):
        stage.close(exchange, leave_ms)
        left.add(exchange)
    stage.run()
    return stage, opened, left


def essence(signals: list[Signal]) -> list[Signal]:
    return [s for s in signals if not isinstance(s, Token) or s.index == 0]


@given(PLAYS)
def test_coarse_tokens_tell_the_same_story(play: Play) -> None:
    fine, coarse = (played(play, tokens, 0)[0] for tokens in ("each", "first_and_last"))
    assert essence(fine.signals) == coarse.signals


@given(PLAYS)
def test_every_request_ends_once_and_in_order(play: Play) -> None:
    stage, opened, left = played(play, "each", 0)
    moments = [signal.at_ns for signal in stage.signals]
    assert moments == sorted(moments)
    endings = Counter(
        s.exchange for s in stage.signals if isinstance(s, Finished | Failed | CutOff)
    )
    assert all(count == 1 for count in endings.values())
    assert set(opened) - left <= endings.keys()
    # Nothing is left over: whoever asks now is served without waiting for a slot.
    for name in stage.resident():
        exchange = stage.generate(name, tokens=1)
        stage.run(stage.now_ms + 2000.0)
        assert stage.slot_ms(exchange) == stage.handed_over_ms(exchange)


@given(PLAYS, st.integers(0, 3))
def test_the_same_calls_give_the_same_signals(play: Play, seed: int) -> None:
    assert played(play, "each", seed)[0].signals == played(play, "each", seed)[0].signals
