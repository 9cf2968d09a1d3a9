"""`brokerctl`: the table of its commands, one module each.

Exit statuses: 0 done; 1 the broker said no, or something was found wrong; 2 wrong use of the
command; 3 no broker answers; 130 interrupted.

This module is all that `brokerctl --help` loads: no gRPC, no tables, no terminal views.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

from brokerctl.lazy import Entry, LazyGroup

HELP: Final = """Use, watch and look after a broker.

\b
Exit status: 0 done; 1 the broker said no, or something was found wrong;
2 wrong use; 3 no broker answers; 130 interrupted.
"""

COMMANDS: Final[Mapping[str, Entry]] = {
    "agents": Entry("brokerctl.agents", "agents", "Who sends requests, and how they count."),
    "block": Entry("brokerctl.block", "block", "Refuse new requests of an agent or a type."),
    "boost": Entry("brokerctl.boost", "boost", "Have an agent or a type count for more, or less."),
    "cancel": Entry("brokerctl.cancel", "cancel", "End a request of any agent."),
    "completion": Entry("brokerctl.completion", "completion", "Print a shell's completion script."),
    "config": Entry("brokerctl.config", "config", "Check the broker's configuration."),
    "demo": Entry("brokerctl.demo.command", "demo", "Watch twelve agents share a broker."),
    "doctor": Entry("brokerctl.doctor", "doctor", "Find what is wrong, and say what to do."),
    "drain": Entry("brokerctl.drain", "drain", "Have the broker, or one backend, end its work."),
    "events": Entry("brokerctl.events", "events", "Print what happens, as it happens."),
    "explain": Entry("brokerctl.explain", "explain", "Why a request waits, or how it ended."),
    "generate": Entry("brokerctl.generate", "generate", "Ask a model and read the answer."),
    "level": Entry("brokerctl.level", "level", "Show or set the level, and say why it holds."),
    "models": Entry("brokerctl.models", "models", "Which models there are, and where."),
    "pause": Entry("brokerctl.pause", "pause", "Start nothing of an agent, a type or anybody."),
    "queue": Entry("brokerctl.queue", "queue", "What waits, and what for."),
    "quota": Entry("brokerctl.quota", "quota", "What an agent may use, and what is left."),
    "reload": Entry("brokerctl.reload", "reload", "Have the broker read its configuration again."),
    "resume": Entry("brokerctl.resume", "resume", "End what boost, block, pause and drain said."),
    "simulate": Entry("brokerctl.simulate", "simulate", "Say how long a workload would wait."),
    "status": Entry("brokerctl.status", "status", "What runs, what waits, and on what."),
    "top": Entry("brokerctl.top", "top", "The same, live, with keys to act."),
}


def show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Prints the version, which the client's package has and which only this asks for."""
    if value and not ctx.resilient_parsing:
        from broker_client.version import __version__  # brings gRPC, see the module's docstring

        click.echo(f"brokerctl, version {__version__}")
        ctx.exit()


main = LazyGroup(
    name="brokerctl",
    help=HELP,
    entries=COMMANDS,
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=show_version,
            help="Show the version and exit.",
        )
    ],
)


if __name__ == "__main__":
    main()
