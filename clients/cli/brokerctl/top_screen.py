"""The screen of `brokerctl top`: a summary, three tables, and keys that act on what is selected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, ClassVar, Final, Protocol

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Footer, Input, Static, TabbedContent, TabPane

from broker_client import BrokerError, CancelledRequest, Explanation, Status
from brokerctl.exit_status import EXIT_INTERRUPTED
from brokerctl.explain import page
from brokerctl.explanation import sentence_of
from brokerctl.figures import duration_text
from brokerctl.top_dialogs import Page, Question
from brokerctl.top_rows import (
    AGENT_COLUMNS,
    MODEL_COLUMNS,
    REQUEST_COLUMNS,
    REQUESTS_MAX,
    Row,
    agent_rows,
    load_text,
    model_rows,
    request_rows,
    summary_lines,
)
from brokerctl.top_table import TopTable

# Between two tries to reach a broker that has gone.
RETRY_S: Final = 1.0
BOOST_FACTOR: Final = 2.0
BOOST_S: Final = 600.0
AGE_COLUMN: Final = 4


class Watched(Protocol):
    """What the screen asks of a client."""

    address: str

    def watch_status(
        self, *, requests_max: int = 0, interval_s: float = 1.0
    ) -> AsyncGenerator[Status, None]:
        """The state again and again, until a `BrokerError`."""

    async def explain(self, request_id: str, *, agent_id: str = "") -> Explanation:
        """The story of a request."""

    async def cancel_request(self, request_id: str, *, agent_id: str = "") -> CancelledRequest:
        """Ends a request."""

    async def boost(
        self, *, agent_id: str = "", weight_factor: float | None = None, for_s: float | None = None
    ) -> int:
        """Has an agent count for more."""

    async def block(self, *, agent_id: str = "") -> int:
        """Has new requests of an agent refused."""

    async def close(self) -> None:
        """Ends the connection."""


class Top(App[None]):
    """Watches until it is left; a broker that goes away is waited for."""

    TITLE = "brokerctl top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #summary { height: auto; padding: 0 1; }
    #news { height: auto; padding: 0 1; color: $warning; display: none; }
    #news.shown { display: block; }
    #filter { display: none; }
    #filter.shown { display: block; }
    TabbedContent { height: 1fr; }
    TabPane { padding: 0; }
    TopTable { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
        Binding("1", "table('requests')", show=False),
        Binding("2", "table('agents')", show=False),
        Binding("3", "table('models')", show=False),
        Binding("s", "sort", "sort"),
        Binding("r", "reverse", "reverse"),
        Binding("slash", "filter", "filter"),
        Binding("p", "pause", "hold"),
        Binding("e", "explain", "why"),
        Binding("c", "cancel", "cancel"),
        Binding("b", "boost", "boost"),
        Binding("x", "block", "block"),
        Binding("escape", "clear", show=False),
    ]

    def __init__(
        self,
        connect: Callable[[], Watched],
        *,
        interval_s: float = 1.0,
        retry_s: float = RETRY_S,
    ) -> None:
        super().__init__()
        self._retry_s = retry_s
        self._connect = connect
        self._interval_s = interval_s
        self._client: Watched | None = None
        self._status: Status | None = None
        self._lost = ""  # why no state comes at the moment
        self._is_held = False

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        yield Static("", id="summary", markup=False)
        yield Static("", id="news", markup=False)
        with TabbedContent():
            with TabPane("1 requests", id="pane-requests"):
                yield TopTable("requests", REQUEST_COLUMNS, request_rows, sort_column=AGE_COLUMN)
            with TabPane("2 agents", id="pane-agents"):
                yield TopTable("agents", AGENT_COLUMNS, agent_rows, sort_column=2)
            with TabPane("3 models", id="pane-models"):
                yield TopTable("models", MODEL_COLUMNS, model_rows, sort_column=5)
        yield Input(placeholder="only rows with …; Enter keeps it, Escape ends it", id="filter")
        yield Footer()

    def on_mount(self) -> None:
        """Begins to watch."""
        self._client = self._connect()
        self.query_one("#requests", TopTable).focus()
        self.run_worker(self._watch(self._client), name="watch")

    async def on_unmount(self) -> None:
        """Ends the connection."""
        if self._client is not None:
            await self._client.close()

    async def _watch(self, client: Watched) -> None:
        while True:  # Until the screen is left: a broker that comes back is shown again.
            try:
                async for status in client.watch_status(
                    requests_max=REQUESTS_MAX, interval_s=self._interval_s
                ):
                    self._take(status)
                self._lose("the broker has stopped telling")
            except BrokerError as error:
                self._lose(sentence_of(error, client.address))
            await asyncio.sleep(self._retry_s)

    def _take(self, status: Status) -> None:
        self._status = status
        self._lost = ""
        self._say()
        if not self._is_held:
            self._draw(status)

    def _lose(self, why: str) -> None:
        self._lost = why
        self._say()

    def _draw(self, status: Status) -> None:
        lines = [*summary_lines(status), load_text(status)]
        self.query_one("#summary", Static).update("\n".join(filter(None, lines)))
        for table in self.query(TopTable):
            table.show(status)

    def _say(self) -> None:
        """The one line about the view itself."""
        parts = []
        if self._lost:
            parts.append(f"{self._lost}; what is shown is old, trying again")
        if self._is_held:
            parts.append("held as it was; p goes on")
        if pattern := self._table().pattern:
            parts.append(f"only rows with {pattern!r}; Escape shows all")
        news = self.query_one("#news", Static)
        news.update("\n".join(parts))
        news.set_class(bool(parts), "shown")

    def _table(self) -> TopTable:
        """The table that is shown."""
        pane = self.query_one(TabbedContent).active_pane
        return (pane or self).query(TopTable).first()

    def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        """The keys go to the table that is shown."""
        event.pane.query_one(TopTable).focus()
        self._say()

    def action_table(self, name: str) -> None:
        """Shows another table."""
        self.query_one(TabbedContent).active = f"pane-{name}"

    def action_sort(self) -> None:
        """Sorts by the next column."""
        self._table().sort_next()

    def action_reverse(self) -> None:
        """Turns the order round."""
        self._table().reverse()

    def action_pause(self) -> None:
        """Holds the view as it is, or goes on."""
        self._is_held = not self._is_held
        if not self._is_held and self._status is not None:
            self._draw(self._status)
        self._say()

    def action_filter(self) -> None:
        """Opens the line to type in what rows must have."""
        line = self.query_one("#filter", Input)
        line.value = self._table().pattern
        line.add_class("shown")
        line.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filters while it is typed."""
        self._table().filter(event.value)
        self._say()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keeps the filter, gives the keys back to the table."""
        event.input.remove_class("shown")
        self._table().focus()

    def action_clear(self) -> None:
        """Ends the filter."""
        line = self.query_one("#filter", Input)
        line.value = ""
        line.remove_class("shown")
        self._table().filter("")
        self._table().focus()
        self._say()

    def action_interrupt(self) -> None:
        """Ctrl-C: leaves as every command does."""
        self.exit(return_code=EXIT_INTERRUPTED)

    def action_explain(self) -> None:
        """The story of the selected request."""
        row = self._selected_request()
        if row is not None:
            self._act(self._explain(row))

    async def _explain(self, row: Row) -> None:
        story = await self._asked().explain(row.request_id, agent_id=row.agent_id)
        self.push_screen(Page(page(story)))

    def action_cancel(self) -> None:
        """Ends the selected request, once that is confirmed."""
        row = self._selected_request()
        if row is not None:
            question = f"cancel request {row.request_id} of agent {row.agent_id}?"
            self._ask(question, lambda: self._cancel(row))

    async def _cancel(self, row: Row) -> None:
        found = await self._asked().cancel_request(row.request_id, agent_id=row.agent_id)
        self.notify(f"request {row.request_id} was {found.state}; it is cancelled", markup=False)

    def action_boost(self) -> None:
        """The agent of the selected row counts twice for a while."""
        row = self._selected_agent()
        if row is not None:
            self._act(self._boost(row.agent_id))

    async def _boost(self, agent_id: str) -> None:
        await self._asked().boost(agent_id=agent_id, weight_factor=BOOST_FACTOR, for_s=BOOST_S)
        lasts = duration_text(BOOST_S * 1000)
        self.notify(
            f"agent {agent_id}: weight x {BOOST_FACTOR:g} for {lasts}; "
            f"`brokerctl resume {agent_id}` ends it",
            markup=False,
        )

    def action_block(self) -> None:
        """Refuses new requests of the selected row's agent, once that is confirmed."""
        row = self._selected_agent()
        if row is not None:
            question = f"refuse new requests of agent {row.agent_id} until it is resumed?"
            self._ask(question, lambda: self._block(row.agent_id))

    async def _block(self, agent_id: str) -> None:
        await self._asked().block(agent_id=agent_id)
        self.notify(
            f"agent {agent_id} is blocked; `brokerctl resume {agent_id}` ends it", markup=False
        )

    def _asked(self) -> Watched:
        if self._client is None:
            raise RuntimeError("keys come only once the screen is up")
        return self._client

    def _selected_request(self) -> Row | None:
        row = self._table().selected
        if row is None or not row.request_id:
            self.notify("select a request first: key 1, then the arrows", severity="warning")
            return None
        return row

    def _selected_agent(self) -> Row | None:
        row = self._table().selected
        if row is None or not row.agent_id:
            self.notify("select a request or an agent first: key 1 or 2", severity="warning")
            return None
        return row

    def _ask(self, question: str, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Acts if the answer is yes."""
        self.push_screen(Question(question), lambda is_yes: self._act(act()) if is_yes else None)

    def _act(self, action: Coroutine[Any, Any, None]) -> None:
        """Runs beside the view; an error is words, as everywhere."""
        self.run_worker(self._told(action), name="act")

    async def _told(self, action: Coroutine[Any, Any, None]) -> None:
        try:
            await action
        except BrokerError as error:
            said = sentence_of(error, self._asked().address)
            self.notify(said, severity="error", markup=False)
