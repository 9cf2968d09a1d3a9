"""`brokerctl models`: what goes without saying, names that are commands, and mistyped commands."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from brokerctl.main import main
from brokerctl.models import COMMANDS, models

NOBODY = ("--address", "127.0.0.1:1")


def invoked(*words: str) -> tuple[str | None, list[str]]:
    """Which command `brokerctl models` takes these words for, and what is left for it."""
    context = models.make_context("models", list(words))
    name, command, left = models.resolve_command(context, [*context._protected_args, *context.args])
    assert command is not None
    return name, left


@pytest.mark.parametrize(
    ("words", "name", "left"),
    [
        ((), "list", []),
        (("--json",), "list", ["--json"]),
        ((*NOBODY,), "list", [*NOBODY]),
        (("llama3:8b",), "show", ["llama3:8b"]),
        (("llama3:8b", "--json"), "show", ["llama3:8b", "--json"]),
        ((*NOBODY, "--json", "tiny"), "show", [*NOBODY, "--json", "tiny"]),
        (("--address=list", "tiny"), "show", ["--address=list", "tiny"]),
        (("--", "-odd"), "show", ["--", "-odd"]),
        (("list",), "list", []),
        (("--json", "list"), "list", ["--json"]),
        (("show", "list"), "show", ["list"]),
        (("lits",), "show", ["lits"]),
    ],
)
def test_the_command_that_is_meant(words: tuple[str, ...], name: str, left: list[str]) -> None:
    assert invoked(*words) == (name, left)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_table_names_a_command_that_says_what_it_does(name: str) -> None:
    command = models.get_command(click.Context(models), name)
    assert command is not None
    assert command.name == name
    result = CliRunner().invoke(main, ["models", name, "--help"])
    assert result.output.startswith(f"Usage: brokerctl models {name}")


def test_the_help_lists_the_commands_and_says_what_goes_without_saying() -> None:
    output = CliRunner().invoke(main, ["models", "--help"], terminal_width=80).output
    assert output.startswith("Usage: brokerctl models [OPTIONS] [COMMAND | NAME] [ARGS]...\n")
    assert all(f"\n  {name} " in output for name in COMMANDS)
    assert all(len(each) <= 80 for each in output.splitlines())


def test_what_can_be_no_name_is_a_mistyped_command() -> None:
    for words in (["lits", "--nonsense"], ["lits", "tiny"]):
        result = CliRunner().invoke(main, ["models", *words])
        assert result.exit_code == 2
        assert "No such command 'lits'. Did you mean 'list'?" in result.stderr
    for words in (["llama3:8b", "--nonsense"], ["llama3:8b", "tiny"]):
        result = CliRunner().invoke(main, ["models", *words])
        assert result.exit_code == 2
        assert "No such command" not in result.stderr


def test_what_may_be_a_name_is_asked_for() -> None:
    result = CliRunner().invoke(main, ["models", "lits", *NOBODY])
    assert result.exit_code == 3
    assert "no broker answers" in result.stderr
