"""`brokerctl drain`: tells a broker to leave in order, or takes one backend out of use."""

from __future__ import annotations

import click

from broker_client import Drain
from brokerctl.call import Call, asking, print_json
from brokerctl.figures import counted, duration_text


@click.command()
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 3600),
    help="Seconds that work under way may take.  [default: the broker's own limit]",
)
@click.option(
    "--backend",
    default="",
    metavar="NAME",
    help="One backend gets no new work until `brokerctl resume --backend`; the broker stays.",
)
@asking
def drain(call: Call, timeout_s: float | None, backend: str) -> None:
    """Let the broker finish its work, refuse new work, and stop; or one backend rest."""
    if backend and timeout_s is not None:
        raise click.UsageError("--timeout is for the broker; a backend's work takes what it takes")
    with call.client() as client:
        begun = client.drain(timeout_s=timeout_s, backend=backend)
    if call.as_json:
        print_json(begun)
        return
    if backend:
        click.echo(backend_text(backend, begun))
        return
    click.echo(
        f"the broker at {call.address} leaves: {counted(begun.running, 'request')} running and "
        f"{begun.queued} waiting have {duration_text(begun.timeout_ms)}; new work is refused"
    )


def backend_text(name: str, begun: Drain) -> str:
    """What becomes of its work."""
    text = (
        f"backend {name} gets no new work until `brokerctl resume --backend {name}`; "
        f"{counted(begun.running, 'request')} running on it may end"
    )
    if begun.queued:
        waits = "waits" if begun.queued == 1 else "wait"
        text += (
            f"; {counted(begun.queued, 'request')} {waits} until then, as no other backend has "
            "the model"
        )
    return text
