"""What the fleet's run came to: waits per priority, counts, loads. Pure but for the tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table

from broker_client import Status
from brokerctl.demo.fleet import Outcome
from brokerctl.demo.greedy import Greedy
from brokerctl.figures import counted, duration_text


@dataclass(frozen=True, slots=True, kw_only=True)
class PrioritySummary:
    """The requests of one priority. Waits are of those that were answered; None: there are none."""

    priority: int
    answered: int
    failed: int
    tokens: int
    wait_ms_p50: float | None
    wait_ms_max: float | None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summarize(outcomes: Sequence[Outcome]) -> list[PrioritySummary]:
    """One summary per priority, highest first."""
    summaries = []
    for priority in sorted({each.plan.priority for each in outcomes}):
        of_it = [each for each in outcomes if each.plan.priority == priority]
        waits = [each.wait_ms for each in of_it if not each.error]
        summaries.append(
            PrioritySummary(
                priority=priority,
                answered=len(waits),
                failed=len(of_it) - len(waits),
                tokens=sum(each.tokens for each in of_it),
                wait_ms_p50=percentile(waits, 0.5) if waits else None,
                wait_ms_max=max(waits) if waits else None,
            )
        )
    return summaries


def summary_view(
    outcomes: Sequence[Outcome], status: Status, *, elapsed_ms: float
) -> RenderableType:
    """The summary for people."""
    table = Table("priority", "answered", "failed", "tokens", "median wait", "longest wait")
    for each in summarize(outcomes):
        table.add_row(
            str(each.priority),
            str(each.answered),
            str(each.failed),
            str(each.tokens),
            "" if each.wait_ms_p50 is None else duration_text(each.wait_ms_p50),
            "" if each.wait_ms_max is None else duration_text(each.wait_ms_max),
        )
    return Group("Summary", table, totals_line(outcomes, status, elapsed_ms=elapsed_ms))


def totals_line(outcomes: Sequence[Outcome], status: Status, *, elapsed_ms: float) -> str:
    """All of it in one line."""
    failed = sum(1 for each in outcomes if each.error)
    loads = sum(each.loads for each in status.backends)
    tokens = sum(each.tokens for each in outcomes)
    agents = len({each.plan.agent_id for each in outcomes})
    return (
        f"{counted(len(outcomes) - failed, 'request')} of {agents} agents answered, {failed} "
        f"failed; {tokens} tokens in {duration_text(elapsed_ms)}; "
        f"{counted(loads, 'model load')}"
    )


def greedy_line(greedy: Greedy, outcomes: Sequence[Outcome]) -> str:
    """What greed came to, and that it was not at the cost of the others."""
    waits = [each.wait_ms for each in outcomes if not each.error]
    text = greedy.entry_text()
    if not (greedy.waits_ms and waits):
        return text
    its, theirs = (duration_text(percentile(each, 0.5)) for each in (greedy.waits_ms, waits))
    return f"{text}; its median wait was {its}, that of the twelve {theirs}"
