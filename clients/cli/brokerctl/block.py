"""`brokerctl block`: refuse what agents send."""

from __future__ import annotations

import click

from brokerctl.call import Call, asking, print_json
from brokerctl.whom import chosen, concerned_text, document, lasting, lasting_text, scoped


@click.command()
@scoped
@click.option("--cancel-waiting", is_flag=True, help="Cancel what of theirs waits, too.")
@lasting
@asking
def block(
    call: Call,
    agent: str | None,
    agent_type: str | None,
    cancel_waiting: bool,
    for_s: float | None,
) -> None:
    """Refuse new requests of AGENT; `brokerctl resume` ends it."""
    whom = chosen(agent, agent_type)
    with call.client() as client:
        count = client.block(**whom.keywords(), cancel_waiting=cancel_waiting, for_s=for_s)
    if call.as_json:
        print_json(document(whom, count, for_s))
        return
    known = concerned_text(whom, count)
    rest = "what waits is cancelled, what runs" if cancel_waiting else "what waits or runs"
    click.echo(
        f"{whom.words} is blocked {lasting_text(whom, for_s)}{known}: "
        f"new requests are refused, {rest} goes on"
    )
