"""Shows the fleet: a live picture on a terminal, plain lines elsewhere.

Both follow the same two sources: the agents' events, and the broker's status, asked for again and
again, which says which model is resident.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from broker_client import AsyncClient, BackendModel, Event, Queued, Retrying, Status
from brokerctl.demo.fleet import Agent, Outcome, Plan
from brokerctl.figures import counted, duration_text
from brokerctl.waiting_line import eta_text

REFRESH_INTERVAL_S: Final = 0.15
# What the columns beside "now" take of a line, and what "now" gets at least.
OTHER_COLUMNS_WIDTH: Final = 52
NOW_WIDTH_MIN: Final = 20
STREAMS: Final = "streams  "


class PlainView:
    """One line per thing that happens: a request that waits, one that ended, a model's change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._places: dict[str, str] = {}
        self._told: dict[str, Plan] = {}  # by agent, the request of which it was said that it waits

    def watch(self, agent: Agent, event: Event | Outcome) -> None:
        """Hears of one agent."""
        if isinstance(event, Queued):
            # Said once for each request, however often its position changes.
            if agent.current is None or self._told.get(agent.agent_id) is agent.current:
                return
            self._told[agent.agent_id] = agent.current
            self._say(f"{who(agent)} waits, position {event.position}{about(event)}")
        elif isinstance(event, Retrying):
            self._say(f"{who(agent)} {held_back_text(event)}")
        elif isinstance(event, Outcome):
            self._say(outcome_text(event))

    def tell(self, line: str) -> None:
        """Hears of the greedy agent."""
        self._say(line)

    def show(self, status: Status, agents: Sequence[Agent]) -> None:
        """Tells what changed among the models."""
        now = {each.name: model_text(each) for each in occupants(status)}
        for name, text in now.items():
            if self._places.get(name) != text:
                self._say(f"model {name}: {text}")
        for name in self._places.keys() - now.keys():
            self._say(f"model {name}: gone")
        self._places = now

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to put back."""

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


class LiveView:
    """A picture that is drawn anew in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def watch(self, agent: Agent, event: Event | Outcome) -> None:
        """The picture is drawn from the agents themselves."""

    def tell(self, line: str) -> None:
        """Keeps it above the picture."""
        self._console.print(line, markup=False)

    def show(self, status: Status, agents: Sequence[Agent]) -> None:
        """Draws it."""
        self._live.update(picture(status, agents, width=self._console.width), refresh=True)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


View = PlainView | LiveView


async def keep_showing(view: View, client: AsyncClient, agents: Sequence[Agent]) -> None:
    """Shows the present state until cancelled."""
    while True:
        view.show(await client.status(), agents)
        await asyncio.sleep(REFRESH_INTERVAL_S)


def picture(status: Status, agents: Sequence[Agent], *, width: int) -> RenderableType:
    """Models above, agents below, in `width` columns."""
    now_width = max(NOW_WIDTH_MIN, width - OTHER_COLUMNS_WIDTH)
    models = Table("model", "state", "running", "waiting", box=box.SIMPLE_HEAD)
    for each in occupants(status):
        models.add_row(
            escape(each.name),
            each.place.state,
            f"{each.place.running} of {each.place.slots}",
            str(each.queued),
        )
    fleet = Table("agent", "prio", "model", "now", "done", box=box.SIMPLE_HEAD)
    for agent in agents:
        plan = agent.current
        fleet.add_row(
            escape(agent.agent_id),
            str(plan.priority) if plan else "",
            escape(plan.model) if plan else "",
            activity(agent, width=now_width),
            f"{agent.ended} of {len(agent.plans)}",
        )
    line = f"{counted(status.queued, 'request')} waiting, {status.running} running"
    return Group(Text(line), models, fleet)


def occupants(status: Status) -> list[BackendModel]:
    """The models that occupy a backend."""
    return [model for backend in status.backends for model in backend.models]


def model_text(model: BackendModel) -> str:
    """The state of a model, without the counts that change all the time."""
    return model.place.state if model.place.managed else f"{model.place.state}, loaded by others"


def activity(agent: Agent, *, width: int) -> Text:
    """What an agent does, in one line of `width` columns: of an answer, its last words."""
    if agent.current is None:
        has_ended = agent.ended == len(agent.plans)
        return Text("has all its answers" if has_ended else "", style="green")
    if agent.retrying is not None:
        line = held_back_text(agent.retrying)
        return Text(line, style="magenta", no_wrap=True, overflow="ellipsis")
    if agent.started is not None:
        words = " ".join(agent.tail.split())[-(width - len(STREAMS)) :]
        return Text(f"{STREAMS}{words}", style="cyan", no_wrap=True)
    if agent.queued is not None:
        detail = f"  {agent.queued.detail}" if agent.queued.detail else ""
        line = f"waits, position {agent.queued.position}{about(agent.queued)}{detail}"
        return Text(line, style="yellow", no_wrap=True, overflow="ellipsis")
    return Text("asks")


def held_back_text(retrying: Retrying) -> str:
    """Why it comes again, and when."""
    delay = duration_text(retrying.delay_s * 1000)
    return f"tries again in {delay}: {retrying.error}"


def about(queued: Queued) -> str:
    """The estimate, where there is one."""
    text = eta_text(queued)
    return f", {text}" if text else ""


def who(agent: Agent) -> str:
    """An agent and its present request."""
    plan = agent.current
    return f"{agent.agent_id} (priority {plan.priority}, {plan.model})" if plan else agent.agent_id


def outcome_text(outcome: Outcome) -> str:
    """How a request ended, in one line."""
    plan = outcome.plan
    name = f"{plan.agent_id} (priority {plan.priority}, {plan.model})"
    if outcome.error:
        return f"{name} FAILED: {outcome.error}"
    waited = duration_text(outcome.wait_ms)
    return f"{name} got {counted(outcome.tokens, 'token')} after waiting {waited}"
