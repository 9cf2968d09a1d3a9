"""`brokerctl resume`: takes back what boost, block and pause said."""

from __future__ import annotations

import click

from brokerctl.call import Call, asking, print_json
from brokerctl.whom import chosen, concerned_text, document, everybody, scoped


@click.command()
@scoped
@everybody
@asking
def resume(call: Call, agent: str | None, agent_type: str | None, all_agents: bool) -> None:
    """End what was said of AGENT with boost, block and pause.

    What was said of its type, or of everybody, is ended with --type and --all.
    """
    whom = chosen(agent, agent_type, all_agents=all_agents)
    with call.client() as client:
        count = client.resume(**whom.keywords())
    if call.as_json:
        print_json(document(whom, count))
        return
    known = concerned_text(whom, count)
    click.echo(f"what was said of {whom.words} is ended{known}")
