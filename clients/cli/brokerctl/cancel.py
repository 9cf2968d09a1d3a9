"""`brokerctl cancel`: ends a request of any agent."""

from __future__ import annotations

import click

from brokerctl.call import Call, asking, print_json


@click.command()
@click.argument("request_id")
@click.option("--agent", "agent_id", default="", help="Whose, where several have this id.")
@asking
def cancel(call: Call, request_id: str, agent_id: str) -> None:
    """End the request REQUEST_ID, wherever it is."""
    with call.client() as client:
        found = client.cancel_request(request_id, agent_id=agent_id)
    if call.as_json:
        print_json(found)
        return
    click.echo(f"request {request_id} of agent {found.agent_id} was {found.state}; it is cancelled")
