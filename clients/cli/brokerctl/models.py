"""`brokerctl models`: the table of what one can do with models, one module each.

Alone it lists them, and with the NAME of a model it shows that one. A model that is called as one
of the commands is shown by `models show NAME`.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from brokerctl.lazy import Entry, LazyGroup

LIST: Final = "list"
SHOW: Final = "show"

HELP: Final = """List, show and look after models.

Without a COMMAND they are listed, with the options of list; with the NAME of a model it is shown.
"""

COMMANDS: Final[Mapping[str, Entry]] = {
    LIST: Entry("brokerctl.models_list", "list_models", "Which models there are, and where."),
    SHOW: Entry("brokerctl.models_show", "show", "All there is to say of one model."),
    "pick": Entry("brokerctl.models_pick", "pick", "Choose models on a screen."),
    "pull": Entry("brokerctl.models_pull", "pull", "Download a model, and see how it gets on."),
    "pulls": Entry("brokerctl.models_pulls", "pulls", "The downloads; --cancel ends one."),
    "delete": Entry("brokerctl.models_delete", "delete", "Delete a model from disks."),
    "load": Entry("brokerctl.models_load", "load", "Have a model loaded."),
    "unload": Entry("brokerctl.models_load", "unload", "Have a model leave memory."),
    "resolve": Entry("brokerctl.models_resolve", "resolve", "Which model would answer, and why."),
    "tree": Entry("brokerctl.models_tree", "tree", "What models are made from."),
    "watch": Entry("brokerctl.models_watch", "watch", "The same list, live."),
    "usage": Entry("brokerctl.models_usage", "usage", "Who used which models."),
}

HELP_OPTIONS: Final = frozenset({"-h", "--help"})
# Where the context keeps the word that may be a name or a mistyped command.
WORD_KEY: Final = "brokerctl.models.word"


def near_command(word: str) -> str:
    """The command that is written most like this; "" where none is."""
    near = get_close_matches(word, COMMANDS, n=1)
    return near[0] if near else ""


class ModelsGroup(LazyGroup):
    """A lazy group whose words may also be the options of `list`, or the name of a model."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, once the command is named that goes without saying."""
        if not ctx.resilient_parsing:
            args = self._with_command(ctx, args)
        return super().parse_args(ctx, args)

    def _with_command(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] in HELP_OPTIONS:
            return args
        at = self._first_word(ctx, args)
        if at is None:
            return [LIST, *args]
        if args[at] in self.entries:
            return [args[at], *args[:at], *args[at + 1 :]]
        ctx.meta[WORD_KEY] = args[at]
        return [SHOW, *args]

    def _first_word(self, ctx: click.Context, args: list[str]) -> int | None:
        """Where the first word is that is neither an option nor the value of one. Which options
        take a value the commands know that may go without saying."""
        if not args:
            return None
        if not args[0].startswith("-"):
            return 0
        skips = 0
        for at, word in enumerate(args):
            if skips:
                skips -= 1
            elif word == "--":
                return at + 1 if at + 1 < len(args) else None
            elif not word.startswith("-"):
                return at
            elif "=" not in word:
                skips = self._values_of(ctx, word)
        return None

    def _values_of(self, ctx: click.Context, option: str) -> int:
        for name in (LIST, SHOW):
            command = self.get_command(ctx, name)
            for each in command.params if command is not None else ():
                if isinstance(each, click.Option) and option in each.opts:
                    return 0 if each.is_flag or each.count else each.nargs
        return 0

    def invoke(self, ctx: click.Context) -> Any:
        """As click's. What is close to a command and was used as no NAME can be was meant so."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if ctx.invoked_subcommand == SHOW and type(error) in (
                click.UsageError,
                click.NoSuchOption,
            ):
                self._fail_if_mistyped(ctx)
            raise

    def _fail_if_mistyped(self, ctx: click.Context) -> None:
        word = ctx.meta.get(WORD_KEY, "")
        if near := near_command(word):
            ctx.fail(f"No such command {word!r}. Did you mean {near!r}?")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands, and the options of `list`."""
        found = super().shell_complete(ctx, incomplete)
        command = self.get_command(ctx, LIST) if incomplete.startswith("-") else None
        if command is not None:
            known = {each.value for each in found}
            more = click.Command.shell_complete(command, ctx, incomplete)
            found += [each for each in more if each.value not in known]
        return found


models = ModelsGroup(name="models", help=HELP, entries=COMMANDS, params=[])
models.subcommand_metavar = "[COMMAND | NAME] [ARGS]..."
