"""Requests that do not slow one another: each takes its service, whoever runs beside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.sim.ollama_work import WorkKind
from tests.unit.sim.ollama_model_stage import STEADY, Stage, embedder, model

APART = replace(STEADY, is_apart=True, spawn_ms=50.0)  # 1 ms to read a token, 10 ms to make one


def stage_of(**settings: Any) -> Stage:
    stage = Stage(model("a", speed=APART), **settings)
    stage.load("a")
    return stage


@pytest.mark.parametrize("tokens", ["each", "first_and_last"])
def test_service_is_reading_plus_making_whatever_runs_beside(tokens: Any) -> None:
    stage = stage_of(num_parallel=3, tokens=tokens)
    begun_ms = stage.now_ms
    sizes = [(100, 5), (700, 3), (10, 40)]
    exchanges = [
        stage.generate("a", tokens=output, prompt=range(number * 1000, number * 1000 + prompt))
        for number, (prompt, output) in enumerate(sizes, start=1)
    ]
    stage.run(begun_ms + 5000.0)
    for exchange, (prompt, output) in zip(exchanges, sizes, strict=True):
        assert stage.end_ms(exchange) == begun_ms + prompt + 10 * output
        assert stage.tokens_ms(exchange)[0] == begun_ms + prompt + 10
        done = stage.finished(exchange)
        assert done is not None
        assert (done.prompt_eval_count, done.eval_count) == (prompt, output)


def test_each_token_is_told_at_its_time() -> None:
    stage = stage_of()
    begun_ms = stage.now_ms
    exchange = stage.generate("a", tokens=4, prompt=range(100))
    stage.run(begun_ms + 1000.0)
    assert stage.tokens_ms(exchange) == [begun_ms + at for at in (110, 120, 130, 140)]


def test_a_slot_is_given_on_when_its_request_ends_or_leaves() -> None:
    stage = stage_of(num_parallel=1)
    begun_ms = stage.now_ms
    first, second, third = (stage.generate("a", tokens=10, prompt=range(100)) for _ in range(3))
    stage.run(begun_ms + 50.0)
    stage.close(first)
    stage.run(begun_ms + 5000.0)
    assert stage.end_ms(first) is None
    assert stage.slot_ms(second) == begun_ms + 50
    assert stage.slot_ms(third) == stage.end_ms(second)


def test_a_frozen_process_goes_on_where_it_stopped() -> None:
    stage = stage_of(num_parallel=2)
    begun_ms = stage.now_ms
    reading = stage.generate("a", tokens=1, prompt=range(400))
    making = stage.generate("a", tokens=50, prompt=range(1000, 1100))
    stage.run(begun_ms + 200.0)
    stage.server.freeze_runner("a:latest", stage.now_ns)
    stage.run(begun_ms + 1200.0)
    assert stage.end_ms(reading) is None
    stage.server.thaw_runner("a:latest", stage.now_ns)
    stage.run(begun_ms + 5000.0)
    assert stage.end_ms(reading) == begun_ms + 1000 + 400 + 10
    assert stage.end_ms(making) == begun_ms + 1000 + 100 + 500


def test_who_does_not_read_gets_no_more_until_it_does() -> None:
    stage = stage_of(num_parallel=1)
    begun_ms = stage.now_ms
    exchange = stage.generate("a", tokens=50, prompt=range(100))
    stage.run(begun_ms + 205.0)  # in the middle of the eleventh token
    stage.server.stall(exchange, stage.now_ns)
    stage.run(begun_ms + 900.0)
    assert stage.end_ms(exchange) is None
    stage.server.resume(exchange, stage.now_ns)
    stage.run(begun_ms + 5000.0)
    assert stage.end_ms(exchange) == begun_ms + 900 + 400


def test_a_killed_process_ends_all_that_it_did() -> None:
    stage = stage_of(num_parallel=1)
    exchanges = [stage.generate("a", tokens=50, prompt=range(100)) for _ in range(2)]
    stage.run(stage.now_ms + 150.0)
    stage.server.kill_runner("a:latest", stage.now_ns)
    stage.run(stage.now_ms + 5000.0)
    assert all(stage.failed(each) is not None for each in exchanges)


def test_an_embedding_takes_its_reading_and_what_a_call_costs() -> None:
    speed = replace(APART, embed_call_ms=7.0)
    stage = Stage(replace(embedder(), speed=speed))
    stage.load("e")
    begun_ms = stage.now_ms
    exchange = stage.open(WorkKind.EMBED, "e", prompts=(tuple(range(40)),))
    stage.run(begun_ms + 1000.0)
    assert stage.end_ms(exchange) == begun_ms + 47
