"""`brokerctl simulate`: what would the waits be, with this workload on these servers?

Needs no broker that runs: the engine itself plays the workload on a virtual clock.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from broker.config.load import ConfigProblems
from broker.sim.report import Report, report_of
from broker.sim.simulation import Played
from broker.sim.simulation_page import page_of
from broker.sim.trace_row import ROWS_MAX
from broker.sim.workload_problem import WorkloadProblems
from brokerctl.call import print_json
from brokerctl.exit_status import EXIT_INTERRUPTED, EXIT_SAID_NO
from brokerctl.figures import counted
from brokerctl.simulate_progress import SimulationProgress
from brokerctl.simulate_sides import Asked, Side, sides_of
from brokerctl.simulate_tables import simulation_view

FILE = click.Path(path_type=Path)


@click.command()
@click.option(
    "--workload",
    type=FILE,
    required=True,
    help="What is asked for: a workload in TOML, or a trace (CSV, JSON lines, a broker's log).",
)
@click.option("--config", type=FILE, help="The broker's configuration; its backends count.")
@click.option(
    "--compare",
    type=FILE,
    help="Another configuration or another workload, to be played beside the first.",
)
@click.option(
    "--add-model",
    multiple=True,
    metavar="NAME[,SETTING=VALUE...]",
    help="One more model that is asked for, played beside the workload without it.",
)
@click.option("--backends", type=click.IntRange(1, 64), help="So many equal servers instead.")
@click.option(
    "--memory-gb", type=click.FloatRange(0.1, 100_000), help="Memory of each server's GPU."
)
@click.option("--slots", type=click.IntRange(1, 256), help="Requests at once on each model.")
@click.option("--resident-max", type=click.IntRange(1, 64), help="Models at once on each server.")
@click.option(
    "--requests", type=click.IntRange(1, ROWS_MAX), help="Only the first so many of the trace."
)
@click.option(
    "--rho",
    type=click.FloatRange(0.001, 100),
    help="Stretch arrivals until their service is this part of what the slots can do.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Another chance.")
@click.option("--html", type=FILE, help="Write tables and pictures to this file, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def simulate(html: Path | None, as_json: bool, workload: Path, **asked: object) -> None:
    """Say how long requests would wait, with this workload on these servers.

    The engine that decides in the broker plays it on a virtual clock before simulated Ollama
    servers. The same files and seed give the same answer to the last byte.

    \b
    With two cards of 24 GB:  --workload w.toml --backends 2 --memory-gb 24
    With this configuration:  --workload w.toml --compare broker.toml
    With one more model:      --workload w.toml --add-model qwen2.5:7b
    Last night, once more:    --workload broker.log
    """
    if asked.get("add_model") and asked.get("compare"):
        raise click.UsageError("--add-model compares with the workload without it: no --compare")
    try:
        with SimulationProgress(f"reading {workload.name}"):
            sides = sides_of(Asked(workload=workload, **asked))  # type: ignore[arg-type]
        played = _play(sides)
        reports = [report for report, _ in played]
        if html is not None:
            html.write_text(page_of(played), encoding="utf-8")
    except (WorkloadProblems, ConfigProblems) as found:
        _say_problems(found, as_json=as_json)
        sys.exit(EXIT_SAID_NO)
    except OSError as error:
        click.echo(f"brokerctl: {error.filename}: cannot be written: {error.strerror}", err=True)
        sys.exit(EXIT_SAID_NO)
    except KeyboardInterrupt:
        click.echo("", err=True)
        sys.exit(EXIT_INTERRUPTED)
    if as_json:
        print_json({"simulations": [each.document() for each in reports]})
        return
    width = None if sys.stdout.isatty() else 100
    console = Console(width=width, highlight=False)
    console.print(simulation_view(reports))
    if html is not None:
        console.print(f"Pictures: {html}", soft_wrap=True, markup=False)


def _play(sides: list[Side]) -> list[tuple[Report, Played]]:
    found = []
    for side in sides:
        with SimulationProgress(side.name) as progress:
            played = side.simulation.play(progress.hear)
        found.append((report_of(played, side.name), played))
    return found


def _say_problems(found: WorkloadProblems | ConfigProblems, *, as_json: bool) -> None:
    lines = str(found).splitlines()
    if as_json:
        print_json({"problems": lines})
        return
    click.echo("\n".join(lines))
    click.echo(f"brokerctl: {counted(len(lines), 'problem')}; correct them and try again", err=True)
