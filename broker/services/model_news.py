"""What has changed of the models, told to any number of watchers at a bounded cost.

Only while somebody watches anything is compared: the models on disks with those before, and what
they do in memory. All watchers share one record of the last changes; a watcher keeps no more than
its place in it, so that one who reads slowly gathers nothing and gets what holds when it reads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile
from typing import Final

from broker.core.errors import Draining, SubscribersFull
from broker.core.snapshot import Snapshot
from broker.models.index import ModelIndex
from broker.models.known import KnownModel
from broker.models.local_rows import LocalRows
from broker.models.query import ModelQuery

# What came together is told together: a backend that lists anew changes many models at once.
GATHER_S: Final = 0.02
# Watchers are told at most so often: who deletes a hundred models needs no hundred lists.
PAUSE_S: Final = 0.1
# What a model does in memory is looked at so often while somebody watches: a look is 50 us.
LOOK_INTERVAL_S: Final = 0.25
# Changes that are kept for watchers who have not taken them, and that one of them is told at once.
CHANGES_KEPT_MAX: Final = 4_096
CHANGES_TOLD_MAX: Final = 500
# When a place may be free again is not known: watchers stay for as long as they like.
_PLACE_RETRY_NS: Final = 5_000_000_000


class Kind(Enum):
    """What became of a model: it came to its first disk, left its last, is another one or lies
    elsewhere, or does something else in memory."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    STATE = "state"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChange:
    """One model, and what became of it."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class _Entry:
    """What was told of one model at once; None: it was, or is, on no disk."""

    seq: int
    key: str
    before: KnownModel | None
    after: KnownModel | None


class ModelNews:
    """See the module. `is_loading` and what else is not of one model is `surroundings`; where that
    is another than before, watchers are told, too. `on_watched` is called when the first one
    comes: whoever asks backends may do so more often from then on."""

    def __init__(
        self,
        index: ModelIndex,
        snapshot: Callable[[], Snapshot],
        *,
        surroundings: Callable[[], Hashable],
        watchers_max: int,
        on_watched: Callable[[], None],
    ) -> None:
        self._index = index
        self._snapshot = snapshot
        self._surroundings = surroundings
        self._watchers_max = watchers_max
        self._on_watched = on_watched
        self._watchers: dict[Watcher, None] = {}
        self._entries: deque[_Entry] = deque(maxlen=CHANGES_KEPT_MAX)
        self._models: dict[str, KnownModel] = {}  # on disks, by comparison key
        self._listed_ms = -1  # the index's timestamp that they are of
        self._states: dict[tuple[str, str], Hashable] = {}  # by backend and runner
        self._around: Hashable = None
        self._due: asyncio.TimerHandle | None = None  # a look before its time
        self._routine: asyncio.TimerHandle | None = None
        self._told_s = 0.0  # by the loop's clock, when watchers were told last
        self._is_closed = False
        self.seq = 0  # of the last change
        self.revision = 0  # grows whenever watchers are told
        index.on_change(self.poke)

    @property
    def is_watched(self) -> bool:
        return bool(self._watchers)

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    @property
    def watchers_max(self) -> int:
        return self._watchers_max

    def open(self, query: ModelQuery) -> Watcher:
        """One more watcher, who has heard nothing yet; it must be closed. SubscribersFull where
        there are as many as may be; Draining."""
        if self._is_closed:
            raise Draining("the broker is leaving")
        if len(self._watchers) >= self._watchers_max:
            raise SubscribersFull(
                f"{self._watchers_max} watch the list of models already, as many as may "
                "([model_list] watchers_max)",
                retry_after_ns=_PLACE_RETRY_NS,
            )
        is_first = not self._watchers
        if is_first:
            self._compare()  # what was before nobody has seen
            self._entries.clear()
            self.revision += 1
            self._look_later()
        watcher = Watcher(self, query)
        self._watchers[watcher] = None
        if is_first:
            self._on_watched()
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """It watches no more."""
        self._watchers.pop(watcher, None)
        if not self._watchers:
            self._stop()

    def poke(self) -> None:
        """Something may have changed: it is looked at soon, together with what else comes."""
        if self._watchers and self._due is None:
            loop = asyncio.get_running_loop()
            rest_s = self._told_s + PAUSE_S - loop.time()
            self._due = loop.call_later(max(GATHER_S, rest_s), self._look_due)

    def _look_due(self) -> None:
        self._due = None
        self._look()

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._routine = loop.call_later(LOOK_INTERVAL_S, self._look_routinely)

    def _look_routinely(self) -> None:
        self._look_later()
        if self._due is None:
            self._look()

    def _look(self) -> None:
        if not self._compare():
            return
        self.revision += 1
        self._told_s = asyncio.get_running_loop().time()
        for each in self._watchers:
            each.wake()

    # What has changed

    def _compare(self) -> bool:
        """Notes what is others than before; was there anything?"""
        snapshot, around = self._snapshot(), self._surroundings()
        is_other = around != self._around
        self._around = around
        if self._listed_ms != self._index.changed_unix_ms:
            self._listed_ms = self._index.changed_unix_ms
            self._compare_models()
            is_other = True  # the library may have changed, of which no model is told apart
        return self._compare_states(states_of(snapshot)) or is_other

    def _compare_models(self) -> None:
        before, self._models = self._models, {each.key: each for each in self._index.local()}
        for key, model in self._models.items():
            was = before.get(key)
            if was is not model and (was is None or content_of(was) != content_of(model)):
                self._note(key, was, model)
        for key, was in before.items():
            if key not in self._models:
                self._note(key, was, None)

    def _compare_states(self, states: dict[tuple[str, str], Hashable]) -> bool:
        before, self._states = self._states, states
        changed = {
            where
            for where in before.keys() | states.keys()
            if before.get(where) != states.get(where)
        }
        if not changed:
            return False
        for key, model in self._models.items():
            if any(
                (name, "") in changed or (name, runner) in changed
                for name, runner in model.runners.items()
            ):
                self._note(key, model, model)
        return True

    def _note(self, key: str, before: KnownModel | None, after: KnownModel | None) -> None:
        self.seq += 1
        self._entries.append(_Entry(self.seq, key, before, after))

    def changes_after(self, seq: int, query: ModelQuery) -> tuple[ModelChange, ...]:
        """What has become since then of the models that this means, or meant: one for each model,
        the last changes where there were too many."""
        newer = takewhile(lambda each: each.seq > seq, reversed(self._entries))
        ends: dict[str, tuple[KnownModel | None, KnownModel | None]] = {}
        for each in reversed(tuple(newer)):
            first, _ = ends.pop(each.key, (each.before, None))
            ends[each.key] = first, each.after
        told = (
            _change(before, after)
            for before, after in ends.values()
            if _concerns(query, before) or _concerns(query, after)
        )
        return tuple(each for each in told if each is not None)[-CHANGES_TOLD_MAX:]

    # Its end

    def _stop(self) -> None:
        for timer in (self._due, self._routine):
            if timer is not None:
                timer.cancel()
        self._due = self._routine = None

    def close(self) -> None:
        """The broker leaves: every watcher hears so, and nobody comes in."""
        self._is_closed = True
        self._stop()
        for each in self._watchers:
            each.end()


class Watcher:
    """One who watches. `take` and `wait` in turn; whoever has it must `close` it."""

    __slots__ = ("_is_ended", "_news", "_query", "_seq", "_woken")

    def __init__(self, news: ModelNews, query: ModelQuery) -> None:
        self._news = news
        self._query = query
        self._seq = news.seq
        self._woken = asyncio.Event()
        self._is_ended = False

    def take(self) -> tuple[ModelChange, ...]:
        """What has changed since it took last; at first nothing."""
        self._woken.clear()
        seq, self._seq = self._seq, self._news.seq
        return self._news.changes_after(seq, self._query)

    async def wait(self) -> None:
        """Returns when there is something new. Draining when the broker leaves."""
        if not self._is_ended:
            await self._woken.wait()
        if self._is_ended:
            raise Draining("the broker is leaving")

    def wake(self) -> None:
        self._woken.set()

    def end(self) -> None:
        """The broker leaves."""
        self._is_ended = True
        self._woken.set()

    def close(self) -> None:
        """It watches no more. Again: nothing."""
        self._news.leave(self)


def content_of(model: KnownModel) -> Hashable:
    """What makes it another model: its digest, size or abilities, or where it lies."""
    places = frozenset(model.runners.items())
    return model.digest, model.size_bytes, model.capabilities, model.context_window, places


def states_of(snapshot: Snapshot) -> dict[tuple[str, str], Hashable]:
    """What makes a change of what models do in memory: not how many requests run. Under the runner
    "" stands what concerns all of a backend."""
    found: dict[tuple[str, str], Hashable] = {}
    for backend in snapshot.backends:
        found[backend.name, ""] = backend.up
        for each in backend.residents:
            memory = (each.memory_bytes, each.gpu_memory_bytes)
            what = (each.state, each.managed, each.slots, each.num_ctx, *memory)
            found[backend.name, each.runner] = what
    return found


def _change(before: KnownModel | None, after: KnownModel | None) -> ModelChange | None:
    """What came of it in the end; None where it came and went."""
    known = after or before
    if known is None:
        return None
    if before is None:
        kind = Kind.ADDED
    elif after is None:
        kind = Kind.REMOVED
    else:
        kind = Kind.STATE if content_of(before) == content_of(after) else Kind.CHANGED
    return ModelChange(name=known.name, kind=kind)


def _concerns(query: ModelQuery, model: KnownModel | None) -> bool:
    """Does it mean this model, but for what changes with time, as where it lies?"""
    return model is not None and bool(LocalRows((model,)).meant(query))
