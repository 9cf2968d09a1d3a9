"""The port of what keeps use: what every store promises, played on SQLite and on a dictionary."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.usage import (
    NO_AGENT,
    Counts,
    ModelHour,
    ModelUse,
    UsageGroup,
    UsageKey,
    UsageQuery,
    UsageRow,
    UsageStore,
)
from broker.state.usage_store import SqliteUsage
from tests.usage_rows import HOUR, MemoryUsage, row, summed

STORES = ("sqlite", "memory")
ALWAYS = UsageQuery(until_hour=HOUR * 2, group=UsageGroup.ALL, rows_max=1_000)


@asynccontextmanager
async def opened(kind: str, folder: Path, keep_days: int = 90) -> AsyncIterator[UsageStore]:
    """An empty one."""
    store: UsageStore = MemoryUsage(keep_days)
    if kind == "sqlite":
        store = SqliteUsage(folder / "usage.sqlite", keep_days, rows_max=10_000)
    try:
        yield store
    finally:
        await store.close()


def asked(group: UsageGroup, **other: object) -> UsageQuery:
    fields: dict[str, object] = {"until_hour": HOUR * 2, "group": group, **other}
    return UsageQuery(**fields)  # type: ignore[arg-type]  # as the tests below name them


ROWS = (
    row(HOUR, "big:8b", "opus-1", completed=3, output_tokens=30, wait_ns=5, wait_ns_max=4),
    row(HOUR, "big:8b", "opus-2", completed=1, refused=1, output_tokens=7, wait_ns_max=9),
    row(HOUR + 1, "big:8b", "opus-1", completed=2, output_tokens=2, last_unix_ms=77),
    row(HOUR + 1, "tiny:latest", "opus-1", completed=4, busy_ns=8, gpu_ns=6),
    row(HOUR + 1, "tiny:latest", NO_AGENT, completed=0, loads=2),
    row(HOUR + 2, "never:asked", NO_AGENT, completed=0, loads=1),
)


@pytest.mark.parametrize("kind", STORES)
async def test_rows_are_summed_by_what_is_asked(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        assert await store.add(ROWS) == len(ROWS)
        by_model = await store.ask(asked(UsageGroup.MODEL))
        assert [
            (key.model, key.agent_id, key.hour, each.requests, each.loads)
            for key, each in by_model.rows
        ] == [
            ("big:8b", "", 0, 7, 0),
            ("tiny:latest", "", 0, 4, 2),
            ("never:asked", "", 0, 0, 1),
        ]
        big = by_model.rows[0].counts
        assert (big.completed, big.output_tokens, big.wait_ns, big.wait_ns_max) == (6, 39, 5, 9)
        by_agent = await store.ask(asked(UsageGroup.AGENT))
        assert [(key.agent_id, each.requests) for key, each in by_agent.rows] == [
            ("opus-1", 9),
            ("opus-2", 2),
        ]
        by_hour = await store.ask(asked(UsageGroup.HOUR))
        assert [(key.hour, key.hours, each.requests) for key, each in by_hour.rows] == [
            (HOUR, 1, 5),
            (HOUR + 1, 1, 6),
            (HOUR + 2, 1, 0),
        ]
        assert by_hour.kept_since_hour == HOUR


@pytest.mark.parametrize("kind", STORES)
async def test_a_question_is_bounded_in_time_and_to_a_model_or_an_agent(
    kind: str, tmp_path: Path
) -> None:
    async with opened(kind, tmp_path) as store:
        await store.add(ROWS)
        later = await store.ask(asked(UsageGroup.MODEL, since_hour=HOUR + 1, until_hour=HOUR + 2))
        assert [(each.key.model, each.counts.requests) for each in later.rows] == [
            ("tiny:latest", 4),
            ("big:8b", 2),
        ]
        of_one = await store.ask(asked(UsageGroup.AGENT, model="big:8b", agent_id="opus-2"))
        assert [(each.key.agent_id, each.counts.requests) for each in of_one.rows] == [
            ("opus-2", 2)
        ]
        nothing = await store.ask(asked(UsageGroup.ALL, model="absent:latest"))
        assert (nothing.rows, nothing.left_out, nothing.kept_since_hour) == ((), 0, HOUR)


@pytest.mark.parametrize("kind", STORES)
async def test_of_too_many_rows_those_with_most_requests_are_told(
    kind: str, tmp_path: Path
) -> None:
    async with opened(kind, tmp_path) as store:
        await store.add(ROWS)
        first = await store.ask(asked(UsageGroup.MODEL, rows_max=1))
        assert ([each.key.model for each in first.rows], first.left_out) == (["big:8b"], 2)
        hours = await store.ask(asked(UsageGroup.HOUR, rows_max=2))
        assert ([each.key.hour for each in hours.rows], hours.left_out) == ([HOUR, HOUR + 1], 1)


@pytest.mark.parametrize("kind", STORES)
async def test_what_is_not_kept_yet_is_summed_with_the_rest(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        await store.add([row(HOUR, completed=2)])
        more = [row(HOUR, completed=3), row(HOUR - 5, agent="b-1", completed=1)]
        for _ in range(2):  # it is asked about, and not kept
            answer = await store.ask(asked(UsageGroup.MODEL), more)
            assert [each.counts.requests for each in answer.rows] == [6]
            assert answer.kept_since_hour == HOUR - 5
        assert [each.counts.requests for each in (await store.ask(ALWAYS)).rows] == [2]


@pytest.mark.parametrize("kind", STORES)
async def test_what_is_too_old_is_dropped_and_the_rest_is_totalled(
    kind: str, tmp_path: Path
) -> None:
    async with opened(kind, tmp_path, keep_days=1) as store:
        await store.add([row(HOUR - 25, completed=5), row(HOUR - 24, completed=2, last_unix_ms=7)])
        await store.add([row(HOUR, model="n:latest", completed=1, output_tokens=9, loads=3)])
        tidied = await store.tidy(HOUR)
        assert tidied.rows == 2
        assert tidied.totals == {
            "m:latest": ModelUse(requests=2, last_unix_ms=7),
            "n:latest": ModelUse(requests=1, output_tokens=9, loads=3),
        }


@pytest.mark.parametrize("kind", STORES)
async def test_history_tells_requests_by_model_and_hour(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        await store.add(ROWS)
        assert await store.history(HOUR + 1) == (
            ModelHour(HOUR + 1, "big:8b", 2),
            ModelHour(HOUR + 1, "tiny:latest", 4),
        )


@pytest.mark.parametrize("kind", STORES)
async def test_an_empty_one_answers(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        for group in UsageGroup:
            answer = await store.ask(asked(group))
            assert (answer.rows, answer.kept_since_hour, answer.left_out) == ((), 0, 0)
        assert (await store.tidy(HOUR)).totals == {}
        assert await store.history(0) == ()


ANY_COUNTS = st.builds(
    Counts,
    outcomes=st.lists(st.integers(0, 9), min_size=7, max_size=7),
    prompt_tokens=st.integers(0, 10**12),
    output_tokens=st.integers(0, 10**12),
    loads=st.integers(0, 3),
    busy_ns=st.integers(0, 10**15),
    gpu_ns=st.integers(0, 10**15),
    wait_ns=st.integers(0, 10**15),
    wait_ns_max=st.integers(0, 10**15),
    last_unix_ms=st.integers(0, 10**13),
)
ANY_ROWS = st.lists(
    st.builds(
        UsageRow,
        st.builds(
            UsageKey,
            st.integers(HOUR, HOUR + 3),
            st.sampled_from(["m:latest", "n:7b", "(unknown)"]),
            st.sampled_from(["a-1", "b-1", "(others)", NO_AGENT]),
            st.sampled_from([1, 24]),
        ),
        ANY_COUNTS,
    ),
    max_size=12,
)


@settings(max_examples=25)
@given(batches=st.lists(ANY_ROWS, max_size=4), more=ANY_ROWS, group=st.sampled_from(UsageGroup))
async def test_both_say_the_same(
    batches: list[list[UsageRow]], more: list[UsageRow], group: UsageGroup
) -> None:
    query = asked(group, since_hour=HOUR + 1, rows_max=5)
    with TemporaryDirectory() as folder:
        async with opened("sqlite", Path(folder)) as sqlite, opened("memory", Path()) as memory:
            for each in batches:
                assert await sqlite.add(each) == await memory.add(each)
            assert await sqlite.ask(query, more) == await memory.ask(query, more)
            assert await sqlite.history(0) == await memory.history(0)
            assert await sqlite.tidy(HOUR + 3) == await memory.tidy(HOUR + 3)
            kept = await sqlite.ask(ALWAYS)
            assert summed(kept.rows) == summed([each for batch in batches for each in batch])
