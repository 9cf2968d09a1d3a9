"""The file of use: its bounds, and what becomes of one that cannot be used."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from stat import S_IMODE

import pytest
from structlog.testing import capture_logs

from broker.core.usage import DAY_H, NO_AGENT, OTHERS, UsageGroup, UsageNotKept, UsageQuery
from broker.state.usage_store import SqliteUsage, file_name
from tests.usage_rows import DAY, HOUR, row, summed

NOW = DAY + 20
ALL = UsageQuery(until_hour=HOUR * 2, group=UsageGroup.ALL, rows_max=1_000)


@asynccontextmanager
async def opened(file: Path, rows_max: int = 1_000) -> AsyncIterator[SqliteUsage]:
    store = SqliteUsage(file, keep_days=90, rows_max=rows_max)
    try:
        yield store
    finally:
        await store.close()


async def kept(store: SqliteUsage) -> list[tuple[int, int, str, str, int]]:
    """Hour from today's first, hours, model, agent, requests; in that order."""
    rows = (await store.ask(ALL)).rows
    return sorted(
        (key.hour - DAY, key.hours, key.model, key.agent_id, each.requests) for key, each in rows
    )


async def test_what_was_added_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    file = tmp_path / "below" / "usage.sqlite"
    async with opened(file) as store:
        assert await store.add([row(completed=2)]) == 1
    async with opened(file) as store:
        assert await store.add([row(completed=3)]) == 1
        assert summed((await store.ask(ALL)).rows).requests == 5


def modes(folder: Path) -> dict[str, int]:
    return {each.name: S_IMODE(each.stat().st_mode) for each in folder.iterdir()}


async def test_it_is_for_its_own_users_eyes(tmp_path: Path) -> None:
    async with opened(tmp_path / "u.sqlite") as store:
        await store.add([row(completed=1)])
        assert modes(tmp_path) == dict.fromkeys(("u.sqlite", "u.sqlite-wal", "u.sqlite-shm"), 0o600)


async def test_two_brokers_may_share_a_file(tmp_path: Path) -> None:
    file = tmp_path / "usage.sqlite"
    async with opened(file) as one, opened(file) as other:
        for _ in range(3):
            await one.add([row(completed=1)])
            await other.add([row(completed=2)])
        assert [each[-1] for each in await kept(one)] == [9]


def test_a_file_is_named_after_where_its_broker_listens() -> None:
    assert file_name("127.0.0.1:50434") == "usage-127.0.0.1_50434.sqlite"
    assert file_name("[::1]:7") == "usage-___1__7.sqlite"


@pytest.mark.parametrize("content", [b"no database at all " * 300, b""])
async def test_a_broken_file_is_set_aside_and_begun_anew(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "usage.sqlite"
    file.write_bytes(content)
    with capture_logs() as logs:
        async with opened(file) as store:
            await store.add([row(completed=2)])
            assert [each[-1] for each in await kept(store)] == [2]
    broken = file.with_suffix(".broken")
    if not content:  # an empty file is a new one
        assert not logs
        return
    assert broken.read_bytes() == content
    assert [each["event"] for each in logs] == [
        "the file of use is broken: it is set aside, and use is counted from now on"
    ]


async def test_a_file_that_breaks_while_it_is_used_is_set_aside_too(tmp_path: Path) -> None:
    file = tmp_path / "usage.sqlite"
    async with opened(file) as store:
        await store.add([row(agent=f"a-{each}") for each in range(500)])
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)  # all but the first page
    file.write_bytes(bytes(content))
    with capture_logs() as logs:
        async with opened(file) as store:
            await store.add([row(completed=4)])
            assert [each[-1] for each in await kept(store)] == [4]
    assert len(logs) == 1
    assert file.with_suffix(".broken").exists()


async def test_a_file_of_a_later_version_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "usage.sqlite"
    database = sqlite3.connect(file)
    database.execute("PRAGMA user_version = 1000")
    database.execute("CREATE TABLE theirs (it)")
    database.close()
    with capture_logs() as logs:
        async with opened(file) as store:
            await store.add([row(completed=2)])
            assert [each[-1] for each in await kept(store)] == [2]
    assert len(logs) == 1
    assert "use is kept in memory until the broker ends" in logs[0]["event"]
    database = sqlite3.connect(file)
    assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    database.close()


