"""`brokerctl models load` and `unload`: what is in memory, changed by hand."""

from __future__ import annotations

from collections.abc import Callable

import click

from brokerctl.call import Call, asking, print_json
from brokerctl.figures import duration_text
from brokerctl.one_line import one_line

TIMEOUT_S = 600.0


def waiting(command: Callable[..., None]) -> Callable[..., None]:
    """The options that both have."""
    for option in (
        click.option(
            "--timeout",
            "timeout_s",
            type=click.FloatRange(1, 86_400),
            default=TIMEOUT_S,
            show_default=True,
            help="Seconds to wait for it.",
        ),
        click.option("--backend", default="", metavar="NAME", help="Only on this backend."),
        click.argument("name"),
    ):
        command = option(command)
    return command


@click.command("load")
@waiting
@asking
def load(call: Call, name: str, backend: str, timeout_s: float) -> None:
    """Have the model or alias NAME loaded, and wait until it is there.

    It comes behind whatever waits: a model that has work makes no room for it.
    """
    with call.client(agent_id="") as client:
        found = client.load_model(name, backend=backend, timeout_s=timeout_s)
    if call.as_json:
        print_json(found)
    elif found.load_s:
        took = duration_text(found.load_s * 1000)
        click.echo(f"{one_line(name)} is loaded on {one_line(found.backend)}; that took {took}")
    else:
        click.echo(f"{one_line(name)} was loaded on {one_line(found.backend)} already")


@click.command("unload")
@waiting
@asking
def unload(call: Call, name: str, backend: str, timeout_s: float) -> None:
    """Have the model or alias NAME leave memory, once what it still answers has ended.

    Whoever asks for it afterwards may have it loaded again.
    """
    with call.client(agent_id="") as client:
        backends = client.unload_model(name, backend=backend, timeout_s=timeout_s)
    if call.as_json:
        print_json({"backends": backends})
    elif backends:
        click.echo(f"{one_line(name)} has left {', '.join(map(one_line, backends))}")
    else:
        click.echo(f"{one_line(name)} is loaded nowhere")
