"""What is counted of the use of models, and when it is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from broker.core.requests import Outcome
from broker.core.usage import (
    HOUR_NS,
    NO_AGENT,
    OTHERS,
    UNKNOWN,
    ModelUse,
    UsageGroup,
    UsageKey,
    UsageQuery,
    UsageRow,
)
from broker.core.views import LoadReport
from broker.models.usage import DEFAULT_ANSWER, TOKENS_MAX, UsageRecorder
from broker.models.usage_books import UsageBooks
from tests.unit.observability.ended import MS, attempt_failed, preempted, refused, report
from tests.usage_rows import HOUR, MemoryUsage, row

S = 1_000_000_000
NOW_NS = HOUR * HOUR_NS + 60 * S
MODELS = {"m:latest", "n:7b"}


def ended(**other: Any) -> Any:
    """A request that ends within this hour, having run for half a second on half a GPU."""
    fields = {"arrived_unix_ns": NOW_NS, "run_ns": 500 * MS, "gpu_share": 0.5}
    return report(**{**fields, **other})


def made(agents_max: int = 100, pending_max: int = 1_000) -> UsageRecorder:
    return UsageRecorder(MODELS.__contains__, lambda: NOW_NS, agents_max, pending_max)


def told(rows: Sequence[UsageRow]) -> dict[tuple[int, str, str], int]:
    """Requests by hour from now, model and agent."""
    return {(key.hour - HOUR, key.model, key.agent_id): counts.requests for key, counts in rows}


def test_a_request_is_counted_for_its_model_its_agent_and_the_hour_of_its_end() -> None:
    recorder = made()
    recorder.request_ended(ended())
    recorder.request_ended(ended(outcome=Outcome.FAILED, queue_wait_ns=70 * MS, total_ns=90 * MS))
    ((key, counts),) = recorder.take()
    assert key == UsageKey(HOUR, "m:latest", "opus-1")
    assert (counts.requests, counts.completed) == (2, 1)
    assert (counts.prompt_tokens, counts.output_tokens) == (14, 100)
    assert (counts.busy_ns, counts.gpu_ns) == (1_000 * MS, 500 * MS)
    assert (counts.wait_ns, counts.wait_ns_max) == (100 * MS, 70 * MS)
    assert counts.last_unix_ms == (NOW_NS + 800 * MS) // MS
    assert recorder.take() == []


def test_what_ends_in_another_hour_is_another_row() -> None:
    recorder = made()
    recorder.request_ended(ended())
    recorder.request_ended(ended(total_ns=HOUR_NS))
    assert told(recorder.take()) == {(0, "m:latest", "opus-1"): 1, (1, "m:latest", "opus-1"): 1}


@pytest.mark.parametrize("name", ["M", "m:LATEST", "registry.ollama.ai/library/m"])
def test_a_model_is_one_by_whatever_spelling(name: str) -> None:
    recorder = made()
    recorder.request_ended(ended(model=name))
    assert told(recorder.take()) == {(0, "m:latest", "opus-1"): 1}
    assert recorder.use_of(name).requests == recorder.use_of("m").requests == 1


def test_who_is_refused_may_have_asked_for_anything() -> None:
    recorder = made()
    for name in ("nonsense", "../etc", "m"):
        recorder.request_ended(refused(model=name, arrived_unix_ns=NOW_NS))
    recorder.request_ended(refused(model="m", agent_type="", arrived_unix_ns=NOW_NS))
    assert told(recorder.take()) == {
        (0, UNKNOWN, "opus-1"): 2,
        (0, "m:latest", "opus-1"): 1,
        (0, "m:latest", UNKNOWN): 1,
    }


def test_a_default_answer_is_of_no_model() -> None:
    recorder = made()
    recorder.request_ended(ended(model="", backend="", run_ns=0))
    assert told(recorder.take()) == {(0, DEFAULT_ANSWER, "opus-1"): 1}


def test_a_call_that_came_to_nothing_has_used_its_slot_all_the_same() -> None:
    recorder = made()
    recorder.attempt_failed(attempt_failed(is_retried=True, run_ns=3 * S, gpu_share=1.0))
    recorder.attempt_failed(attempt_failed(is_retried=False, run_ns=9 * S))  # told with its end
    recorder.attempt_preempted(preempted(run_ns=2 * S, gpu_share=0.25))
    rows = recorder.take()
    assert sum(counts.busy_ns for _, counts in rows) == 5 * S
    assert sum(counts.gpu_ns for _, counts in rows) == 3.5 * S
    assert sum(counts.requests for _, counts in rows) == 0


def test_loads_that_came_to_something_are_the_brokers_own() -> None:
    recorder = made()
    recorder.load_ended(LoadReport(backend="b", model="m:latest", took_ns=S, problem=""))
    recorder.load_ended(LoadReport(backend="b", model="m:latest", took_ns=S, problem="no room"))
    ((key, counts),) = recorder.take()
    assert (key.agent_id, counts.loads, counts.requests) == (NO_AGENT, 1, 0)
    assert recorder.use_of("m") == ModelUse(loads=1)


def test_agents_beyond_the_bound_of_an_hour_are_counted_together() -> None:
    recorder = made(agents_max=2)
    for agent in "abcda":
        recorder.request_ended(ended(key=(agent, "r")))
    recorder.request_ended(ended(key=("d", "r"), total_ns=HOUR_NS))
    assert told(recorder.take()) == {
        (0, "m:latest", "a"): 2,
        (0, "m:latest", "b"): 1,
        (0, "m:latest", OTHERS): 2,
        (1, "m:latest", "d"): 1,
    }


def test_rows_that_wait_have_a_bound() -> None:
    recorder = made(pending_max=2)
    for agent in "abcd":
        recorder.request_ended(ended(key=(agent, "r")))
    recorder.load_ended(LoadReport(backend="b", model="m:latest", took_ns=S, problem=""))
    waiting = recorder.take()
    recorder.request_ended(ended(key=("e", "r")))
    recorder.request_ended(ended(key=("f", "r")))
    recorder.put_back(waiting)
    assert told(recorder.take()) == {
        (0, "m:latest", "e"): 1,
        (0, "m:latest", "f"): 1,
        (0, OTHERS, OTHERS): 4,
        (0, OTHERS, NO_AGENT): 0,
    }


def test_a_backend_that_counts_nonsense_is_not_believed() -> None:
    recorder = made()
    recorder.request_ended(ended(prompt_tokens=10**30, output_tokens=10**30))
    ((_, counts),) = recorder.take()
    assert (counts.prompt_tokens, counts.output_tokens) == (TOKENS_MAX, TOKENS_MAX)


class Scene:
    """Books over a dictionary, on a clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_ns = NOW_NS
        self.slept = 0
        self.rested = asyncio.Event()  # it was to sleep for the third time
        self.store = MemoryUsage()
        self.recorder = made()
        self.books = UsageBooks(
            self.recorder, self.store, lambda: self.now_ns, self._sleep, 10 * S, rows_max=1_000
        )

    async def _sleep(self, duration_ns: int) -> None:
        assert duration_ns == 10 * S
        self.slept += 1
        if self.slept == 3:
            self.rested.set()
            await asyncio.Event().wait()

    async def requests(self) -> int:
        answer = await self.books.ask(UsageQuery(until_hour=HOUR * 2, group=UsageGroup.MODEL))
        return sum(each.counts.requests for each in answer.rows)


