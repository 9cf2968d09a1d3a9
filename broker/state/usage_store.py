"""Keeps the use of models in a SQLite file: rows by hour, model and agent, within bounds.

All of it runs in one thread of its own (`store_thread.py`), one transaction for each call; what
was told to be kept is there after the process is killed. A power failure may take the last seconds
of it: use is no money, and a flush of the disk for each of them would wear it.

A file that is broken is set aside and begun anew. One that a later version of the broker has
written, or one that cannot be opened, is left as it is: use is then kept in memory, for as long as
the broker runs.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import structlog

from broker.core.usage import (
    DAY_H,
    OUTCOMES,
    Counts,
    ModelHour,
    ModelUse,
    UsageAnswer,
    UsageGroup,
    UsageKey,
    UsageNotKept,
    UsageQuery,
    UsageRow,
    UsageTidied,
)
from broker.state import usage_schema as sql
from broker.state.store_thread import StoreBusy, StoreThread

_log = structlog.get_logger(__name__)

R = TypeVar("R")

# Another broker with the same file is waited for so long.
BUSY_TIMEOUT_S: Final = 2.0

# Each time that it is tidied, which is each hour, the oldest days are dropped, no more than these:
# a clock that is years ahead until somebody sets it must not cost all that is kept.
DROPPED_H_MAX: Final = 2 * DAY_H

# When there are too many rows, so much more room is made that it need not be made each time.
ROOM_SHARE: Final = 0.1

# What has been written ahead is brought into the file itself beyond this.
WAL_BYTES_MAX: Final = 4 * 1024 * 1024

# Models whose use is told at once: those that were used most.
TOTALS_MAX: Final = 20_000

_BROKEN: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_IN_MEMORY: Final = ":memory:"


class _Newer(Exception):
    """The file is of a later version of the broker."""


def file_name(grpc_address: str) -> str:
    """Of the broker that listens there: two on one host do not share a file."""
    safe = "".join(each if each.isalnum() or each in ".-" else "_" for each in grpc_address)
    return f"usage-{safe}.sqlite"


class SqliteUsage:
    """A `UsageStore`. `keep_days` and `rows_max` are its bounds: see `_make_room`."""

    def __init__(self, file: Path, keep_days: int, rows_max: int) -> None:
        self._file = file
        self._keep_h = keep_days * DAY_H
        self._rows_max = rows_max
        self._was_set_aside = False
        self._database: sqlite3.Connection | None = None
        self._thread = StoreThread("usage-store")

    async def add(self, rows: Sequence[UsageRow]) -> int:
        """See the port."""
        return await self._call(lambda: self._add([_values(each) for each in rows]))

    async def tidy(self, now_hour: int) -> UsageTidied:
        """See the port."""
        return await self._call(lambda: self._tidy(now_hour))

    async def ask(self, query: UsageQuery, more: Sequence[UsageRow] = ()) -> UsageAnswer:
        """See the port."""
        return await self._call(lambda: self._ask(query, [_values(each) for each in more]))

    async def history(self, since_hour: int) -> tuple[ModelHour, ...]:
        """See the port."""
        return await self._call(lambda: self._history(since_hour))

    async def close(self) -> None:
        """See the port."""
        try:
            await self._call(self._close)
        finally:
            self._thread.close()

    async def _call(self, work: Callable[[], R]) -> R:
        try:
            return await self._thread.call(lambda: self._done(work))
        except StoreBusy as busy:
            raise UsageNotKept(str(busy)) from busy

    # In the thread, from here on

    def _done(self, work: Callable[[], R]) -> R:
        """One piece of work. A file that turns out to be broken is begun anew, once."""
        try:
            try:
                return work()
            except sqlite3.DatabaseError as error:
                if not _is_broken(error) or self._was_set_aside:
                    raise
                self._set_aside(error)
                return work()
        except sqlite3.Error as error:
            raise UsageNotKept(f"{self._file}: {error}") from error

    @property
    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            try:
                self._database = self._open(str(self._file))
            except _Newer as newer:
                self._warn("the file of use is of a later version of the broker", newer)
                self._database = self._open(_IN_MEMORY)
            except (OSError, sqlite3.Error) as error:
                if _is_broken(error) and not self._was_set_aside:
                    raise
                self._warn("the file of use cannot be opened", error)
                self._database = self._open(_IN_MEMORY)
        return self._database

    def _warn(self, what: str, why: Exception) -> None:
        instead = "use is kept in memory until the broker ends"
        _log.warning(f"{what}: {instead}", file=str(self._file), problem=str(why))

    def _open(self, name: str) -> sqlite3.Connection:
        if name != _IN_MEMORY:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Who did what is for this user's eyes; what SQLite writes beside it is as this is.
            os.close(os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        database = sqlite3.connect(name, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            for each in (
                "journal_mode = WAL",
                "synchronous = NORMAL",
                "temp_store = MEMORY",
                f"journal_size_limit = {WAL_BYTES_MAX}",
            ):
                database.execute(f"PRAGMA {each}").fetchall()
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise _corrupt(found)
            with _transaction(database):
                self._bring_up_to_date(database)
        except BaseException:
            database.close()
            raise
        return database

    def _bring_up_to_date(self, database: sqlite3.Connection) -> None:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > len(sql.STEPS):
            raise _Newer(f"version {version} is later than {len(sql.STEPS)}")
        for step in sql.STEPS[version:]:
            database.execute(step)
        database.execute(f"PRAGMA user_version = {len(sql.STEPS)}")
        database.execute(f"PRAGMA application_id = {sql.APPLICATION_ID}")

    def _set_aside(self, why: Exception) -> None:
        self._close()
        self._was_set_aside = True
        broken = self._file.with_suffix(".broken")
        _log.warning(
            "the file of use is broken: it is set aside, and use is counted from now on",
            file=str(self._file),
            set_aside=str(broken),
            problem=str(why),
        )
        for end in ("-wal", "-shm"):
            with suppress(OSError):
                self._file.with_name(self._file.name + end).unlink()
        with suppress(OSError):
            self._file.replace(broken)

    def _close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()

    def _add(self, values: Sequence[tuple[object, ...]]) -> int:
        database = self._opened
        with _transaction(database):
            database.executemany(sql.ADD, values)
        return _count(database)

    def _tidy(self, now_hour: int) -> UsageTidied:
        database = self._opened
        with _transaction(database):
            self._drop_old(database, now_hour - self._keep_h)
            self._make_room(database, now_hour - now_hour % DAY_H)
        totals = {
            model: ModelUse(*counts)
            for model, *counts in database.execute(sql.TOTALS, (TOTALS_MAX,))
        }
        return UsageTidied(rows=_count(database), totals=totals)

    def _drop_old(self, database: sqlite3.Connection, until_hour: int) -> None:
        """Not all that seems old at once: it may be the clock that is wrong."""
        (oldest,) = database.execute(sql.OLDEST).fetchone()
        if oldest is not None:
            database.execute(sql.DROP_OLD, (min(until_hour, oldest + DROPPED_H_MAX),))

    def _make_room(self, database: sqlite3.Connection, today: int) -> None:
        """Keeps to the bound on rows. The hours of the oldest day are summed up to one row a day
        for each model and agent, then those of the next; when all days are, the oldest are dropped.
        Where today alone is too much, its oldest hours no longer tell agents apart, and last they
        are dropped too."""

        def first(question: str, *values: int) -> int | None:
            (found,) = database.execute(question, values).fetchone()
            return int(found) if found is not None else None

        if _count(database) <= self._rows_max:
            return
        wanted = int(self._rows_max * (1 - ROOM_SHARE))
        while (
            _count(database) > wanted
        ):  # each turn leaves fewer rows, or fewer that are told apart
            if (hour := first(sql.OLDEST_HOUR, today)) is not None:
                day = {"day": hour - hour % DAY_H}
                database.execute(sql.SUM_UP_DAY, day)
                database.execute(sql.DROP_HOURS_OF_DAY, day)
            elif (hour := first(sql.OLDEST_DAY)) is not None:
                database.execute(sql.DROP_DAY, (hour,))
            elif (hour := first(sql.OLDEST_TOLD_APART)) is not None:
                database.execute(sql.SUM_UP_AGENTS, {"hour": hour})
                database.execute(sql.DROP_AGENTS, {"hour": hour})
            else:
                database.execute(sql.DROP_HOUR, (first(sql.OLDEST),))

    def _ask(self, query: UsageQuery, more: Sequence[tuple[object, ...]]) -> UsageAnswer:
        database = self._opened
        create, insert, drop = sql.MORE
        with _transaction(database, writes=False):
            database.execute(create)
            try:
                database.executemany(insert, more)
                found = database.execute(
                    sql.asked(query.group),
                    {
                        "since": query.since_hour,
                        "until": query.until_hour,
                        "model": query.model,
                        "agent": query.agent_id,
                        "rows": query.rows_max,
                    },
                ).fetchall()
            finally:
                database.execute(drop)
            (oldest,) = database.execute(sql.OLDEST).fetchone()
        oldest_more = min((int(str(each[0])) for each in more), default=None)
        known = [each for each in (oldest, oldest_more) if each is not None]
        rows = [_row(each) for each in found]
        if query.group is UsageGroup.HOUR:
            rows.sort(key=lambda row: row.key)
        return UsageAnswer(
            rows=tuple(rows),
            kept_since_hour=min(known, default=0),
            left_out=found[0][-1] - len(found) if found else 0,
        )

    def _history(self, since_hour: int) -> tuple[ModelHour, ...]:
        found = self._opened.execute(sql.HISTORY, (since_hour,))
        return tuple(ModelHour(*each) for each in found)


@contextmanager
def _transaction(database: sqlite3.Connection, *, writes: bool = True) -> Iterator[None]:
    """All of it, or nothing; of what others do meanwhile, nothing is seen."""
    database.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
    try:
        yield
    except BaseException:
        with suppress(sqlite3.Error):  # a failure may have ended it already
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _count(database: sqlite3.Connection) -> int:
    (count,) = database.execute(sql.COUNT).fetchone()
    return int(count)


def _corrupt(found: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(found)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _is_broken(error: Exception) -> bool:
    # The lower byte: what kind it is. Errors of the module itself have none.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN


def _values(row: UsageRow) -> tuple[object, ...]:
    key, counts = row
    return (
        *(key.hour, key.hours, _storable(key.model), _storable(key.agent_id)),
        *counts.outcomes,
        *(counts.prompt_tokens, counts.output_tokens, counts.loads),
        *(counts.busy_ns, counts.gpu_ns, counts.wait_ns),
        *(counts.wait_ns_max, counts.last_unix_ms),
    )


def _storable(name: str) -> str:
    """A backend may have named a model by what is no text."""
    return name if name.isascii() else name.encode(errors="replace").decode()


def _row(found: Sequence[object]) -> UsageRow:
    """Of the columns in the order of the schema, and the number of rows behind them."""
    hour, hours, model, agent_id = found[:4]
    outcomes = found[4 : 4 + len(OUTCOMES)]
    rest = found[4 + len(OUTCOMES) : -1]
    return UsageRow(
        UsageKey(hour, model, agent_id, hours),  # type: ignore[arg-type]  # as the schema has them
        Counts([*outcomes], *rest),  # type: ignore[arg-type, list-item]
    )
