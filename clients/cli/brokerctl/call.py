"""What all commands share: where the broker is, how to print, and how errors end.

A command receives a `Call` and raises; `asking` turns what it raises into words and an exit status.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import click
from rich.console import Console

from broker_client import BrokerError, Client
from broker_client.channel import broker_address
from brokerctl.address import checked_address
from brokerctl.exit_status import EXIT_INTERRUPTED
from brokerctl.explanation import (
    error_document,
    exit_status_of,
    is_in_the_books,
    sentence_of,
)
from brokerctl.one_line import one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One invocation of a command."""

    address: str
    as_json: bool

    def client(self, agent_id: str = "brokerctl") -> Client:
        """A client of the broker; to be closed."""
        return Client(self.address, agent_id=agent_id)

    def console(self) -> Console:
        """Where tables go. Without a terminal the width does not cut what a program reads."""
        width = None if sys.stdout.isatty() else 200
        return Console(width=width, highlight=False)


def print_json(document: Any) -> None:
    """One JSON document on one line."""
    click.echo(json.dumps(document, ensure_ascii=False, default=dataclasses.asdict))


def fail(call: Call, error: BrokerError, request_id: str = "", backend: str = "") -> NoReturn:
    """Says what went wrong and ends the command. `request_id`: of the request that it ended,
    `backend` the one that had it."""
    if call.as_json:
        print_json(error_document(error, call.address, request_id))
    else:
        words = one_line(sentence_of(error, call.address, backend))
        click.echo(f"brokerctl: {words}", err=True)
        if request_id and is_in_the_books(error):
            click.echo(f"`brokerctl explain {request_id}` tells how it came to that", err=True)
    sys.exit(exit_status_of(error))


def asking(command: Callable[..., None]) -> Callable[..., None]:
    """Makes a function a command that asks a broker: --address, --json, and errors in words."""

    @click.option(
        "--address",
        metavar="HOST:PORT",
        help="Where the broker is.  [default: BROKER_ADDRESS, else 127.0.0.1:50434]",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
    @functools.wraps(command)
    def wrapped(*args: Any, address: str | None, as_json: bool, **kwargs: Any) -> None:
        call = Call(address=checked_address(broker_address(address)), as_json=as_json)
        try:
            command(call, *args, **kwargs)
        except BrokerError as error:
            fail(call, error)
        except KeyboardInterrupt:
            click.echo("", err=True)
            sys.exit(EXIT_INTERRUPTED)

    return wrapped
