"""Commands in fenced blocks of Markdown, and whether the programs that they name know them.

Looked at is every line that starts with one of our programs; what a block shows of their output
starts with something else. The words after the name are walked as the program's own parser has
them: subcommands, options, and how many values an option takes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import click

from bench.__main__ import BENCHMARKS
from broker.daemon.main import main as brokerd
from broker.sim.ollama_sim import main as ollama_sim
from broker.sim.openai_sim import main as openai_sim
from brokerctl.main import main as brokerctl
from tests.tidy.sources import ROOT

CLICK: Mapping[str, click.Command] = {
    "brokerd": brokerd,
    "brokerctl": brokerctl,
    "ollama-sim": ollama_sim,
    "openai-sim": openai_sim,
}
BENCH_OPTIONS: Mapping[str, int] = {
    "--quick": 0,
    "--json": 1,
    "--svg": 1,
    "--trace": 1,
    "--ollama": 1,
    "-h": 0,
    "--help": 0,
}
MAKE_OPTION = re.compile(r"-(?:j\d*|s|n|k|B)|--[a-z-]+")
VARIABLE = re.compile(r"[A-Z_]+=.*", re.DOTALL)
ENDS_COMMAND = re.compile(r"^(?:\||\|\||&&|&|;|>|>>|2>|2>&1|<)$")
FENCE = re.compile(
    r"^(?P<fence>```+)[^\n]*\n(?P<body>.*?)^(?P=fence)\s*$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command as a document shows it: the program, and the words after it."""

    program: str
    words: tuple[str, ...]


def commands(markdown: str) -> Iterator[Command]:
    """Every command of ours in the fenced blocks, in order."""
    for block in FENCE.finditer(markdown):
        for line in block["body"].replace("\\\n", " ").splitlines():
            try:
                words = shlex.split(line.strip().removeprefix("$ "), comments=True)
            except ValueError:  # an apostrophe in a line of output, which no shell is to read
                continue
            found = _command(words)
            if found is not None:
                yield found


def _command(words: list[str]) -> Command | None:
    while words and (VARIABLE.fullmatch(words[0]) or words[0] in ("exec", "sudo", "time")):
        words = words[1:]
    end = next((i for i, word in enumerate(words) if ENDS_COMMAND.match(word)), len(words))
    words = [word.rstrip(";") for word in words[:end]]
    if not words:
        return None
    program = words[0].rpartition("/")[2]
    if program in ("python", "python3") and words[1:3] == ["-m", "bench"]:
        return Command(program="bench", words=tuple(words[3:]))
    if program == "make" or program in CLICK:
        return Command(program=program, words=tuple(words[1:]))
    return None


def complaint(command: Command) -> str:
    """What the program would not understand; empty where it understands all."""
    if command.program == "make":
        return _make_complaint(command.words)
    if command.program == "bench":
        return _bench_complaint(command.words)
    return _click_complaint(CLICK[command.program], command.program, list(command.words))


@cache
def make_targets() -> frozenset[str]:
    """The targets that the Makefile declares as commands."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    return frozenset(re.findall(r"^\.PHONY:(.*)$", text, re.MULTILINE)[0].split())


def _make_complaint(words: tuple[str, ...]) -> str:
    for word in words:
        is_known = word in make_targets() or MAKE_OPTION.fullmatch(word) or VARIABLE.fullmatch(word)
        if not is_known:
            return f"make has no target {word}"
    return ""


def _bench_complaint(words: tuple[str, ...]) -> str:
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option = word.partition("=")[0]
        if option.startswith("-"):
            if option not in BENCH_OPTIONS:
                return f"bench has no option {option}"
            del rest[: 0 if "=" in word else BENCH_OPTIONS[option]]
        elif word not in (*BENCHMARKS, "all", "NAME"):
            return f"bench has no benchmark {word}"
    return ""


def _click_complaint(command: click.Command, name: str, rest: list[str]) -> str:
    while rest:
        word = rest.pop(0)
        if word == "--":
            return ""
        if word.startswith("-") and word != "-":
            option, _, value = word.partition("=")
            values = _values_of(command, option)
            if values is None:
                return f"{name} has no option {option}"
            del rest[: 0 if value else values]
        elif isinstance(command, click.Group):
            below = command.get_command(click.Context(command), word)
            if below is None:
                return f"{name} has no command {word}"
            command, name = below, f"{name} {word}"
    return ""


def _values_of(command: click.Command, option: str) -> int | None:
    """How many words the option takes after it; None where there is no such option."""
    context = click.Context(command)
    for parameter in command.get_params(context):
        if option in (*parameter.opts, *parameter.secondary_opts):
            is_flag = isinstance(parameter, click.Option) and (parameter.is_flag or parameter.count)
            return 0 if is_flag else parameter.nargs
    return None