async def test_where_no_file_can_be_use_is_kept_in_memory(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder is to be")
    with capture_logs() as logs:
        async with opened(tmp_path / "taken" / "usage.sqlite") as store:
            await store.add([row(completed=2)])
            await store.add([row(completed=1)])
            assert [each[-1] for each in await kept(store)] == [3]
    assert len(logs) == 1
    assert "cannot be opened" in logs[0]["event"]


async def test_a_full_disk_changes_nothing_and_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def connect_small(*args: object, **others: object) -> sqlite3.Connection:
        database = connect(*args, **others)  # type: ignore[call-overload]
        assert isinstance(database, sqlite3.Connection)
        database.execute("PRAGMA max_page_count = 8")
        return database

    monkeypatch.setattr(sqlite3, "connect", connect_small)
    async with opened(tmp_path / "usage.sqlite") as store:
        await store.add([row(completed=2)])
        with pytest.raises(UsageNotKept, match="disk is full"):
            await store.add([row(agent=f"a-{each}") for each in range(5_000)])
        assert [each[-1] for each in await kept(store)] == [2]
        await store.add([row(completed=1)])
        assert [each[-1] for each in await kept(store)] == [3]


async def test_names_that_are_no_text_are_kept_as_some(tmp_path: Path) -> None:
    async with opened(tmp_path / "usage.sqlite") as store:
        await store.add([row(model="m\udcff:latest"), row(model="größe:1b")])
        assert {each[2] for each in await kept(store)} == {"m?:latest", "größe:1b"}


# The bound on rows


async def test_a_clock_that_is_years_ahead_costs_days_and_not_all(tmp_path: Path) -> None:
    async with opened(tmp_path / "usage.sqlite") as store:
        days = range(-10, 0)
        await store.add([row(completed=1, hour=DAY + each * DAY_H) for each in days])
        ahead = NOW + 10 * 366 * DAY_H
        assert (await store.tidy(ahead)).rows == 8
        assert (await store.tidy(NOW)).rows == 8
        assert [(await store.tidy(ahead)).rows for _ in range(5)] == [6, 4, 2, 0, 0]


async def test_the_oldest_days_are_summed_up_first(tmp_path: Path) -> None:
    rows = [row(DAY - 24 * day + hour) for day in range(3) for hour in range(8)]
    async with opened(tmp_path / "usage.sqlite", rows_max=20) as store:
        assert await store.add(rows) == 24
        assert (await store.tidy(NOW)).rows == 17
        assert await kept(store) == [
            (-48, DAY_H, "m:latest", "a-1", 8),
            *((-24 + hour, 1, "m:latest", "a-1", 1) for hour in range(8)),
            *((hour, 1, "m:latest", "a-1", 1) for hour in range(8)),
        ]


async def test_what_comes_late_for_a_day_that_was_summed_up_is_added_to_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "usage.sqlite", rows_max=20) as store:
        await store.add([row(DAY - 24 + hour) for hour in range(22)])
        await store.tidy(NOW)
        late = [row(DAY - 20 + hour, completed=5) for hour in range(3)]
        await store.add([*late, *(row(DAY + hour) for hour in range(17))])
        await store.tidy(NOW)
        assert (await kept(store))[0] == (-24, DAY_H, "m:latest", "a-1", 22 + 15)


async def test_then_the_oldest_days_are_dropped(tmp_path: Path) -> None:
    rows = [row(DAY - 24 * day, agent=f"a-{agent}") for day in range(1, 5) for agent in range(4)]
    async with opened(tmp_path / "usage.sqlite", rows_max=10) as store:
        await store.add(rows)
        await store.tidy(NOW)
        assert [each[0] for each in await kept(store)] == [-48] * 4 + [-24] * 4


async def test_then_the_oldest_hours_of_today_no_longer_tell_agents_apart(tmp_path: Path) -> None:
    rows = [row(DAY + hour, agent=f"a-{agent}") for hour in range(3) for agent in range(4)]
    loads = [row(DAY, agent=NO_AGENT, completed=0, loads=1)]
    async with opened(tmp_path / "usage.sqlite", rows_max=10) as store:
        await store.add([*rows, *loads])
        await store.tidy(NOW)
        assert await kept(store) == [
            (0, 1, "m:latest", NO_AGENT, 0),
            (0, 1, "m:latest", OTHERS, 4),
            (1, 1, "m:latest", OTHERS, 4),
            *((2, 1, "m:latest", f"a-{agent}", 1) for agent in range(4)),
        ]


async def test_and_last_the_oldest_hours_are_dropped(tmp_path: Path) -> None:
    rows = [row(DAY + hour, model=f"m:{model}b") for hour in range(5) for model in range(5)]
    async with opened(tmp_path / "usage.sqlite", rows_max=12) as store:
        await store.add(rows)
        await store.tidy(NOW)
        assert {each[0] for each in await kept(store)} == {3, 4}


async def test_summing_up_loses_nothing(tmp_path: Path) -> None:
    rows = [
        row(DAY - hour, agent=f"a-{hour % 7}", completed=hour, wait_ns_max=hour, last_unix_ms=hour)
        for hour in range(1, 200)
    ]
    async with opened(tmp_path / "usage.sqlite", rows_max=70) as store:
        await store.add(rows)
        assert (await store.tidy(NOW)).rows <= 70
        assert summed((await store.ask(ALL)).rows) == summed(rows)