async def test_what_was_counted_is_kept_again_and_again() -> None:
    scene = Scene()
    scene.recorder.request_ended(ended())
    task = asyncio.ensure_future(scene.books.run())
    await scene.rested.wait()
    task.cancel()
    assert [each.requests for each in scene.store.kept.values()] == [1]
    assert scene.books.health().rows == 1


async def test_what_was_kept_before_counts_from_the_start() -> None:
    scene = Scene()
    await scene.store.add([row(HOUR - 30, "m:latest", completed=5, output_tokens=2)])
    scene.recorder.request_ended(ended())
    assert scene.recorder.use_of("m").requests == 1
    await scene.books.flush()
    use = scene.recorder.use_of("m")
    assert (use.requests, use.output_tokens) == (6, 52)
    scene.recorder.request_ended(ended())
    assert scene.recorder.use_of("m").requests == 7
    assert await scene.requests() == 7


async def test_what_cannot_be_kept_waits_and_that_is_told_once() -> None:
    scene = Scene()
    scene.store.problem = "the disk is full"
    with capture_logs() as logs:
        for _ in range(3):
            scene.recorder.request_ended(ended())
            await scene.books.flush()
        assert (scene.books.health().failures, scene.books.health().waiting) == (3, 1)
        scene.store.problem = ""
        await scene.books.flush()
        await scene.books.flush()
    assert [each["log_level"] for each in logs] == ["warning", "info"]
    assert await scene.requests() == 3
    assert scene.recorder.use_of("m").requests == 3


async def test_a_question_sums_up_what_waits_too() -> None:
    scene = Scene()
    scene.recorder.request_ended(ended())
    await scene.books.flush()
    scene.recorder.request_ended(ended())
    assert await scene.requests() == 2
    assert await scene.requests() == 2
    assert [each.requests for each in scene.store.kept.values()] == [1]


async def test_it_is_tidied_each_hour() -> None:
    scene = Scene()
    await scene.store.add([row(HOUR - 90 * 24, completed=5)])
    await scene.books.flush()
    assert scene.recorder.use_of("m").requests == 5
    scene.now_ns += HOUR_NS
    await scene.books.flush()
    assert scene.recorder.use_of("m").requests == 0
    assert scene.store.kept == {}


async def test_the_last_of_it_is_kept_when_the_broker_stops() -> None:
    scene = Scene()
    scene.recorder.request_ended(ended())
    await scene.books.close()
    assert scene.store.is_closed
    assert [each.requests for each in scene.store.kept.values()] == [1]
    scene.recorder.request_ended(ended())
    await scene.books.flush()  # nothing comes after that
    assert [each.requests for each in scene.store.kept.values()] == [1]
