"""`brokerctl boost`: agents count for more, or for less."""

from __future__ import annotations

import click

from brokerctl.call import Call, asking, print_json
from brokerctl.whom import chosen, concerned_text, document, lasting, lasting_text, scoped


@click.command()
@scoped
@click.option(
    "--weight", type=click.FloatRange(0.01, 100), help="Multiply the share among those that wait."
)
@click.option(
    "--rate", type=click.FloatRange(0.01, 100), help="Multiply the rates of their own buckets."
)
@click.option(
    "--priority-best",
    type=click.IntRange(1, 10),
    help="The best priority they may use, instead of their type's.",
)
@lasting
@asking
def boost(
    call: Call,
    agent: str | None,
    agent_type: str | None,
    weight: float | None,
    rate: float | None,
    priority_best: int | None,
    for_s: float | None,
) -> None:
    """Have AGENT count for more, or with factors below 1 for less.

    Takes the place of an earlier boost of the same AGENT or type; `brokerctl resume` ends it.
    """
    whom = chosen(agent, agent_type)
    if weight is None and rate is None and priority_best is None:
        raise click.UsageError("nothing to change; give --weight, --rate or --priority-best")
    with call.client() as client:
        count = client.boost(
            **whom.keywords(),
            weight_factor=weight,
            rate_factor=rate,
            priority_best=priority_best or 0,
            for_s=for_s,
        )
    if call.as_json:
        print_json(document(whom, count, for_s))
        return
    effects = boost_text(weight, rate, priority_best)
    known = concerned_text(whom, count)
    click.echo(f"{whom.words} is boosted {lasting_text(whom, for_s)}{known}: {effects}")


def boost_text(weight: float | None, rate: float | None, priority_best: int | None) -> str:
    """What is changed, in words."""
    parts = []
    if weight is not None:
        parts.append(f"weight x {weight:g}")
    if rate is not None:
        parts.append(f"rates x {rate:g}")
    if priority_best is not None:
        parts.append(f"priorities from {priority_best} on")
    return ", ".join(parts)
