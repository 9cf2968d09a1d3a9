"""`brokerctl models resolve`: which model would answer, and why."""

from __future__ import annotations

import click

from broker_client import Requirements, Resolution
from brokerctl.call import Call, asking, print_json
from brokerctl.one_line import one_line
from brokerctl.requirement_options import requiring


@click.command()
@click.argument("name", default="")
@requiring
@asking
def resolve(call: Call, name: str, requirements: Requirements | None) -> None:
    """Say which model would answer a request for NAME, a model or an alias, or for what --need and
    the others say; why that one, what would in its place, and what was not chosen."""
    if not name and requirements is None:
        raise click.UsageError("no NAME; give a model, an alias, or what it must be")
    with call.client() as client:
        found = client.resolve(name, requirements=requirements)
    if call.as_json:
        print_json(found)
    else:
        click.echo("\n".join(map(one_line, page(found))))


def page(found: Resolution) -> list[str]:
    """The model alone on its line, for programs that read one; then why."""
    lines = [found.model, f"  because: {found.because}"]
    if found.alternatives:
        lines.append(f"  else: {', '.join(found.alternatives)}")
    lines += [f"  not {each.name}: {each.because}" for each in found.rejected]
    return lines
