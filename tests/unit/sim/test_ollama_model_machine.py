"""Names, sizes and reloads: what a simulated server works out before it does anything.

Sources: reference/OLLAMA.md §1.4b, §3.3, §3.5, §5 and the sizes that ps reported (§1.6).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from broker.sim.ollama_catalogue import (
    Capability,
    Catalogue,
    default_catalogue,
    parse_name,
    recorded_catalogue,
)
from broker.sim.ollama_machine import (
    GIB,
    PageCache,
    ServerSettings,
    needs_reload,
    resident_bytes,
    sizing,
)
from broker.sim.ollama_reminders import Reminders
from broker.sim.ollama_work import RunnerOptions
from tests.unit.sim.ollama_model_stage import embedder, model

CPU = ServerSettings(gpu=False)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("tiny-m", "tiny-m:latest"),
        ("TINY-m:V2", "TINY-m:V2"),
        ("user/m", "user/m:latest"),
        ("library/m:q4", "m:q4"),
        ("registry.ollama.ai/library/m", "m:latest"),
        ("hf.co/org/repo:Q4_K_M", "hf.co/org/repo:Q4_K_M"),
        ("http://127.0.0.1:9/library/m", "127.0.0.1:9/library/m:latest"),
    ],
)
def test_names_are_shown_with_their_tag_and_without_the_defaults(text: str, short: str) -> None:
    parsed = parse_name(text)
    assert parsed is not None
    assert parsed.short == short


@pytest.mark.parametrize("text", ["", "a b", ":x", "m:", "-m", "m@sha256:abc", "m" * 81, "a/b/c/d"])
def test_what_is_no_name_has_no_parts(text: str) -> None:
    assert parse_name(text) is None


def test_names_match_whatever_their_case_but_not_everywhere() -> None:
    catalogue = Catalogue([model("m")])
    found = catalogue.find("m")
    assert found is not None
    assert catalogue.find("M:LATEST") is catalogue.find("library/m") is found
    assert (catalogue.find_exact("m"), catalogue.find_exact("M")) == (found, None)
    assert catalogue.find("n") is catalogue.find_exact("a b") is None


def test_a_catalogue_changes_by_name() -> None:
    catalogue = Catalogue([model("m")])
    catalogue.put(model("m", blob="other"))
    assert [m.blob for m in catalogue] == ["other"]
    assert (catalogue.remove("M"), catalogue.remove("m"), len(catalogue)) == (True, False, 0)
    with pytest.raises(ValueError, match="canonical"):
        catalogue.put(model("library/m"))


def test_the_catalogues_hold_what_they_promise() -> None:
    assert [m.name for m in default_catalogue()][:2] == ["llama3.2:1b", "llama3.2:3b"]
    blobs = {m.name: m.blob for m in default_catalogue()}
    assert blobs["llama3.2:latest"] == blobs["llama3.2:3b"]
    assert len({m.digest for m in recorded_catalogue()}) == len(recorded_catalogue())
    assert {"tiny-s:latest", "think:latest", "badutf:latest"} <= {
        m.name for m in recorded_catalogue()
    }


@pytest.mark.parametrize(
    ("name", "parallel", "size"),
    [
        ("tiny-m", 1, 182_011_820),
        ("tiny-m", 2, 207_188_130),
        ("tiny-s", 1, 23_110_613),
        ("tiny-l", 2, 615_692_368),
        ("plain", 1, 12_194_938),
        ("tiny-e", 2, 4_110_416),
    ],
)
def test_sizes_are_those_that_ps_reported(name: str, parallel: int, size: int) -> None:
    found = recorded_catalogue().find(name)
    assert found is not None
    settings = replace(CPU, context_length=1024, num_parallel=parallel)
    counted = resident_bytes(found, sizing(found, RunnerOptions(), settings))
    assert abs(counted - size) < 0.001 * size


@pytest.mark.parametrize(
    ("settings", "num_ctx"),
    [
        (CPU, 4096),
        (ServerSettings(memory_bytes=22 * GIB), 4096),
        (ServerSettings(memory_bytes=23 * GIB), 32_768),
        (ServerSettings(memory_bytes=47 * GIB), 262_144),
        (ServerSettings(memory_bytes=47 * GIB, context_length=2048), 2048),
    ],
)
def test_the_default_context_goes_by_the_memory_of_the_gpu(
    settings: ServerSettings, num_ctx: int
) -> None:
    sized = sizing(model("m", context_length_train=1 << 20), RunnerOptions(), settings)
    assert (sized.num_ctx, sized.num_ctx_auto) == (num_ctx, settings.context_length == 0)


@pytest.mark.parametrize(
    ("asked", "num_ctx"), [(0, 4), (-1, 4), (3, 4), (64, 64), (100_000, 8192), (None, 4096)]
)
def test_a_context_is_held_between_its_bounds(asked: int | None, num_ctx: int) -> None:
    assert sizing(model("m"), RunnerOptions(num_ctx=asked), CPU).num_ctx == num_ctx
    seeing = model("m", capabilities=frozenset({Capability.VISION}))
    assert sizing(seeing, RunnerOptions(num_ctx=asked), CPU).num_ctx == max(num_ctx, 2048)


def test_some_models_have_one_slot_whatever_was_set() -> None:
    settings = replace(CPU, num_parallel=4)
    assert sizing(model("m"), RunnerOptions(), settings).slots == 4
    assert sizing(embedder(), RunnerOptions(), settings).slots == 1
    assert sizing(model("m", family="qwen3next"), RunnerOptions(), settings).slots == 1
    assert sizing(model("m"), RunnerOptions(), replace(CPU, num_parallel=0)).slots == 1


Given = dict[str, Any]


@pytest.mark.parametrize(
    ("loaded", "asked", "reloads"),
    [
        ({}, {}, False),
        ({}, {"num_ctx": 4096}, False),
        ({}, {"num_ctx": 100_000}, True),
        ({"num_ctx": 8192}, {"num_ctx": 100_000}, False),
        ({"num_ctx": 64}, {}, True),
        ({}, {"num_batch": 128}, True),
        ({"num_batch": 128}, {}, True),
        ({}, {"num_batch": 512}, False),
        ({}, {"num_gpu": 0}, True),
        ({"num_gpu": 0}, {}, False),
        ({"num_gpu": 0}, {"num_gpu": -1}, False),
        ({}, {"main_gpu": 0}, True),
        ({"main_gpu": 0}, {}, True),
        ({}, {"use_mmap": False}, False),
        ({}, {"use_mmap": True}, True),
        ({}, {"num_thread": 1}, True),
        ({}, {"num_thread": 0}, False),
        ({}, {"draft_num_predict": 4}, True),
        ({}, {"shift": False}, True),
    ],
)
def test_what_restarts_a_runner(loaded: Given, asked: Given, reloads: bool) -> None:
    """On a host without a GPU, where Ollama switches mmap off by itself."""
    was, now = (sizing(model("m"), RunnerOptions(**options), CPU) for options in (loaded, asked))
    assert needs_reload(was, now) is reloads


def test_the_page_cache_forgets_what_was_read_longest_ago() -> None:
    cache = PageCache(100)
    assert not any(cache.read(name, 40) for name in ("a", "b"))
    assert cache.read("a", 40)
    assert not cache.read("c", 40)
    assert cache.read("a", 40)
    assert not cache.read("b", 40)
    assert not cache.read("huge", 101)
    assert not cache.read("huge", 101)


def test_reminders_come_in_order_and_not_when_cancelled() -> None:
    reminders, came = Reminders(), list[str]()

    def note(name: str, _at_ns: int) -> None:
        came.append(name)

    for at_ns, name in ((20, "late"), (10, "first"), (10, "second")):
        reminders.at(at_ns, partial(note, name))
    reminders.at(20, partial(note, "before late"), rank=-1)
    dropped = [reminders.at(15, partial(note, "never")) for _ in range(3000)]
    for reminder in (*dropped, dropped[0], None):
        reminders.cancel(reminder)
    assert reminders.next_ns() == 10
    while reminders.run_one(100):
        pass
    assert came == ["first", "second", "before late", "late"]
    assert not reminders.run_one(100)
