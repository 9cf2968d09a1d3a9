"""`brokerctl models pull`: downloads a model and shows how it gets on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from broker_client import Pull
from brokerctl.call import Call, asking, print_json
from brokerctl.exit_status import EXIT_INTERRUPTED
from brokerctl.figures import bytes_text, duration_text, share_text
from brokerctl.one_line import one_line

# Without a terminal a line is printed for each state, and for each so many percent.
LINE_EVERY_PERCENT = 5


@click.command("pull")
@click.argument("name")
@click.option("--backend", default="", metavar="NAME", help="Which is to have it.")
@click.option("--now", is_flag=True, help="Whatever the hours that are configured for downloads.")
@asking
def pull(call: Call, name: str, backend: str, now: bool) -> None:
    """Download the model NAME, or join the download of it that is under way.

    It goes on when this command is left (Ctrl-C), also over a restart of the broker: `brokerctl
    models pulls` shows it, and `--cancel` there ends it.
    """
    with call.client(agent_id="") as client:
        try:
            with closing(client.pull(name, backend=backend, now=now)) as told:
                show(call, told)
        except KeyboardInterrupt:
            click.echo(f"\n{left_text(name)}", err=True)
            sys.exit(EXIT_INTERRUPTED)


def show(call: Call, told: Iterator[Pull]) -> None:
    """As a bar on a terminal, as lines or documents elsewhere."""
    console = call.console()
    if call.as_json:
        for each in told:
            print_json(each)
    elif console.is_terminal:
        show_bar(console, told)
    else:
        print_lines(told)


def left_text(name: str) -> str:
    """What whoever leaves is told."""
    shown = one_line(name)
    return (
        f"the download of {shown} goes on; `brokerctl models pulls` shows it, "
        f"`brokerctl models pulls --cancel {shown}` ends it"
    )


def show_bar(console: Console, told: Iterator[Pull]) -> None:
    """A bar that is drawn over itself."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        bar: TaskID | None = None
        for each in told:
            if bar is None:
                bar = progress.add_task(one_line(each.name), total=None, words="")
            progress.update(
                bar,
                total=each.total_bytes or None,
                completed=each.completed_bytes,
                words=short_text(each),
            )


def print_lines(told: Iterator[Pull]) -> None:
    """A line for each change that is worth one."""
    said: tuple[object, ...] = ()
    for each in told:
        percent = 100 * each.completed_bytes // each.total_bytes if each.total_bytes else 0
        said_in_words = "" if each.bytes_per_s else each.detail
        worth = (each.state, percent // LINE_EVERY_PERCENT, said_in_words)
        if worth != said:
            click.echo(pull_line(each))
            said = worth


def pull_line(pull: Pull) -> str:
    """A download in one line."""
    on = f"{one_line(pull.name)} on {one_line(pull.backend)}"
    return f"{on}: {pull.state}, {words_of(pull)}"


def words_of(pull: Pull) -> str:
    """How far it is, or what it waits for."""
    parts = [size_text(pull)] if pull.completed_bytes or pull.total_bytes else []
    if pull.state == "pulling" and pull.bytes_per_s:
        parts += rate_parts(pull)
    else:
        parts.append(one_line(pull.detail))
    return ", ".join(parts)


def short_text(pull: Pull) -> str:
    """The same beside a bar."""
    if pull.state != "pulling" or not pull.bytes_per_s:
        return f"{pull.state}: {one_line(pull.detail)}"
    return " · ".join((size_text(pull), *rate_parts(pull)))


def size_text(pull: Pull) -> str:
    """ "7.0 of 14.0 GB (50 %)"; as far as is known."""
    done = bytes_text(pull.completed_bytes)
    if not pull.total_bytes:
        return done
    share = share_text(min(1.0, pull.completed_bytes / pull.total_bytes))
    return f"{done} of {bytes_text(pull.total_bytes)} ({share})"


def rate_parts(pull: Pull) -> list[str]:
    """How fast it comes, and when it will be there."""
    left = [] if pull.eta_s is None else [f"{duration_text(pull.eta_s * 1000)} left"]
    return [f"{bytes_text(int(pull.bytes_per_s))}/s", *left]
