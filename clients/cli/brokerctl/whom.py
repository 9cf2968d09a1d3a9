"""Whom an operator means: one agent, all agents of a type, or everybody; and for how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from brokerctl.duration import Duration
from brokerctl.figures import counted, duration_text

Command = Callable[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Whom:
    """An agent or a type; with neither, everybody."""

    agent_id: str = ""
    agent_type: str = ""

    @property
    def words(self) -> str:
        """As the subject of a sentence in the singular: "agent opus-1"."""
        if self.agent_id:
            return f"agent {self.agent_id}"
        return f"every agent of type {self.agent_type}" if self.agent_type else "every agent"

    @property
    def arguments(self) -> str:
        """As brokerctl takes it."""
        if self.agent_id:
            return self.agent_id
        return f"--type {self.agent_type}" if self.agent_type else "--all"

    def keywords(self) -> dict[str, str]:
        """As the client takes it."""
        return {"agent_id": self.agent_id, "agent_type": self.agent_type}


def scoped(command: Command) -> Command:
    """Gives a command AGENT and --type, of which `chosen` makes a `Whom`."""
    command = click.option(
        "--type", "agent_type", metavar="NAME", help="All agents of a type, instead of AGENT."
    )(command)
    return click.argument("agent", required=False)(command)


def everybody(command: Command) -> Command:
    """Gives a command --all."""
    return click.option("--all", "all_agents", is_flag=True, help="Everybody.")(command)


def lasting(command: Command) -> Command:
    """Gives a command --for."""
    return click.option(
        "--for",
        "for_s",
        type=Duration(),
        metavar="TIME",
        help="How long, as 90s, 10m or 2h.  [default: until resumed]",
    )(command)


def chosen(agent: str | None, agent_type: str | None, *, all_agents: bool | None = None) -> Whom:
    """The one that was named; click's usage error for none or several. `all_agents` None: the
    command has no --all."""
    ways = "AGENT or --type NAME" if all_agents is None else "AGENT, --type NAME or --all"
    if bool(agent) + bool(agent_type) + bool(all_agents) != 1:
        raise click.UsageError(f"whom? give {ways}, exactly one")
    return Whom(agent_id=agent or "", agent_type=agent_type or "")


def lasting_text(whom: Whom, for_s: float | None) -> str:
    """Until when."""
    if for_s is None:
        return f"until `brokerctl resume {whom.arguments}`"
    return f"for {duration_text(for_s * 1000)}"


def concerned_text(whom: Whom, count: int) -> str:
    """Of a type or everybody: how many are known at the moment."""
    return "" if whom.agent_id else f" ({counted(count, 'agent')} known now)"


def document(whom: Whom, count: int, for_s: float | None = None) -> dict[str, Any]:
    """What was done, for programs."""
    return {**whom.keywords(), "for_s": for_s, "agents": count}
