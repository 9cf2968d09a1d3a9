"""The report of one or two played workloads as a page of its own: tables and pictures in one file.

Rules: nothing is fetched, nothing runs; colours follow what the reader's system prefers. The same
worlds give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from broker.sim.report import Group, Report, Spread, wait_ns
from broker.sim.sessions import SECOND_NS
from broker.sim.simulation import Played
from broker.sim.simulation_pictures import COLOURS, HATCH, Curve, colours_of, gantt, legend, waits

# Told apart by people who see colours otherwise as well (Okabe and Ito, and Tol).
_COLOURS: Final = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9"),
    *("#d55e00", "#b8a800", "#8172b3", "#937860", "#7f7f7f"),
)
_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c2733;--pale:#d5dbe1;--soft:#5b6875;--paper:#fff;
--hatch:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9ee;--pale:#39434d;--soft:#9aa7b4;--paper:#14191f;
--hatch:#14191f}}
body{margin:0 auto;max-width:64rem;padding:1.5rem;background:var(--paper);color:var(--ink);
font:15px/1.45 system-ui,sans-serif}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.2rem}h3{font-size:1rem;margin:1.4rem 0 .3rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}
th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid var(--pale);white-space:nowrap}
th:first-child,td:first-child{text-align:left}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:12px}
.grid{stroke:var(--pale)}.axis{stroke:var(--soft)}
.curve{fill:none;stroke-width:2}.hatch{fill:var(--hatch)}
rect.load{fill:url(#hatch)}
.legend{margin:.3rem 0;color:var(--soft)}.key{margin-right:1.1rem;white-space:nowrap}
.key i{display:inline-block;width:.8rem;height:.8rem;margin-right:.35rem;vertical-align:-1px}
i.load{background:repeating-linear-gradient(45deg,var(--soft) 0 2px,transparent 2px 5px)}
small,.soft{color:var(--soft)}
""" + "\n".join(
    f"rect.c{n}{{fill:{colour}}}i.c{n}{{background:{colour}}}.curve.c{n}{{stroke:{colour}}}"
    for n, colour in enumerate(_COLOURS)
)


def page_of(sides: Sequence[tuple[Report, Played]]) -> str:
    """The page. Two sides are compared first, then each has a part of its own."""
    title = " and ".join(report.name for report, _ in sides)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        HATCH,
        f"<h1>{escape(title)}</h1>",
    ]
    if len(sides) > 1:
        parts += _compared(sides)
    for report, played in sides:
        parts += _side(report, played)
    return "\n".join([*parts, "</body></html>", ""])


def _compared(sides: Sequence[tuple[Report, Played]]) -> Iterator[str]:
    yield "<h2>Side by side</h2>"
    yield _table("", [(report.name, report.all) for report, _ in sides])
    curves = [
        Curve(name=report.name, colour=f"c{number}", waits_s=_waits(played))
        for number, (report, played) in enumerate(sides)
    ]
    yield waits(curves, "Waits of all requests")


def _side(report: Report, played: Played) -> Iterator[str]:
    yield f"<h2>{escape(report.name)}</h2>"
    yield (
        f"<p>{report.all.requests} requests in {report.span_s:.0f} s, seed {report.seed}; "
        f"{report.loads} loads, of which {report.loads_failed} failed.</p>"
    )
    for each in report.assumed:
        yield f'<p class="soft">Assumed: {escape(each)}.</p>'
    groups = [("all", report.all)]
    groups += [(f"priority {each.name}", each) for each in report.by_priority]
    yield _table("", groups)
    if len(report.by_model) > 1:
        yield _table("model", [(each.name, each) for each in report.by_model])
    if len(report.by_agents) > 1:
        yield _table("agents", [(each.name, each) for each in report.by_agents])
    yield "<h3>How long requests waited</h3>"
    yield waits(list(_by_priority(report, played)), "Waits by priority")
    yield "<h3>What was loaded, and what ran in which slot</h3>"
    colours = colours_of(each.name for each in played.models)
    yield legend(colours)
    begin_ns = min((each.asked_ns for each in played.jobs), default=0)
    for backend, figures in zip(played.backends, report.backends, strict=True):
        yield (
            f"<h3>{escape(backend.name)}</h3><p><small>{figures.loads} loads, "
            f"{figures.loading_share:.1%} of the time loading, {figures.busy_share:.1%} of "
            "the slots of loaded models busy</small></p>"
        )
        yield gantt(backend, played.stretches, colours, begin_ns, played.ended_ns)


def _by_priority(report: Report, played: Played) -> Iterator[Curve]:
    for number, group in enumerate(report.by_priority):
        mine = _waits(played, priority=int(group.name))
        yield Curve(name=f"priority {group.name}", colour=f"c{number % COLOURS}", waits_s=mine)


def _waits(played: Played, *, priority: int | None = None) -> list[float]:
    return [
        waited_ns / SECOND_NS
        for job in played.jobs
        if priority in (None, job.session.priority) and (waited_ns := wait_ns(job)) is not None
    ]


def _table(first: str, groups: Sequence[tuple[str, Group]]) -> str:
    heads = (
        *(first, "requests", "in time", "gave up", "refused", "failed"),
        *("wait p50", "p90", "p99", "first token p50", "service p50"),
    )
    rows = [
        [
            *(escape(name), str(group.requests), _share(group), str(group.gave_up)),
            *(str(group.refused), str(group.failed), *_spread(group.wait)),
            *(_seconds(group.first_token.p50_s), _seconds(group.service.p50_s)),
        ]
        for name, group in groups
    ]
    head = "".join(f"<th>{each}</th>" for each in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _share(group: Group) -> str:
    return f"{group.in_time / group.requests:.1%}" if group.requests else "-"


def _spread(spread: Spread) -> list[str]:
    return [_seconds(each) for each in (spread.p50_s, spread.p90_s, spread.p99_s)]


def _seconds(time_s: float | None) -> str:
    return "-" if time_s is None else f"{time_s:.1f} s"
