"""What a simulation came to, as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from broker.sim.report import Group as Requests
from broker.sim.report import Report
from brokerctl.figures import counted, duration_text, share_text
from brokerctl.fitting_table import Column, FittingTable


def simulation_view(reports: Sequence[Report]) -> RenderableType:
    """One report, or two with what differs first."""
    parts: list[RenderableType] = []
    if len(reports) > 1:
        parts += [_compared(reports), Text()]
    for report in reports:
        parts += [*_one(report), Text()]
    return Group(*parts[:-1])


def _one(report: Report) -> Iterator[RenderableType]:
    yield Text(report.name, style="bold")
    yield Text(
        f"{counted(report.all.requests, 'request')} in {duration_text(report.span_s * 1000)}, "
        f"seed {report.seed}; {counted(report.loads, 'load')}"
        + (f", {report.loads_failed} failed" if report.loads_failed else "")
        + (f"; time stretched by {report.stretched_by:.3g}" if report.stretched_by != 1 else "")
    )
    for each in report.assumed:
        yield Text(f"assumed: {each}", style="dim")
    yield Text()
    yield _requests(report)
    yield Text()
    yield _backends(report)


def _requests(report: Report) -> FittingTable:
    table = FittingTable(
        Column(name=""),
        Column(name="requests", is_number=True),
        Column(name="in time", is_number=True),
        Column(name="gave up", rank=1, is_number=True),
        Column(name="refused", rank=2, is_number=True),
        Column(name="failed", rank=2, is_number=True),
        Column(name="wait p50", is_number=True),
        Column(name="p90", is_number=True),
        Column(name="p99", is_number=True),
        Column(name="first token p50", rank=3, is_number=True),
        Column(name="service p50", rank=4, is_number=True),
    )
    groups = [("all", report.all)]
    for word, found in (
        ("priority ", report.by_priority),
        ("", report.by_model),
        ("agents ", report.by_agents),
    ):
        if len(found) > 1:
            groups += [(f"{word}{each.name}", each) for each in found]
    for name, group in groups:
        table.add(name, *_cells(group))
    return table


def _cells(group: Requests) -> Iterator[str]:
    yield str(group.requests)
    yield _in_time(group)
    for count in (group.gave_up, group.refused, group.failed):
        yield str(count) if count else ""
    yield from (_time(each) for each in (group.wait.p50_s, group.wait.p90_s, group.wait.p99_s))
    yield _time(group.first_token.p50_s)
    yield _time(group.service.p50_s)


def _backends(report: Report) -> FittingTable:
    table = FittingTable(
        Column(name="backend"),
        Column(name="models x slots", is_number=True),
        Column(name="loads", is_number=True),
        Column(name="time loading", is_number=True),
        Column(name="slots busy", is_number=True),
    )
    for each in report.backends:
        table.add(
            each.name,
            f"{each.residents} x {each.slots}",
            str(each.loads),
            share_text(each.loading_share),
            share_text(each.busy_share),
        )
    return table


def _compared(reports: Sequence[Report]) -> FittingTable:
    table = FittingTable(
        Column(name=""), *(Column(name=each.name, is_number=True) for each in reports)
    )
    table.add("requests", *(str(each.all.requests) for each in reports))
    table.add("in time", *(_in_time(each.all) for each in reports))
    for word in ("p50", "p90", "p99"):
        waits = (getattr(each.all.wait, f"{word}_s") for each in reports)
        table.add(f"wait {word}", *(_time(each) for each in waits))
    table.add("loads", *(str(each.loads) for each in reports))
    for priority in sorted({int(x.name) for each in reports for x in each.by_priority}):
        of_it = [
            next((x for x in each.by_priority if x.name == str(priority)), None) for each in reports
        ]
        cells = (_time(each.wait.p90_s) if each is not None else "" for each in of_it)
        table.add(f"priority {priority}, wait p90", *cells)
    return table


def _in_time(group: Requests) -> str:
    """With a decimal: of thousands of requests one in two hundred is many."""
    return f"{group.in_time / group.requests * 100:.1f} %" if group.requests else ""


def _time(time_s: float | None) -> str:
    return "" if time_s is None else duration_text(time_s * 1000)
