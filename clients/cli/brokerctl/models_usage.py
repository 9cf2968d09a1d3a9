"""`brokerctl models usage`: who used which models, when, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import click
from rich.text import Text

from broker_client import ModelUsage, UsageReport
from brokerctl.call import Call, asking, print_json
from brokerctl.duration import Duration
from brokerctl.figures import counted, duration_text, share_text
from brokerctl.fitting_table import Column, FittingTable

KEPT_DAYS_MAX: Final = 3_650
BAR_WIDTH: Final = 12
# A cell of a bar, filled from the left in eighths.
EIGHTHS: Final = "▏▎▍▌▋▊▉█"
DAY_H: Final = 24

NOTHING_KEPT: Final = (
    "no use is kept: nothing was asked of a model yet, or [usage] enabled is false"
)

_FIRST_COLUMNS: Final[Mapping[str, tuple[Column, ...]]] = {
    "model": (Column(name="model"),),
    "agent": (Column(name="agent"),),
    "hour": (Column(name="hour"),),
    "all": (Column(name="hour"), Column(name="model"), Column(name="agent")),
}


@click.command("usage")
@click.option(
    "--by",
    type=click.Choice(list(_FIRST_COLUMNS)),
    default="model",
    show_default=True,
    help="What is summed up in a row.",
)
@click.option(
    "--since",
    type=Duration(days_max=KEPT_DAYS_MAX),
    help="Only the last of it: 24h, 7d.  [default: all that is kept]",
)
@click.option("--model", default="", metavar="NAME", help="Only of this model.")
@click.option("--agent", default="", metavar="ID", help="Only of this agent.")
@click.option(
    "--rows",
    type=click.IntRange(1, 1_000),
    default=100,
    show_default=True,
    help="Rows at most: those with most requests.",
)
@asking
def usage(call: Call, by: str, since: float | None, model: str, agent: str, rows: int) -> None:
    """Show who used which models, how much, and how long it waited."""
    since_unix_s = None if since is None else max(0.0, time.time() - since)
    with call.client() as client:
        found = client.usage(
            by=by, since_unix_s=since_unix_s, model=model, agent_id=agent, rows_max=rows
        )
    if call.as_json:
        print_json(found)
        return
    for line in head_lines(found):
        click.echo(line)
    if found.rows:
        console = call.console()
        console.print(usage_table(found, by, ascii_only=not _shows_bars(console.encoding)))
    if found.left_out:
        click.echo(f"({counted(found.left_out, 'row')} with fewer requests: see --rows)")


def head_lines(report: UsageReport) -> list[str]:
    """What stands above the table, or in its place."""
    if report.kept_since_unix_s is None:
        return [NOTHING_KEPT]
    since = datetime.fromtimestamp(report.kept_since_unix_s).astimezone()
    kept = f"kept since {since:%Y-%m-%d %H:%M}"
    return [f"use is {kept}" if report.rows else f"nothing was used in that; use is {kept}"]


def usage_table(report: UsageReport, by: str, *, ascii_only: bool = False) -> FittingTable:
    """One row per row."""
    table = FittingTable(
        *_FIRST_COLUMNS[by],
        Column(name="requests", is_number=True),
        Column(name="of the most", rank=1),
        Column(name="completed", is_number=True, rank=4),
        Column(name="tokens out", is_number=True),
        Column(name="tokens in", is_number=True, rank=5),
        Column(name="loads", is_number=True, rank=2),
        Column(name="busy", is_number=True),
        Column(name="GPU", is_number=True, rank=3),
        Column(name="mean wait", is_number=True, rank=2),
        Column(name="longest", is_number=True, rank=6),
    )
    most = max((each.requests for each in report.rows), default=0)
    for each in report.rows:
        table.add(
            *(_NAMES[column.name](each) for column in _FIRST_COLUMNS[by]),
            f"{each.requests:,}",
            bar_text(each.requests, most, ascii_only=ascii_only),
            share_text(each.completed / each.requests) if each.requests else "",
            f"{each.output_tokens:,}",
            f"{each.prompt_tokens:,}",
            f"{each.loads:,}" if each.loads else "",
            duration_text(each.busy_s * 1000),
            share_text(each.gpu_s / each.busy_s) if each.busy_s else "",
            duration_text(each.queue_wait_s * 1000 / each.requests) if each.requests else "",
            duration_text(each.queue_wait_ms_max) if each.requests else "",
        )
    return table


def hour_text(row: ModelUsage) -> str:
    """The hour by the clock of this machine; of a whole day the date, which is that of UTC."""
    if row.hours >= DAY_H:
        return f"{datetime.fromtimestamp(row.hour_unix_s, UTC):%Y-%m-%d} UTC"
    return f"{datetime.fromtimestamp(row.hour_unix_s).astimezone():%Y-%m-%d %H:%M}"


_NAMES: Final = {
    "model": lambda row: row.model,
    "agent": lambda row: row.agent_id or "(the broker)",
    "hour": hour_text,
}


def bar_text(count: int, most: int, *, ascii_only: bool = False) -> Text:
    """As long as `count` is of `most`; something where it is anything at all."""
    if not count:
        return Text()
    if ascii_only:
        return Text("#" * max(1, round(BAR_WIDTH * count / most)))
    eighths = max(1, round(BAR_WIDTH * len(EIGHTHS) * count / most))
    whole, rest = divmod(eighths, len(EIGHTHS))
    return Text(EIGHTHS[-1] * whole + (EIGHTHS[rest - 1] if rest else ""))


def _shows_bars(encoding: str) -> bool:
    try:
        EIGHTHS.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True
