"""Loads that fail, hang, or run out of memory, and files that cannot be loaded at all.

Sources: reference/OLLAMA.md §2, §3.3, §3.7 and §7.10.
"""

from __future__ import annotations

import pytest

from broker.sim.ollama_machine import GIB, SECOND_NS
from broker.sim.ollama_model_card import BrokenFile
from broker.sim.ollama_work import Failed
from tests.unit.sim.ollama_model_stage import Stage, model


def test_a_runner_killed_while_it_loads_fails_its_owner_only() -> None:
    stage = Stage(model("a", size_bytes=2_000_000_000))
    owner = stage.generate("a")
    follower = stage.generate("a", 100.0)
    stage.run(400.0)
    stage.server.kill_runner("a", stage.now_ns)
    stage.run(5000.0)
    assert stage.failed(owner) == (500, "llama-server process has terminated: signal: killed")
    failed = next(signal for signal in stage.of(owner) if isinstance(signal, Failed))
    assert failed.at_ns == 500_000_000  # seen at the next poll
    assert stage.finished(follower)


def test_a_load_that_hangs_ends_after_the_load_timeout() -> None:
    stage = Stage(load_timeout_ns=4 * SECOND_NS)
    stage.server.hang_next_load("a")
    hung, behind = stage.generate("a"), stage.generate("b")
    stage.run(10_000.0)
    assert stage.failed(hung) == (500, "timed out waiting for llama-server to start - ")
    assert stage.handed_over_ms(behind) == 4250.0


def test_without_a_load_timeout_a_hung_load_stays_until_its_owner_leaves() -> None:
    stage = Stage(load_timeout_ns=0)
    stage.server.hang_next_load()
    hung, behind = stage.generate("a"), stage.generate("b")
    stage.run(1_000_000.0)
    assert stage.of(hung) == []
    stage.close(hung)
    stage.run(1_001_000.0)
    assert stage.finished(behind)


def test_a_load_that_is_frozen_and_thawed_is_late() -> None:
    stage = Stage()
    exchange = stage.generate("a")
    stage.run(100.0)
    stage.server.freeze_runner("a", stage.now_ns)
    stage.run(1000.0)
    stage.server.thaw_runner("a", stage.now_ns)
    stage.run(3000.0)
    assert stage.handed_over_ms(exchange) == 1250.0


def test_a_load_told_to_fail_says_the_text_once() -> None:
    stage = Stage()
    stage.server.fail_load("a", "no such luck")
    first = stage.generate("a")
    second = stage.generate("a", 10.0)
    stage.run(3000.0)
    assert stage.failed(first) == (500, "no such luck")
    assert stage.finished(second)


@pytest.mark.parametrize("times", [1, 2])
def test_a_load_out_of_memory_is_tried_once_more_alone(times: int) -> None:
    stage = Stage(gpu=True, context_length=0, memory_bytes=48 * GIB, vram_recovery_ns=0)
    large = model("a", context_length_train=262_144)
    stage.catalogue.put(large)
    stage.load("b")
    stage.server.oom_next_load(times)
    exchange = stage.generate("a")
    stage.run(stage.now_ms + 5000.0)
    if times == 2:
        failed = stage.failed(exchange)
        assert failed is not None
        assert failed[1].startswith("llama-server reported out-of-memory during startup: ")
        assert stage.resident() == []
        return
    assert stage.finished(exchange)
    rows = stage.server.ps(stage.now_ns)
    assert not isinstance(rows, int)
    assert [(row.name, row.context_length) for row in rows] == [("a:latest", 32_768)]


@pytest.mark.parametrize(
    ("broken", "text", "starts"),
    [
        (BrokenFile.MAGIC, "invalid file magic", 0),
        (BrokenFile.TRUNCATED, 'tensor "blk.0.attn_output.weight" offset+size', 0),
        (BrokenFile.RUNNER, "llama-server process has terminated: exit status 1: ", 1),
    ],
)
def test_a_broken_file_evicts_a_good_model_first(
    broken: BrokenFile, text: str, starts: int
) -> None:
    stage = Stage(model("a"), model("x", broken=broken), max_loaded_models=1)
    stage.load("a")
    exchange = stage.generate("x")
    stage.run(stage.now_ms + 1000.0)
    failed = stage.failed(exchange)
    assert failed is not None
    assert failed[0] == 500
    assert failed[1].startswith(text)
    assert stage.resident() == []
    assert stage.server.runner_starts == 1 + starts


def test_a_file_that_is_gone_is_not_found() -> None:
    stage = Stage(model("x", broken=BrokenFile.MISSING))
    exchange = stage.generate("x")
    stage.run(1.0)
    assert stage.failed(exchange) == (404, 'model "x" not found, try pulling it first')


def test_what_is_loading_is_said_and_for_how_long_a_load_was_under_way() -> None:
    stage = Stage(model("a", size_bytes=2_000_000_000), model("b", size_bytes=2_000_000_000))
    ledger = stage.server.ledger

    def loading() -> str | None:
        return stage.server.loading

    assert (loading(), ledger.loading_ns(0)) == (None, 0)
    stage.generate("a", 100.0)
    stage.run(400.0)
    assert loading() == "a:latest"
    assert ledger.loading_ns(stage.now_ns) == 300_000_000
    stage.server.kill_runner("a", stage.now_ns)  # seen at the next poll
    stage.run(5000.0)
    assert (loading(), ledger.loading_ns(stage.now_ns)) == (None, 500_000_000)
    left = stage.generate("b", 6000.0)
    stage.close(left, 6200.0)
    stage.run(9000.0)
    assert (loading(), ledger.loading_ns(stage.now_ns)) == (None, 700_000_000)
