"""What happened in a world, as stretches of time: what ran in which slot, what was loaded where.

Rules: it listens as a judge does and changes nothing. A stretch that has not ended yet ends when
the recording is closed. A slot here is a lane of a picture: the lowest that is free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from broker.core.effects import Effect, Load, StartAttempt
from broker.core.requests import AttemptId, RequestKey
from broker.core.stimuli import AttemptEnded, LoadEnded, ResidentsSeen, Stimulus, UnloadEnded
from broker.sim.ollama_work import ExchangeId, Signal, SlotTaken, Work


class StretchKind(Enum):
    RUNNING = "running"  # an attempt, in a lane of its backend
    LOADING = "loading"
    RESIDENT = "resident"  # loaded, from the end of its load until it is gone


@dataclass(slots=True, kw_only=True)
class Stretch:
    kind: StretchKind
    backend: str
    model: str
    lane: int
    begin_ns: int
    end_ns: int | None = None

    def length_ns(self) -> int:
        return 0 if self.end_ns is None else self.end_ns - self.begin_ns


class Recording:
    """A judge that only writes. `models` names each runner's model."""

    def __init__(self, models: Mapping[str, str]) -> None:
        self.stretches: list[Stretch] = []
        self.loads_failed = 0
        self.prompt_tokens = self.known_tokens = 0  # of the prompts that were begun
        self.load_waits_ns: dict[RequestKey, int] = {}  # of those that waited for a load
        self._models = models
        self._running: dict[AttemptId, Stretch] = {}
        self._loading: dict[tuple[str, str], Stretch] = {}  # by backend and runner
        self._resident: dict[tuple[str, str], Stretch] = {}
        self._lanes: dict[tuple[str, StretchKind], set[int]] = {}  # taken ones
        self._heard: dict[type[Any], Callable[[Any, int], None]] = {
            AttemptEnded: self._attempt_ended,
            LoadEnded: self._load_ended,
            UnloadEnded: self._unload_ended,
            ResidentsSeen: self._residents_seen,
        }

    def turned(self, stimulus: Stimulus, effects: Sequence[Effect], now_ns: int) -> None:
        hear = self._heard.get(type(stimulus))
        if hear is not None:
            hear(stimulus, now_ns)
        for effect in effects:
            if isinstance(effect, StartAttempt):
                if effect.load_wait_ns:
                    self.load_waits_ns[effect.key] = effect.load_wait_ns
                self._running[effect.attempt] = self._begun(
                    StretchKind.RUNNING, effect.backend, effect.model, now_ns
                )
            elif isinstance(effect, Load):
                self._loading[effect.backend, effect.runner] = self._begun(
                    StretchKind.LOADING, effect.backend, self._models[effect.runner], now_ns
                )

    def opened(self, server: str, exchange: ExchangeId, work: Work) -> None:
        """What passes on the wire is not drawn."""

    def closed(self, server: str, exchange: ExchangeId) -> None:
        """Nor this."""

    def signalled(self, server: str, signal: Signal) -> None:
        if isinstance(signal, SlotTaken):
            self.prompt_tokens += signal.prompt_tokens
            self.known_tokens += signal.known_tokens

    def close(self, now_ns: int) -> None:
        """Ends what has not ended."""
        for each in self.stretches:
            if each.end_ns is None:
                each.end_ns = now_ns

    # Inside

    def _begun(self, kind: StretchKind, backend: str, model: str, now_ns: int) -> Stretch:
        # A model is loaded into the place that it then has.
        place = StretchKind.RUNNING if kind is StretchKind.RUNNING else StretchKind.RESIDENT
        taken = self._lanes.setdefault((backend, place), set())
        lane = next(each for each in range(len(taken) + 1) if each not in taken)
        taken.add(lane)
        stretch = Stretch(kind=kind, backend=backend, model=model, lane=lane, begin_ns=now_ns)
        self.stretches.append(stretch)
        return stretch

    def _ended(self, stretch: Stretch | None, now_ns: int) -> None:
        if stretch is not None:
            stretch.end_ns = now_ns
            is_run = stretch.kind is StretchKind.RUNNING
            place = StretchKind.RUNNING if is_run else StretchKind.RESIDENT
            self._lanes[stretch.backend, place].discard(stretch.lane)

    def _attempt_ended(self, ended: AttemptEnded, now_ns: int) -> None:
        self._ended(self._running.pop(ended.attempt, None), now_ns)

    def _load_ended(self, ended: LoadEnded, now_ns: int) -> None:
        key = ended.backend, ended.runner
        self._ended(self._loading.pop(key, None), now_ns)
        if ended.error is None:
            self._ended(self._resident.pop(key, None), now_ns)
            self._resident[key] = self._begun(
                StretchKind.RESIDENT, ended.backend, self._models[ended.runner], now_ns
            )
        else:
            self.loads_failed += 1

    def _unload_ended(self, ended: UnloadEnded, now_ns: int) -> None:
        if ended.error is None:
            self._ended(self._resident.pop((ended.backend, ended.runner), None), now_ns)

    def _residents_seen(self, seen: ResidentsSeen, now_ns: int) -> None:
        """What a server let go by itself, as one without room does."""
        there = {each.name for each in seen.residents}
        for key, stretch in list(self._resident.items()):
            is_newer = stretch.begin_ns > seen.asked_ns
            if key[0] == seen.backend and not is_newer and stretch.model not in there:
                self._ended(self._resident.pop(key), now_ns)
