"""A group of commands that imports a command's module only when that command is used.

The list of commands, their completion and the help of the whole need names and summaries alone,
which stand in a table, so that `brokerctl --help` waits for no library but click.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem

from brokerctl.exit_status import EXIT_INTERRUPTED


class Entry(NamedTuple):
    """Where a command is, and its one line in the list."""

    module: str
    attribute: str
    summary: str


class LazyGroup(click.Group):
    """A click group over a table of entries."""

    def __init__(
        self,
        *,
        name: str,
        help: str,  # click's own word for it
        entries: Mapping[str, Entry],
        params: list[click.Parameter],
    ) -> None:
        super().__init__(
            name=name,
            help=help,
            params=params,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, sorted."""
        return sorted(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None where there is none of this name."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        command = getattr(import_module(entry.module), entry.attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.module}.{entry.attribute} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self.entries[name].summary) for name in sorted(self.entries)]
            )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names and summaries from the table, then the options of the group itself."""
        return [
            *self._completions(incomplete),
            *click.Command.shell_complete(self, ctx, incomplete),
        ]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's; the nearest name is told where there is none of this one."""
        if args and args[0] not in self.entries and not ctx.resilient_parsing:
            from difflib import get_close_matches  # needed only for those who mistype

            near = get_close_matches(args[0], self.entries, n=1)
            if near and not args[0].startswith("-"):
                ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """As click's; an interruption ends any command quietly, even while it is imported."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("", err=True)
            sys.exit(EXIT_INTERRUPTED)

    def _completions(self, incomplete: str) -> Iterator[CompletionItem]:
        for name in sorted(self.entries):
            if name.startswith(incomplete):
                yield CompletionItem(name, help=self.entries[name].summary)
