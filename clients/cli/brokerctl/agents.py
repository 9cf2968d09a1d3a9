"""`brokerctl agents`: who sends requests, and how they count."""

from __future__ import annotations

import click

from broker_client import Agent
from brokerctl.call import Call, asking, print_json
from brokerctl.figures import amount_text
from brokerctl.fitting_table import Column, FittingTable


@click.command()
@asking
def agents(call: Call) -> None:
    """List the agents that the broker remembers."""
    with call.client() as client:
        found = client.agents()
    if call.as_json:
        print_json(found)
    elif found:
        call.console().print(agents_table(found))
    else:
        click.echo("no agent has sent anything lately")


def agents_table(found: list[Agent]) -> FittingTable:
    """One row per agent."""
    table = FittingTable(
        Column(name="agent"),
        Column(name="type", rank=1),
        Column(name="weight", is_number=True, rank=4),
        Column(name="best prio", is_number=True, rank=5),
        Column(name="waiting", is_number=True),
        Column(name="running", is_number=True),
        Column(name="came", is_number=True, rank=2),
        Column(name="ended", is_number=True, rank=2),
        Column(name="served", is_number=True, rank=3),
        Column(name="requests left", is_number=True, rank=1),
        Column(name="state"),
    )
    for each in found:
        left = "" if each.requests_left is None else amount_text(each.requests_left)
        table.add(
            each.agent_id,
            each.agent_type,
            amount_text(each.weight),
            str(each.priority_best),
            str(each.queued),
            str(each.running),
            str(each.arrived),
            str(each.ended),
            str(each.served_cost),
            left,
            state_text(each),
        )
    return table


def state_text(agent: Agent) -> str:
    """What operators have said of it; empty where it is nothing."""
    said = {"blocked": agent.blocked, "paused": agent.paused, "boosted": agent.boosted}
    return ", ".join(word for word, holds in said.items() if holds)
