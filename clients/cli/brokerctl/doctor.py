"""`brokerctl doctor`: looks at everything once and says what to do."""

from __future__ import annotations

import sys

import click

from broker_client import BrokerError
from brokerctl.call import Call, asking, print_json
from brokerctl.explanation import EXIT_SAID_NO
from brokerctl.findings import Finding, Severity, examine, unreachable_finding

REQUESTS_LOOKED_AT = 1000
STYLES = {Severity.GOOD: "green", Severity.ODD: "yellow", Severity.BAD: "red"}


@click.command()
@asking
def doctor(call: Call) -> None:
    """Say what is wrong, and the next step for each finding.

    The exit status is 1 where something keeps work from being done, else 0.
    """
    findings = look(call)
    is_bad = any(each.severity is Severity.BAD for each in findings)
    if call.as_json:
        print_json(
            {
                "healthy": not is_bad,
                "findings": [
                    {
                        "severity": each.severity.value,
                        "text": each.text,
                        "next_step": each.next_step,
                    }
                    for each in findings
                ],
            }
        )
    else:
        for each in findings:
            click.secho(f"{each.severity.value:>4}  ", fg=STYLES[each.severity], nl=False)
            click.echo(each.text)
            if each.next_step:
                click.echo(f"      -> {each.next_step}")
    sys.exit(EXIT_SAID_NO if is_bad else 0)


def look(call: Call) -> list[Finding]:
    """Asks the broker. An error on the way is a finding like others."""
    try:
        with call.client() as client:
            status = client.status(requests_max=REQUESTS_LOOKED_AT)
            models = client.models()
    except BrokerError as error:
        return [unreachable_finding(call.address, error.reason or error.code.name)]
    return examine(status, models, call.address)
