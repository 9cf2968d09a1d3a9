"""The table of commands holds what the commands are, and nothing is imported before it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from brokerctl.main import COMMANDS, main

HEAVY = ("grpc", "google.protobuf", "rich", "textual", "pydantic", "asyncio", "broker_client")
PROBE = """
import sys
from brokerctl.main import main
try:
    main({arguments!r})
except SystemExit as ended:
    assert not ended.code, ended.code
print("LOADED", *[each for each in {heavy!r} if each in sys.modules])
"""


def loaded_by(*arguments: str) -> list[str]:
    """Which heavy modules a fresh process has after these arguments."""
    code = PROBE.format(arguments=list(arguments), heavy=HEAVY)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1].split()[1:]


def test_the_help_loads_neither_grpc_nor_a_view() -> None:
    assert loaded_by("--help") == []
    assert loaded_by("completion", "bash") == []
    assert "grpc" in loaded_by("status", "--help")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_table_names_a_command_that_says_what_it_does(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert command.help
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: brokerctl {name}")


def commands_of(name: str) -> Iterator[click.Command]:
    """A command, or all that a group has."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    if not isinstance(command, click.Group):
        yield command
        return
    context = click.Context(command)
    for below in command.list_commands(context):
        found = command.get_command(context, below)
        assert found is not None
        yield found


def test_every_command_takes_json_but_those_whose_output_is_no_data() -> None:
    without = set()
    for name in COMMANDS:
        for each in commands_of(name):
            if not any("--json" in parameter.opts for parameter in each.params):
                without.add(name)
    assert without == {"completion", "demo"}


def test_the_list_fits_a_terminal_of_80_columns() -> None:
    lines = CliRunner().invoke(main, ["--help"], terminal_width=80).output.splitlines()
    assert [each for each in lines if each.startswith("  status ")]
    assert all(len(each) <= 80 for each in lines)
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in COMMANDS)


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    result = CliRunner().invoke(main, ["stats"])
    assert result.exit_code == 2
    assert "No such command 'stats'. Did you mean 'status'?" in result.stderr
    assert "No such command" in CliRunner().invoke(main, ["zzzzzz"]).stderr


def test_the_version_is_told() -> None:
    assert CliRunner().invoke(main, ["--version"]).output.startswith("brokerctl, version ")


def completions(*words: str) -> list[str]:
    """What a shell offers after these words, the last one being typed."""
    shell = ShellComplete(main, {}, "brokerctl", "_BROKERCTL_COMPLETE")
    return [each.value for each in shell.get_completions(list(words[:-1]), words[-1])]


def test_a_shell_completes_commands_options_and_values() -> None:
    assert completions("re") == ["reload", "resume"]
    assert completions("--v") == ["--version"]
    assert "--watch" in completions("status", "--w")
    assert completions("completion", "z") == ["zsh"]
    assert completions("config", "c") == ["check"]
    assert {"list", "show"} <= set(completions("models", ""))
    assert "--json" in completions("models", "--j")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_asks_brokerctl(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"_BROKERCTL_COMPLETE={shell}_complete" in result.output


def test_another_shell_is_wrong_use() -> None:
    assert CliRunner().invoke(main, ["completion", "tcsh"]).exit_code == 2
