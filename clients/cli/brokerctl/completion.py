"""`brokerctl completion`: the script that makes a shell complete brokerctl's words."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

PROGRAM: Final = "brokerctl"
# How click's scripts ask: `_BROKERCTL_COMPLETE=bash_complete brokerctl`.
VARIABLE: Final = f"_{PROGRAM.upper()}_COMPLETE"
SHELLS: Final = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of SHELL, for the shell to read as it starts.

    \b
    bash: eval "$(brokerctl completion bash)" in ~/.bashrc
    zsh:  eval "$(brokerctl completion zsh)" in ~/.zshrc
    fish: brokerctl completion fish > ~/.config/fish/completions/brokerctl.fish
    """
    click.echo(script_of(shell))


def script_of(shell: str) -> str:
    """click's script for this shell."""
    found = get_completion_class(shell)
    if found is None:
        raise LookupError(f"click knows no shell {shell!r}")
    # The script is text about the program's name; the command itself is not asked.
    return found(click.Command(PROGRAM), {}, PROGRAM, VARIABLE).source()
