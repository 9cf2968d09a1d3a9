"""`brokerctl models delete`: deletes a model, once what comes of it was seen."""

from __future__ import annotations

import sys

import click

from broker_client import Deletion
from brokerctl.call import Call, asking, print_json
from brokerctl.exit_status import EXIT_SAID_NO
from brokerctl.figures import bytes_text
from brokerctl.one_line import one_line


@click.command("delete")
@click.argument("name")
@click.option("--backend", default="", metavar="NAME", help="Only from this backend.")
@click.option("--dry-run", is_flag=True, help="Only say what would come of it.")
@click.option("--force", is_flag=True, help="Also where it is in use, or others are built on it.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@asking
def delete(call: Call, name: str, backend: str, dry_run: bool, force: bool, yes: bool) -> None:
    """Delete the model NAME from the disks of all backends that have it.

    It leaves memory first. On a terminal it is asked for once what breaks and what is freed has
    been told; elsewhere --yes must say so.
    """
    with call.client(agent_id="") as client:
        would = client.delete_model(name, backend=backend, dry_run=True)
        if dry_run:
            tell(call, name, would, "would be deleted")
            return
        if not yes and not is_confirmed(name, would):
            click.echo("brokerctl: nothing was deleted", err=True)
            sys.exit(EXIT_SAID_NO)
        done = client.delete_model(name, backend=backend, force=force)
    tell(call, name, done, "is deleted")


def is_confirmed(name: str, would: Deletion) -> bool:
    """Asks whoever sits there."""
    if not is_somebody_there():
        raise click.UsageError("nobody is there to ask; --yes deletes without")
    for line in lines_of(name, would, "would be deleted"):
        click.echo(line, err=True)
    return click.confirm("Delete it?", default=False, err=True)


def is_somebody_there() -> bool:
    """Can anybody be asked?"""
    return sys.stdin.isatty()


def tell(call: Call, name: str, deletion: Deletion, what: str) -> None:
    if call.as_json:
        print_json(deletion)
        return
    for line in lines_of(name, deletion, what):
        click.echo(line)


def lines_of(name: str, deletion: Deletion, what: str) -> list[str]:
    """Where it is deleted, what that frees and what it breaks."""
    places = ", ".join(map(one_line, deletion.backends))
    freed = freed_text(deletion)
    lines = [f"{one_line(name)} {what} from {places}, which frees {freed}"]
    if deletion.breaks:
        those = ", ".join(map(one_line, deletion.breaks))
        lines.append(f"built on it, and not to be made anew without: {those}")
    return lines


def freed_text(deletion: Deletion) -> str:
    """How much disk it frees, as far as is known."""
    if deletion.freed_bytes:
        more = " or more" if deletion.freed_at_least else ""
        return f"{bytes_text(deletion.freed_bytes)}{more}"
    return "perhaps nothing" if deletion.freed_at_least else "nothing: others share all its files"
