"""`brokerctl events`: what happens, a line for each event as it comes."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any, Final

import click

from broker_client import Missed, Payload, TopicEvent
from brokerctl.call import Call, asking, print_json
from brokerctl.event_lines import event_line, missed_line

EVERYTHING: Final = "**"


@click.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option(
    "--count",
    type=click.IntRange(1),
    help="End after so many events, states not counted.  [default: with Ctrl-C]",
)
@click.option("--states/--no-states", default=True, help="Whether to print how things are now.")
@asking
def events(call: Call, patterns: tuple[str, ...], count: int | None, states: bool) -> None:
    """Print events of the topics that fit a PATTERN, as they happen; of all without one.

    The broker's own topics are capacity, level, priority, models, requests, alerts and health. In a
    pattern * stands for one segment, and ** at its end for any number: "team:*:done", "team:**".
    First comes how things are now. What this side reads too slowly is told as missed.
    """
    left = count
    with call.client() as client, client.subscribe(*(patterns or (EVERYTHING,))) as news:
        for each in news:
            if isinstance(each, TopicEvent) and each.is_state and not states:
                continue
            show(call, each)
            if left is not None and isinstance(each, TopicEvent) and not each.is_state:
                left -= 1
                if not left:
                    return


def show(call: Call, news: TopicEvent | Missed) -> None:
    """Prints one, as a line for people or for programs."""
    if call.as_json:
        print_json(document(news))
    elif isinstance(news, Missed):
        click.secho(missed_line(news), fg="yellow")
    else:
        click.echo(event_line(news))


def document(news: TopicEvent | Missed) -> dict[str, Any]:
    """An event for programs; `missed` alone where events are missing. Bytes of a payload are text
    where they are, else in hexadecimal under `data_hex`."""
    if isinstance(news, Missed):
        return {"missed": news.count}
    fields = dataclasses.asdict(news)
    fields["at"] = instant_text(news.at)
    if isinstance(news.what, Payload):
        fields["what"].pop("data")
        try:
            fields["what"]["data"] = news.what.data.decode()
        except UnicodeDecodeError:
            fields["what"]["data_hex"] = news.what.data.hex()
    return fields


def instant_text(at: datetime) -> str:
    """In UTC, to the millisecond."""
    return at.isoformat(timespec="milliseconds")
