"""Who is served when: the fast path, the loader's queue, eviction, reloads, keep-alive.

Sources: the acceptance checks of reference/OLLAMA.md §7 and the rules of its §3.
"""

from __future__ import annotations

import pytest

from broker.sim.ollama_log import LogKind
from broker.sim.ollama_machine import GIB, KEEP_FOREVER_NS, SECOND_NS, Quirks
from broker.sim.ollama_work import RunnerOptions, WorkKind
from tests.unit.sim.ollama_model_stage import Stage, embedder, model

BUSY = (503, "server busy, please try again.  maximum pending requests exceeded")


def expiry_s(stage: Stage, name: str) -> float:
    rows = stage.server.ps(stage.now_ns)
    assert not isinstance(rows, int)
    row = next(row for row in rows if row.name == f"{name}:latest")
    return (row.expires_at_ns - stage.now_ns) / SECOND_NS


def test_the_second_request_during_a_load_waits_and_says_so() -> None:
    stage = Stage()
    first = stage.generate("a")
    second = stage.generate("a", 100.0)
    stage.run(150.0)
    assert stage.resident() == []  # absent from ps until it is loaded
    stage.run(5000.0)
    assert stage.handed_over_ms(first) == stage.handed_over_ms(second) == 250.0
    done = stage.finished(second)
    assert done is not None
    assert done.load_duration_ns == 150_000_000
    assert stage.server.runner_starts == 1


def test_what_is_left_of_the_total_is_the_wait_for_the_slot() -> None:
    stage = Stage()
    stage.load("a")
    first = stage.generate("a", tokens=50)
    second = stage.generate("a", tokens=5)
    stage.run(stage.now_ms + 2000.0)
    done, slot_ms = stage.finished(second), stage.slot_ms(second)
    assert done is not None
    assert slot_ms == stage.end_ms(first)
    spent_ns = done.load_duration_ns + done.prompt_eval_duration_ns + done.eval_duration_ns
    waited_ns = done.total_duration_ns - spent_ns
    first_slot_ms = stage.slot_ms(first)
    assert slot_ms is not None
    assert first_slot_ms is not None
    assert waited_ns == (slot_ms - first_slot_ms) * 1_000_000


def test_a_full_queue_refuses_but_a_loaded_model_never_does() -> None:
    stage = Stage(max_loaded_models=1, max_queue=512)
    stage.load("a")
    busy = stage.generate("a", tokens=1000)
    stage.run(stage.now_ms + 50.0)
    held = stage.generate("b")
    queued = [stage.generate("b" if n % 2 else "c") for n in range(512)]
    refused = stage.generate("c")
    hot = [stage.generate("a", tokens=1) for _ in range(1000)]
    stage.run(stage.now_ms + 1.0)
    assert stage.failed(refused) == BUSY
    assert not any(stage.failed(exchange) for exchange in (busy, held, *queued, *hot))
    assert stage.server.queued == 512


def test_a_queue_of_length_zero_serves_an_idle_loader_only() -> None:
    stage = Stage(max_queue=0)
    first, second = stage.generate("a"), stage.generate("b")
    stage.run(3000.0)
    assert stage.finished(first)
    assert stage.failed(second) == BUSY


def test_loads_are_one_at_a_time_and_in_order() -> None:
    stage = Stage(max_loaded_models=1)
    order = [stage.generate(name, tokens=1) for name in "abab"]
    stage.run(5000.0)
    assert stage.end_in_order(*order)
    assert stage.server.runner_starts == 4  # nothing is grouped


def test_a_request_for_a_loaded_model_overtakes_the_loads_that_wait() -> None:
    stage = Stage(max_loaded_models=1)
    stage.load("a")
    long = stage.generate("a", tokens=50)
    other = stage.generate("b")
    again = stage.generate("a", tokens=5)
    stage.run(stage.now_ms + 5000.0)
    assert stage.end_in_order(long, again, other)


def test_the_shortest_keep_alive_goes_not_the_least_recently_used() -> None:
    stage = Stage(max_loaded_models=2)
    stage.load("a", keep_alive_ns=600 * SECOND_NS)
    stage.load("b", keep_alive_ns=60 * SECOND_NS)
    stage.load("c")
    assert stage.resident() == ["a", "c"]


def test_equal_keep_alives_make_the_file_decide() -> None:
    stage = Stage(max_loaded_models=2)
    stage.load("b", "a", "c")
    assert stage.resident() == ["b", "c"]


def test_without_a_limit_three_may_be_resident() -> None:
    stage = Stage(model("a"), model("b"), model("c"), model("d"))
    stage.load("a", "b", "c", "d")
    assert stage.resident() == ["b", "c", "d"]


