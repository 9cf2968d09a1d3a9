"""Rows of use, and a store that keeps them in a dictionary, with which real ones are compared."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from broker.core.requests import Outcome
from broker.core.usage import (
    DAY_H,
    NO_AGENT,
    OUTCOME_INDEX,
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

HOUR = 490_000  # in November 2025
DAY = HOUR - HOUR % DAY_H


def counts(completed: int = 1, refused: int = 0, **other: int) -> Counts:
    """So many requests, and whatever else is said."""
    made = Counts()
    for name, value in other.items():
        setattr(made, name, value)
    made.outcomes[OUTCOME_INDEX[Outcome.COMPLETED]] = completed
    made.outcomes[OUTCOME_INDEX[Outcome.REFUSED]] = refused
    return made


def row(hour: int = HOUR, model: str = "m:latest", agent: str = "a-1", **other: int) -> UsageRow:
    return UsageRow(UsageKey(hour, model, agent), counts(**other))


def summed(rows: Sequence[UsageRow]) -> Counts:
    """All of them as one."""
    whole = Counts()
    for each in rows:
        whole.add(each.counts)
    return whole


_KEYS: dict[UsageGroup, Callable[[UsageKey], UsageKey]] = {
    UsageGroup.MODEL: lambda key: UsageKey(0, key.model, ""),
    UsageGroup.AGENT: lambda key: UsageKey(0, "", key.agent_id),
    UsageGroup.HOUR: lambda key: UsageKey(key.hour, "", "", key.hours),
    UsageGroup.ALL: lambda key: key,
}


class MemoryUsage:
    """A `UsageStore`. It bounds days only. `problem`: why it cannot do anything now."""

    def __init__(self, keep_days: int = 90) -> None:
        self._keep_h = keep_days * DAY_H
        self.kept: dict[UsageKey, Counts] = {}
        self.problem = ""
        self.is_closed = False

    def _check(self) -> None:
        if self.problem:
            raise UsageNotKept(self.problem)

    async def add(self, rows: Sequence[UsageRow]) -> int:
        self._check()
        for key, each in rows:
            self.kept.setdefault(key, Counts()).add(each)
        return len(self.kept)

    async def tidy(self, now_hour: int) -> UsageTidied:
        self._check()
        first = min((each.hour for each in self.kept), default=0)
        oldest = min(now_hour - self._keep_h, first + 2 * DAY_H)
        for key in [each for each in self.kept if each.hour + each.hours <= oldest]:
            del self.kept[key]
        totals: dict[str, ModelUse] = {}
        for key, each in self.kept.items():
            use = totals.setdefault(key.model, ModelUse())
            use.requests += each.requests
            use.output_tokens += each.output_tokens
            use.loads += each.loads
            use.last_unix_ms = max(use.last_unix_ms, each.last_unix_ms)
        return UsageTidied(rows=len(self.kept), totals=totals)

    async def ask(self, query: UsageQuery, more: Sequence[UsageRow] = ()) -> UsageAnswer:
        self._check()
        rows = [*(UsageRow(*each) for each in self.kept.items()), *more]
        found: dict[UsageKey, Counts] = {}
        for key, each in rows:
            overlaps = key.hour + key.hours > query.since_hour and key.hour < query.until_hour
            is_meant = query.model in ("", key.model) and query.agent_id in ("", key.agent_id)
            if overlaps and is_meant:
                found.setdefault(_KEYS[query.group](key), Counts()).add(each)
        if query.group is UsageGroup.AGENT:
            found = {key: each for key, each in found.items() if key.agent_id != NO_AGENT}
        most = sorted(found, key=lambda key: (-found[key].requests, _in_order(key)))
        chosen = most[: query.rows_max]
        if query.group is UsageGroup.HOUR:
            chosen.sort(key=_in_order)
        return UsageAnswer(
            rows=tuple(UsageRow(key, found[key]) for key in chosen),
            kept_since_hour=min((key.hour for key, _ in rows), default=0),
            left_out=len(most) - len(chosen),
        )

    async def history(self, since_hour: int) -> tuple[ModelHour, ...]:
        self._check()
        found: dict[tuple[int, str], int] = {}
        for key, each in self.kept.items():
            if key.hour >= since_hour and key.hours == 1 and each.requests:
                at = key.hour, key.model
                found[at] = found.get(at, 0) + each.requests
        return tuple(ModelHour(*at, found[at]) for at in sorted(found))

    async def close(self) -> None:
        self.is_closed = True


def _in_order(key: UsageKey) -> tuple[Hashable, ...]:
    return key.hour, key.hours, key.model, key.agent_id
