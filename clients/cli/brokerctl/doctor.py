"""`brokerctl doctor`: looks at everything between here and a token, and says what to do."""

from __future__ import annotations

import sys

import click
from rich.table import Table
from rich.text import Text

from broker_client import BrokerError, Client
from brokerctl.call import Call, asking, print_json
from brokerctl.clock_findings import clock_finding
from brokerctl.exit_status import EXIT_SAID_NO
from brokerctl.explanation import exit_status_of
from brokerctl.finding import Finding, Severity
from brokerctl.findings import examine, unreachable_finding
from brokerctl.one_line import one_line
from brokerctl.probe import PROBE_DEADLINE_S, probe
from brokerctl.queue_groups import REQUESTS_LOOKED_AT

STYLES = {Severity.GOOD: "green", Severity.ODD: "yellow", Severity.BAD: "red"}


@click.command()
@click.option(
    "--probe",
    "is_probing",
    is_flag=True,
    help="Have a model answer, alone and in all its slots at once: takes what it says it took.",
)
@click.option("--model", help="For --probe.  [default: a resident one, else the smallest]")
@asking
def doctor(call: Call, is_probing: bool, model: str | None) -> None:
    """Say what is wrong between here and a token, and the next step for each finding.

    The exit status is 1 where something keeps work from being done, 3 where no broker answers,
    else 0.
    """
    if model is not None and not is_probing:
        raise click.UsageError("--model goes with --probe")
    findings, status = look(call, is_probing=is_probing, model=model)
    is_bad = any(each.severity is Severity.BAD for each in findings)
    if call.as_json:
        print_json({"healthy": not is_bad, "findings": [document(each) for each in findings]})
    else:
        console = call.console()
        for each in findings:
            console.print(finding_view(each))
    sys.exit(status or (EXIT_SAID_NO if is_bad else 0))


def finding_view(finding: Finding) -> Table:
    """The finding beside its severity, the next step below it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", style=STYLES[finding.severity], width=4)
    grid.add_column(overflow="fold")
    grid.add_row(finding.severity.value, Text(one_line(finding.text)))
    if finding.next_step:
        grid.add_row("", Text(one_line(f"-> {finding.next_step}")))
    return grid


def document(finding: Finding) -> dict[str, str]:
    """A finding for programs."""
    return {
        "severity": finding.severity.value,
        "text": finding.text,
        "next_step": finding.next_step,
    }


def look(call: Call, *, is_probing: bool, model: str | None) -> tuple[list[Finding], int]:
    """Asks the broker. An error on the way is a finding like others, but for the exit status, which
    is what every command has for it."""
    try:
        with call.client() as client:
            status = client.status(requests_max=REQUESTS_LOOKED_AT)
            models = client.models()
            findings = examine(status, models, call.address)
            findings.append(clock_finding(client))
            if is_probing:
                findings += probed(client, call, model)
            return findings, 0
    except BrokerError as error:
        return [unreachable_finding(error, call.address)], exit_status_of(error)


def probed(client: Client, call: Call, model: str | None) -> list[Finding]:
    """What the probe finds; says first that it takes a while."""
    if not call.as_json:
        click.echo(f"probing, {PROBE_DEADLINE_S:g} s at most for each answer ...", err=True)
    return probe(client, model)
