"""The screen of `brokerctl models pick`: a list that follows the broker, and filters by key.

Each filter begins a new watch, so that the broker sorts and searches; until it answers, what is
there already is filtered here. A list takes the place of the one before as a whole.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import ClassVar, Final, Protocol, Unpack

from textual import events
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.widgets import Input, Static

from broker_client import BrokerError, InvalidRequest, Model, ModelList, ModelUnknown, Wanted
from brokerctl.exit_status import EXIT_INTERRUPTED, EXIT_SAID_NO
from brokerctl.explanation import sentence_of
from brokerctl.models_pick_details import detail_lines, empty_text
from brokerctl.models_pick_filter import PickFilter, filter_text
from brokerctl.models_pick_keys import PICK_BINDINGS, help_lines, keys_line
from brokerctl.models_pick_list import PickList
from brokerctl.models_pick_marks import Marks, marks_text
from brokerctl.models_pick_pulls import Downloads, Pulling
from brokerctl.models_pick_rows import row_of
from brokerctl.models_pick_search import SearchLine
from brokerctl.models_pick_shown import Shown
from brokerctl.one_line import one_line
from brokerctl.top_dialogs import Page, Question

# Between two tries to reach a broker that has gone.
RETRY_S: Final = 1.0
# A search is asked for once no key came for so long.
DEBOUNCE_S: Final = 0.15
PAGE_SIZE: Final = 500
# With fewer lines than this the list needs the room of the details.
DETAILS_HEIGHT_MIN: Final = 22
DETAILS_LINES: Final = 7


class Watched(Pulling, Protocol):
    """What the screen asks of a client."""

    def watch_models(
        self, *, page_size: int, **wanted: Unpack[Wanted]
    ) -> AsyncGenerator[ModelList, None]:
        """The list at once and after every change, until a `BrokerError`."""

    async def model(self, name: str) -> Model:
        """One model; `ModelUnknown` where there is none."""

    async def close(self) -> None:
        """Ends the connection."""


class Picker(App[list[str]]):
    """Ends with the names that were chosen; without any, `return_code` says how it was left."""

    TITLE = "brokerctl models pick"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #asked, #news, #marks { height: auto; max-height: 3; padding: 0 1; }
    #asked, #heading { text-style: bold; }
    #heading, #keys { height: 1; text-wrap: nowrap; }
    #keys { padding: 0 1; color: $text-muted; text-wrap: nowrap; }
    #news { color: $text-warning; display: none; }
    #news.shown { display: block; }
    #details {
        height: 8; padding: 0 1; border-top: solid $primary;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [*PICK_BINDINGS]

    def __init__(
        self,
        connect: Callable[[], Watched],
        *,
        asked: PickFilter,
        is_multiple: bool = True,
        selected: Sequence[str] = (),
        retry_s: float = RETRY_S,
        debounce_s: float = DEBOUNCE_S,
    ) -> None:
        # Without colour textual paints greys, unless it is to use the terminal's own.
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)
        self._connect = connect
        self._is_multiple = is_multiple
        self._retry_s = retry_s
        self._debounce_s = debounce_s
        self._client: Watched | None = None
        self._shown = Shown(asked)
        self._marks = Marks()
        self._wanted = list(selected)  # to be marked once the broker is there
        self._is_folded = False
        self._downloads = Downloads(self._note, self._rebuild)

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        yield SearchLine()
        yield Static("", id="asked", markup=False)
        yield Static("", id="news", markup=False)
        yield Static("", id="heading", markup=False)
        yield PickList(self._marks, is_multiple=self._is_multiple)
        yield Static("", id="details", markup=False)
        yield Static("", id="marks", markup=False)
        yield Static("", id="keys", markup=False)

    def on_mount(self) -> None:
        """Begins to watch."""
        self._client = self._connect()
        self._list.focus()
        self._rebuild()
        self._begin(delay_s=0)

    async def on_unmount(self) -> None:
        """Ends the connection."""
        if self._client is not None:
            await self._client.close()

    @property
    def is_answered(self) -> bool:
        """Has the broker told what is asked for now?"""
        return self._shown.is_answered

    @property
    def _list(self) -> PickList:
        return self.query_one(PickList)

    @property
    def _search_line(self) -> SearchLine:
        return self.query_one(SearchLine)

    def _begin(self, *, delay_s: float) -> None:
        """Watches what is asked for now, and nothing else."""
        if self._client is not None:
            watch = self._watch(self._client, self._shown.asked, delay_s)
            self.run_worker(watch, name="watch", group="watch", exclusive=True)

    async def _watch(self, client: Watched, asked: PickFilter, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        while True:  # Until something else is asked for: a broker that comes back is shown again.
            try:
                async for told in client.watch_models(page_size=PAGE_SIZE, **asked.wanted()):
                    self._take(asked, told)
                self._lose("the broker has stopped telling")
            except BrokerError as error:
                self._lose(sentence_of(error, client.address))
            await asyncio.sleep(self._retry_s)

    def _take(self, asked: PickFilter, told: ModelList) -> None:
        """A list takes the place of the one before, all at once."""
        was_lost = bool(self._shown.lost)
        if self._shown.take(asked, told):
            for each in told.models:
                self._note(self._marks.learn(each.name, each, told.changed_unix_ms))
            self._rebuild()
            self.run_worker(self._look_after_marks(), name="marks", group="marks", exclusive=True)
        elif was_lost:
            self._say()

    def _lose(self, why: str) -> None:
        self._shown.lost = why
        self._say()

    def _rebuild(self) -> None:
        shown = self._shown
        self._list.empty_text = empty_text(
            shown.asked, is_answered=shown.is_answered, loading=shown.is_loading
        )
        self._list.show(
            [row_of(each, self._downloads.text(each.name)) for each in shown.models.values()]
        )
        self._say()

    async def _look_after_marks(self) -> None:
        """Marks what was asked for at the start; finds out what became of marks that left."""
        client, seen_unix_ms = self._client, self._shown.changed_unix_ms
        if client is None:
            return
        try:
            while self._wanted:
                await self._mark_wanted(client, self._wanted[0], seen_unix_ms)
                self._wanted.pop(0)
            for name in self._marks.unsure(self._shown.models, seen_unix_ms):
                model = await self._found(client, name)
                self._note(self._marks.learn(name, model, seen_unix_ms))
        except BrokerError as error:  # the next list comes with another try
            self._note(sentence_of(error, client.address))
        self._say()

    async def _mark_wanted(self, client: Watched, name: str, seen_unix_ms: int) -> None:
        model = self._shown.models.get(name) or await self._found(client, name)
        if model is None:
            self._note(f"there is no model {one_line(name)}")
        elif not self._is_multiple:
            self._list.go_to(model.name)
        else:
            self._mark(model, seen_unix_ms)
            self._list.refresh()

    async def _found(self, client: Watched, name: str) -> Model | None:
        try:
            return await client.model(name)
        except (ModelUnknown, InvalidRequest):  # one that no model can have is none, either
            return None

    def _note(self, words: str) -> None:
        """Tells it in passing; "" is nothing to tell."""
        if words:
            self.notify(words, severity="warning", markup=False)

    def _say(self) -> None:
        """All lines around the list."""
        shown = self._shown
        asked = f"{filter_text(shown.asked)} - {shown.count_text()}"
        self.query_one("#asked", Static).update(asked)
        news = shown.news()
        line = self.query_one("#news", Static)
        line.update("\n".join(news))
        line.set_class(bool(news), "shown")
        self.query_one("#heading", Static).update(self._list.heading)
        under_cursor = self._list.selected.name if self._list.selected else ""
        self.query_one("#marks", Static).update(marks_text(self._marks, under_cursor))
        self._say_details()

    def _say_details(self) -> None:
        selected = self._list.selected
        model = self._shown.models.get(selected.name) if selected is not None else None
        details = self.query_one("#details", Static)
        details.update("\n".join(detail_lines(model)) if model is not None else "")
        details.display = not self._is_folded and self.size.height >= DETAILS_HEIGHT_MIN

    def on_pick_list_changed(self) -> None:
        """Other details, or another heading."""
        self._say()

    def on_pick_list_clicked(self) -> None:
        """As the keys."""
        if self._is_multiple:
            self.action_mark()
        else:
            self.action_choose()

    def on_resize(self, event: events.Resize) -> None:
        """Another width has room for other keys, another height for the details."""
        keys = keys_line(event.size.width - 2, is_multiple=self._is_multiple)
        self.query_one("#keys", Static).update(keys)
        self.call_after_refresh(self._say)

    def _ask(self, asked: PickFilter, *, delay_s: float = 0) -> None:
        """Lists something else: what is known of it at once, the rest when the broker tells it."""
        if self._shown.ask(asked):
            self._rebuild()
            self._begin(delay_s=delay_s)

    def action_availability(self) -> None:
        """Downloaded, downloadable, both."""
        self._ask(self._shown.asked.with_next_availability())

    def action_switch(self, name: str) -> None:
        """One of the filters that are on or off."""
        self._ask(self._shown.asked.with_switched(name))

    def action_capability(self, name: str) -> None:
        """One more thing that a model must be able to do, or not any more."""
        self._ask(self._shown.asked.with_capability(name))

    def action_context(self) -> None:
        """The least context."""
        self._ask(self._shown.asked.with_next_context())

    def action_order(self) -> None:
        """Another order."""
        self._ask(self._shown.asked.with_next_order())

    def action_all_off(self) -> None:
        """Everything there is."""
        self._search_line.empty()
        self._ask(PickFilter(availability="all", order=self._shown.asked.order))

    def action_search(self) -> None:
        """Opens the line to type in."""
        self._search_line.open(self._shown.asked.search)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Searches while it is typed."""
        self._ask(replace(self._shown.asked, search=event.value.strip()), delay_s=self._debounce_s)

    def on_input_submitted(self) -> None:
        """Keeps the search, gives the keys back to the list."""
        self._end_search_line()

    def action_end_search(self) -> None:
        """Ends the search; where none is on, leaves."""
        if self._search_line.is_open or self._shown.asked.search:
            self._search_line.empty()
            self._end_search_line()
            self._ask(replace(self._shown.asked, search=""))
        else:
            self.action_leave()

    def _end_search_line(self) -> None:
        self._search_line.close()
        self._list.focus()

    def action_list(self, action: str, count: int) -> None:
        """Moves the cursor of the list, wherever the keys go."""
        if action == "move":
            self._list.action_move(count)
        else:
            self._list.action_page(count)

    def action_mark(self) -> None:
        """Marks the model under the cursor, or takes the mark away; where only one is chosen there
        are no marks."""
        selected = self._list.selected
        if selected is None or not self._is_multiple:
            return
        if selected.name in self._marks:
            self._marks.remove(selected.name)
        else:
            self._mark(self._shown.models[selected.name], self._shown.changed_unix_ms)
        self._list.refresh_row(self._list.cursor)
        self._say()

    def _mark(self, model: Model, seen_unix_ms: int) -> None:
        if not self._marks.add(model, seen_unix_ms):
            self._note(f"no more than {len(self._marks)} models are marked at once")

    def action_pull(self) -> None:
        """Downloads the model under the cursor, once that is confirmed."""
        client, selected = self._client, self._list.selected
        if client is None or selected is None:
            return
        name, model = selected.name, self._shown.models[selected.name]
        if model.downloaded:
            self._note(f"{one_line(name)} is downloaded already")
        elif not self._downloads.may_begin(name):
            self._note(f"{one_line(name)} is under way, or too many others are")
        else:

            def answered(is_yes: bool | None) -> None:
                if is_yes:
                    self.run_worker(self._downloads.follow(client, name), name="download")

            size = f" ({model.size_text})" if model.size_text else ""
            self.push_screen(Question(f"download {one_line(name)}{size}?"), answered)

    def action_unmark(self) -> None:
        """Takes all marks away."""
        self._marks.clear()
        self._list.refresh()
        self._say()

    def action_details(self) -> None:
        """Folds the details or opens them; where there is no room for both, as a page."""
        if self.size.height >= DETAILS_HEIGHT_MIN:
            self._is_folded = not self._is_folded
            self._say()
        elif (selected := self._list.selected) is not None:
            self.push_screen(Page(detail_lines(self._shown.models[selected.name])))

    def action_help(self) -> None:
        """What the keys do."""
        self.push_screen(Page(help_lines(is_multiple=self._is_multiple)))

    def action_choose(self) -> None:
        """Ends with what is marked, else with what is under the cursor."""
        selected = self._list.selected
        if self._marks:
            names = self._marks.taken
        else:
            names = [selected.name] if selected is not None else []
        if names:
            self.exit(names)
        else:
            self._note("there is nothing to take: q leaves without a choice")

    def action_leave(self) -> None:
        """Leaves without a choice."""
        self.exit(return_code=EXIT_SAID_NO)

    def action_interrupt(self) -> None:
        """Ctrl-C: leaves as every command does."""
        self.exit(return_code=EXIT_INTERRUPTED)
