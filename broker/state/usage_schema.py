"""The tables and statements of the file of use. Rows of one key are added to, never replaced."""

from __future__ import annotations

from typing import Final

from broker.core.usage import DAY_H, NO_AGENT, OTHERS, OUTCOMES, UsageGroup

# What SQLite shows of a file of ours to `file` and to whoever opens it: "BRKU".
APPLICATION_ID: Final = 0x42524B55

_OUTCOMES: Final = tuple(each.value for each in OUTCOMES)
# What is added up where rows meet, and of what the largest is kept.
SUMMED: Final = (
    *_OUTCOMES,
    *("prompt_tokens", "output_tokens", "loads", "busy_ns", "gpu_ns", "wait_ns"),
)
LARGEST: Final = ("wait_ns_max", "last_unix_ms")
COUNTED: Final = (*SUMMED, *LARGEST)
KEY: Final = ("hour", "hours", "model", "agent_id")

_COLUMNS: Final = (
    *(f"{each} INTEGER NOT NULL" for each in KEY[:2]),
    *(f"{each} TEXT NOT NULL" for each in KEY[2:]),
    *(f"{each} INTEGER NOT NULL" for each in COUNTED),
)

# Each makes the next version of the file out of the one before; the first out of an empty file. A
# file is of the version that is the number of steps that were taken.
STEPS: Final = (
    f"CREATE TABLE used ({', '.join(_COLUMNS)}, PRIMARY KEY ({', '.join(KEY)})) WITHOUT ROWID",
)

_MEETING: Final = ", ".join(
    (
        *(f"{each} = {each} + excluded.{each}" for each in SUMMED),
        *(f"{each} = MAX({each}, excluded.{each})" for each in LARGEST),
    )
)
_INTO: Final = f"INSERT INTO used ({', '.join((*KEY, *COUNTED))})"
_ON_CONFLICT: Final = f"ON CONFLICT ({', '.join(KEY)}) DO UPDATE SET {_MEETING}"
_SUMS: Final = ", ".join(
    (
        *(f"SUM({each}) AS {each}" for each in SUMMED),
        *(f"MAX({each}) AS {each}" for each in LARGEST),
    )
)
_REQUESTS: Final = " + ".join(_OUTCOMES)

ADD: Final = f"{_INTO} VALUES ({', '.join('?' * len((*KEY, *COUNTED)))}) {_ON_CONFLICT}"

COUNT: Final = "SELECT COUNT(*) FROM used"

TOTALS: Final = f"""
    SELECT model, SUM({_REQUESTS}) AS requests, SUM(output_tokens), SUM(loads), MAX(last_unix_ms)
    FROM used GROUP BY model ORDER BY requests DESC, model LIMIT ?
"""

HISTORY: Final = f"""
    SELECT hour, model, SUM({_REQUESTS}) AS requests
    FROM used WHERE hour >= ? AND hours = 1
    GROUP BY hour, model HAVING requests > 0 ORDER BY hour, model
"""

# The bounds: what is too old, then the oldest days summed up, then dropped, then today.
DROP_OLD: Final = "DELETE FROM used WHERE hour + hours <= ?"
OLDEST_HOUR: Final = "SELECT MIN(hour) FROM used WHERE hours = 1 AND hour < ?"
_SUM_UP: Final = (
    f"{_INTO} SELECT {{key}}, {_SUMS} FROM used WHERE {{which}} GROUP BY {{by}} {_ON_CONFLICT}"
)
SUM_UP_DAY: Final = _SUM_UP.format(
    key=f":day, {DAY_H}, model, agent_id",
    which=f"hours = 1 AND hour >= :day AND hour < :day + {DAY_H}",
    by="model, agent_id",
)
DROP_HOURS_OF_DAY: Final = (
    f"DELETE FROM used WHERE hours = 1 AND hour >= :day AND hour < :day + {DAY_H}"
)
OLDEST_DAY: Final = f"SELECT MIN(hour) FROM used WHERE hours = {DAY_H}"
DROP_DAY: Final = f"DELETE FROM used WHERE hours = {DAY_H} AND hour = ?"
OLDEST_TOLD_APART: Final = (
    f"SELECT MIN(hour) FROM used WHERE agent_id NOT IN ('{OTHERS}', '{NO_AGENT}')"
)
SUM_UP_AGENTS: Final = _SUM_UP.format(
    key=f"hour, hours, model, '{OTHERS}'",
    which=f"hour = :hour AND agent_id NOT IN ('{OTHERS}', '{NO_AGENT}')",
    by="hour, hours, model",
)
DROP_AGENTS: Final = (
    f"DELETE FROM used WHERE hour = :hour AND agent_id NOT IN ('{OTHERS}', '{NO_AGENT}')"
)
OLDEST: Final = "SELECT MIN(hour) FROM used"
DROP_HOUR: Final = "DELETE FROM used WHERE hour = ?"

# Rows that are asked about beside those that are kept: in memory, of this connection alone.
MORE: Final = (
    f"CREATE TEMP TABLE more ({', '.join(_COLUMNS)})",
    f"INSERT INTO more VALUES ({', '.join('?' * len((*KEY, *COUNTED)))})",
    "DROP TABLE more",
)

_SHOWN: Final = {
    UsageGroup.MODEL: ("0", "1", "model", "''"),
    UsageGroup.AGENT: ("0", "1", "''", "agent_id"),
    UsageGroup.HOUR: ("hour", "hours", "''", "''"),
    UsageGroup.ALL: KEY,
}
_GROUPED: Final = {
    UsageGroup.MODEL: "model",
    UsageGroup.AGENT: "agent_id",
    UsageGroup.HOUR: "hour, hours",
    UsageGroup.ALL: ", ".join(KEY),
}


def asked(group: UsageGroup) -> str:
    """The question, with the columns of the key, those that are counted, and of how many rows these
    are the ones with most requests."""
    shown = ", ".join(f"{of} AS {name}" for of, name in zip(_SHOWN[group], KEY, strict=True))
    # Loads belong to no agent.
    having = "" if group is not UsageGroup.AGENT else f"HAVING agent_id <> '{NO_AGENT}'"
    return f"""
        SELECT {shown}, {_SUMS}, COUNT(*) OVER () AS found
        FROM (SELECT * FROM used UNION ALL SELECT * FROM more)
        WHERE hour > :since - {DAY_H} AND hour + hours > :since AND hour < :until
            AND (:model = '' OR model = :model) AND (:agent = '' OR agent_id = :agent)
        GROUP BY {_GROUPED[group]} {having}
        ORDER BY SUM({_REQUESTS}) DESC, 1, 2, 3, 4 LIMIT :rows
    """
