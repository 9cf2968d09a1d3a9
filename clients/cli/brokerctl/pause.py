"""`brokerctl pause`: start nothing of some agents, or of anybody."""

from __future__ import annotations

import click

from brokerctl.call import Call, asking, print_json
from brokerctl.whom import (
    chosen,
    concerned_text,
    document,
    everybody,
    lasting,
    lasting_text,
    scoped,
)


@click.command()
@scoped
@everybody
@lasting
@asking
def pause(
    call: Call,
    agent: str | None,
    agent_type: str | None,
    all_agents: bool,
    for_s: float | None,
) -> None:
    """Start nothing of AGENT; its requests may wait, and what runs goes on.

    `brokerctl resume` ends it.
    """
    whom = chosen(agent, agent_type, all_agents=all_agents)
    with call.client() as client:
        count = client.pause(**whom.keywords(), for_s=for_s)
    if call.as_json:
        print_json(document(whom, count, for_s))
        return
    known = concerned_text(whom, count)
    click.echo(
        f"{whom.words} is paused {lasting_text(whom, for_s)}{known}: "
        "requests wait and none is started, what runs goes on"
    )
