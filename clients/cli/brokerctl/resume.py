"""`brokerctl resume`: takes back what boost, block and pause said, or the drain of a backend."""

from __future__ import annotations

import click

from brokerctl.call import Call, asking, print_json
from brokerctl.whom import Whom, chosen, concerned_text, document, everybody, scoped


@click.command()
@scoped
@everybody
@click.option("--backend", default="", metavar="NAME", help="A backend that was drained.")
@asking
def resume(
    call: Call, agent: str | None, agent_type: str | None, all_agents: bool, backend: str
) -> None:
    """End what was said of AGENT with boost, block and pause.

    What was said of its type, or of everybody, is ended with --type and --all, the drain of a
    backend with --backend.
    """
    if backend:
        resume_backend(call, backend, is_alone=not (agent or agent_type or all_agents))
        return
    whom = chosen(agent, agent_type, all_agents=all_agents)
    with call.client() as client:
        count = client.resume(**whom.keywords())
    if call.as_json:
        print_json(document(whom, count))
        return
    click.echo(ended_text(whom, concerned_text(whom, count)))


def resume_backend(call: Call, name: str, *, is_alone: bool) -> None:
    """Has a backend get work again."""
    if not is_alone:
        raise click.UsageError("--backend goes with no AGENT, --type or --all")
    with call.client() as client:
        client.resume(backend=name)
    if call.as_json:
        print_json({"backend": name})
    else:
        click.echo(f"backend {name} gets work again")


def ended_text(whom: Whom, known: str) -> str:
    """What holds no more, if ever it did, for that is not told apart; and what still may."""
    if whom.agent_id:
        ended = f"no boost, block or pause of agent {whom.agent_id} alone"
        still = "one of its type or of everybody"
    elif whom.agent_type:
        ended = f"no boost, block or pause of type {whom.agent_type} as a whole"
        still = "one of an agent or of everybody"
    else:
        ended, still = "no pause of everybody", "one of an agent or a type"
    return f"{ended} holds any more{known}; {still} still may"