def test_a_third_model_evicts_where_the_memory_is_eighty_percent_full() -> None:
    """There is room for a third one, but no more than 80 % of the room may be taken."""
    models = [model(name, size_bytes=4 * GIB) for name in "abc"]
    stage = Stage(*models, gpu=True, memory_bytes=13 * GIB + GIB // 4)
    stage.load("a", keep_alive_ns=600 * SECOND_NS)
    stage.load("b", keep_alive_ns=60 * SECOND_NS)
    assert stage.resident() == ["a", "b"]
    stage.load("c")
    assert stage.resident() == ["a", "c"]


def test_a_host_without_a_gpu_minds_no_memory() -> None:
    stage = Stage(*(model(name, size_bytes=4 * GIB) for name in "abc"), memory_bytes=5 * GIB)
    stage.load("a", "b", "c")
    assert stage.resident() == ["a", "b", "c"]


def test_a_busy_model_is_not_evicted_while_another_is_idle() -> None:
    stage = Stage(max_loaded_models=2)
    stage.load("a", "b")
    busy = stage.generate("a", tokens=300)
    stage.load("c")
    assert stage.resident() == ["a", "c"]
    stage.run(stage.now_ms + 3000.0)
    assert stage.finished(busy)


def test_the_victim_is_chosen_once() -> None:
    """Both are busy when it is chosen; that the other goes idle long before is of no use."""
    stage = Stage(max_loaded_models=2)
    stage.load("a", "b")
    long = stage.generate("a", tokens=200)
    short = stage.generate("b", tokens=5)
    third = stage.generate("c")
    stage.run(stage.now_ms + 5000.0)
    end_ms, handed_ms = stage.end_ms(long), stage.handed_over_ms(third)
    assert stage.end_ms(short) is not None
    assert end_ms is not None
    assert handed_ms == end_ms + 250.0
    assert stage.resident() == ["b", "c"]


def test_steady_requests_for_the_victim_starve_a_load_unless_cured() -> None:
    for cured in (False, True):
        quirks = Quirks(slot_leak_chance=0.0, resurrect_victim=not cured)
        stage = Stage(max_loaded_models=1, quirks=quirks)
        stage.load("a")
        begun_ms = stage.now_ms
        stage.generate("a", tokens=30)
        waiting = stage.generate("b")
        for turn in range(1, 8):
            stage.generate("a", begun_ms + turn * 200.0, tokens=30)
        stage.run(begun_ms + 1400.0)
        assert (stage.handed_over_ms(waiting) is None) != cured


def test_a_victim_that_is_asked_with_its_own_keep_alive_stays() -> None:
    stage = Stage(max_loaded_models=1)
    stage.load("a")
    begun_ms = stage.now_ms
    stage.generate("a", tokens=20)
    waiting = stage.generate("b")
    stage.generate("a", tokens=1, keep_alive_ns=6 * SECOND_NS)
    stage.run(begun_ms + 6000.0)
    assert stage.handed_over_ms(waiting) is None
    stage.run(begun_ms + 8000.0)
    assert stage.handed_over_ms(waiting) is not None


def test_changed_options_wait_for_what_runs_and_restart_the_runner() -> None:
    stage = Stage(num_parallel=2)
    stage.load("a")
    running = stage.generate("a", tokens=100)
    other = stage.generate("a", num_ctx=256)
    stage.run(stage.now_ms + 100.0)
    same = stage.generate("a", tokens=1)
    stage.run(stage.now_ms + 5000.0)
    end_ms, handed_ms = stage.end_ms(running), stage.handed_over_ms(other)
    assert end_ms is not None
    assert handed_ms == end_ms + 250.0
    assert (stage.end_ms(same) or handed_ms) < end_ms
    assert stage.server.runner_starts == 2


def test_aliases_of_one_file_share_a_runner() -> None:
    stage = Stage(model("a"), model("x", blob="a-file"))
    stage.load("a")
    stage.load("x")
    assert stage.server.runner_starts == 1
    assert stage.resident() == ["a"]
    stage.unload("x")
    stage.run(stage.now_ms + 1.0)
    assert stage.resident() == []


@pytest.mark.parametrize(
    ("keep_alive_ns", "left_s"),
    [(None, 300.0), (30 * SECOND_NS, 30.0), (-1, KEEP_FOREVER_NS / 1e9)],
)
def test_keep_alive_counts_from_the_end(keep_alive_ns: int | None, left_s: float) -> None:
    stage = Stage()
    exchange = stage.generate("a", keep_alive_ns=keep_alive_ns)
    stage.run(1000.0)
    end_ms = stage.end_ms(exchange)
    assert end_ms is not None
    assert expiry_s(stage, "a") == pytest.approx(left_s - (1000.0 - end_ms) / 1000)


def test_the_last_keep_alive_asked_for_stays() -> None:
    stage = Stage()
    stage.load("a", keep_alive_ns=30 * SECOND_NS)
    stage.load("a")
    assert expiry_s(stage, "a") == pytest.approx(28.0)
    stage.run(stage.now_ms + 28_500.0)
    assert stage.resident() == []


def test_keep_alive_zero_unloads_after_the_answer() -> None:
    stage = Stage()
    exchange = stage.generate("a", keep_alive_ns=0)
    stage.run(300.0)
    assert stage.resident() == ["a"]
    stage.run(1000.0)
    assert stage.finished(exchange)
    assert stage.resident() == []


def test_a_running_answer_outlives_its_keep_alive() -> None:
    stage = Stage()
    stage.load("a", keep_alive_ns=SECOND_NS // 2)
    stage.load("a", keep_alive_ns=3 * SECOND_NS)
    long = stage.generate("a", tokens=600)
    stage.run(stage.now_ms + 5000.0)
    assert expiry_s(stage, "a") < 0  # stale, and in the past
    stage.run(stage.now_ms + 2000.0)
    assert stage.finished(long)
    assert stage.resident() == ["a"]


def test_unload_is_answered_before_it_happens() -> None:
    stage = Stage()
    stage.load("a")
    running = stage.generate("a", tokens=100)
    stage.run(stage.now_ms + 100.0)
    asked = stage.unload("a")
    stage.run(stage.now_ms + 1.0)
    assert stage.finished(asked)
    assert stage.resident() == ["a"]
    assert expiry_s(stage, "a") == pytest.approx(-0.001)
    stage.run(stage.now_ms + 2000.0)
    assert stage.finished(running)
    assert stage.resident() == []


def test_unloading_what_is_not_loaded_is_no_error() -> None:
    stage = Stage()
    exchange = stage.unload("a")
    stage.run(1.0)
    assert stage.finished(exchange)


def test_a_batch_of_inputs_takes_the_slot_once_for_each() -> None:
    stage = Stage(num_parallel=4)
    prompts = tuple((n, n + 1) for n in range(10))
    stage.open(WorkKind.LOAD, "e")
    stage.run(1000.0)
    batch = stage.open(WorkKind.EMBED, "e", prompts=prompts)
    one = stage.open(WorkKind.EMBED, "e", prompts=((5, 6),))
    stage.run(5000.0)
    assert stage.end_in_order(batch, one)
    done = stage.finished(batch)
    assert done is not None
    assert (done.prompt_eval_count, done.eval_count, done.eval_duration_ns) == (20, 0, 0)


def test_embedding_with_a_chat_model_fails_once_it_is_loaded() -> None:
    stage = Stage()
    exchange = stage.open(WorkKind.EMBED, "a", prompts=((1,),))
    stage.run(1000.0)
    failed = stage.failed(exchange)
    assert failed is not None
    assert failed[0] == 501
    assert stage.resident() == ["a"]


def test_no_input_loads_an_embedding_model() -> None:
    stage = Stage(embedder())
    exchange = stage.open(WorkKind.EMBED, "e", prompts=())
    stage.run(1000.0)
    assert stage.finished(exchange)
    assert stage.resident() == ["e"]


def test_an_unknown_model_is_not_found() -> None:
    stage = Stage()
    exchange = stage.generate("nobody")
    stage.run(1.0)
    assert stage.failed(exchange) == (404, "model 'nobody' not found")


def test_a_deleted_name_stays_loaded_and_a_new_file_is_listed_beside_it() -> None:
    stage = Stage()
    stage.load("a")
    assert stage.catalogue.remove("a")
    assert stage.resident() == ["a"]
    stage.catalogue.put(model("a", blob="another-file"))
    stage.load("a")
    assert stage.resident() == ["a", "a"]


def test_the_page_cache_makes_the_second_load_faster() -> None:
    large = model("a", size_bytes=4_000_000_000)
    stage = Stage(large, model("b"), max_loaded_models=1)
    stage.load("b")
    first = stage.generate("a")
    stage.run(stage.now_ms + 5000.0)
    stage.load("b")
    second = stage.generate("a")
    stage.run(stage.now_ms + 5000.0)
    done = [stage.finished(exchange) for exchange in (first, second)]
    assert [None if d is None else d.load_duration_ns for d in done] == [2_250_000_000, 750_000_000]


def test_a_small_server_lies_partly_on_the_host_and_is_slower() -> None:
    large = model("a", size_bytes=20 * GIB)
    ends = []
    for memory_bytes in (40 * GIB, 10 * GIB):
        stage = Stage(large, gpu=True, memory_bytes=memory_bytes)
        exchange = stage.generate("a")
        stage.run()
        done = stage.finished(exchange)
        assert done is not None
        ends.append(done.eval_duration_ns)
    assert ends[1] > 3 * ends[0]


def test_sizing_tells_what_a_request_would_start() -> None:
    stage = Stage()
    assert stage.server.sizing("a", RunnerOptions()).num_ctx == 1024
    assert stage.server.sizing("a", RunnerOptions(num_ctx=1_000_000)).num_ctx == 8192
    with pytest.raises(KeyError):
        stage.server.sizing("nobody", RunnerOptions())


def test_the_log_tells_the_story() -> None:
    stage = Stage(max_loaded_models=1)
    stage.load("a", "b")
    kinds = [entry.kind for entry in stage.server.ledger.entries]
    assert kinds == [
        *(LogKind.SPAWNED, LogKind.LOADED),
        *(LogKind.VICTIM, LogKind.UNLOADED, LogKind.SPAWNED, LogKind.LOADED),
    ]
    assert stage.server.ledger.loads_by_model == {"a:latest": 1, "b:latest": 1}
