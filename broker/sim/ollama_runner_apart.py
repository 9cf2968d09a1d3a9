"""A simulated runner whose requests do not slow one another: each takes its own time and no more.

No machine is so: reading a prompt holds up everybody's tokens (`ollama_runner.py` does that). It is
for comparing rules of scheduling by service times that are known beforehand: prompt tokens over the
rate of reading, and output tokens over the rate of making them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from broker.sim.ollama_machine import MILLISECOND_NS, SECOND_NS, ServerSettings, Sizing
from broker.sim.ollama_model_card import SimModel
from broker.sim.ollama_reminders import Reminder, Reminders
from broker.sim.ollama_runner import Runner, RunnerHost, Sequence


@dataclass(slots=True, eq=False)
class _Stretch:
    """What a sequence does until `end_ns`, which is meaningless while it is paused: reads its
    prompt and makes a first token, or makes `tokens` more."""

    sequence: Sequence
    tokens: int
    left_ns: int
    end_ns: int = 0
    reminder: Reminder | None = None


class RunnerApart(Runner):
    """See the module."""

    def __init__(
        self,
        model: SimModel,
        size: Sizing,
        settings: ServerSettings,
        *,
        share: float,
        rank: int,
        coarse: bool,
        reminders: Reminders,
        host: RunnerHost,
    ) -> None:
        super().__init__(
            model,
            size,
            settings,
            share=share,
            rank=rank,
            coarse=coarse,
            reminders=reminders,
            host=host,
        )
        self._under_way: dict[int, _Stretch] = {}

    def stall(self, sequence: Sequence, now_ns: int) -> None:
        """What was made of the token under way is lost."""
        stretch = self._under_way.get(id(sequence))
        if stretch is None or not sequence.produced or sequence.stalled:
            return
        self._pause(stretch, now_ns)
        sequence.stalled = True
        undone = -(-stretch.left_ns // self._token_ns)
        sequence.produced += stretch.tokens - undone

    def resume(self, sequence: Sequence, now_ns: int) -> None:
        if sequence.stalled and not sequence.gone:
            sequence.stalled = False
            self._go_on(sequence, now_ns)

    def freeze(self, now_ns: int) -> None:
        if self.dead or self.frozen_at_ns is not None:
            return
        self.frozen_at_ns = now_ns
        for stretch in self._under_way.values():
            if not stretch.sequence.stalled:
                self._pause(stretch, now_ns)

    def thaw(self, now_ns: int) -> None:
        if self.frozen_at_ns is None:
            return
        self.frozen_at_ns = None
        for stretch in list(self._under_way.values()):
            if not stretch.sequence.stalled:
                self._plan(stretch, now_ns)

    def set_pace(self, pace: float, now_ns: int) -> None:
        before_ns = self._token_ns
        super().set_pace(pace, now_ns)
        for stretch in list(self._under_way.values()):
            is_paused = stretch.sequence.stalled or self.frozen_at_ns is not None
            if not is_paused:
                self._pause(stretch, now_ns)
            stretch.left_ns = stretch.left_ns * self._token_ns // before_ns
            if not is_paused:
                self._plan(stretch, now_ns)

    def kill(self) -> tuple[list[Sequence], list[Sequence]]:
        for stretch in self._under_way.values():
            self._reminders.cancel(stretch.reminder)
        self._under_way.clear()
        return super().kill()

    def _begin(self, sequence: Sequence, now_ns: int) -> None:
        if sequence.gone or self.dead:
            return
        sequence.began_ns = now_ns
        rate = self._speed.prefill_tokens_per_s * self._share
        read_ns = int(sequence.to_read * SECOND_NS / rate)
        alone_ns = int(self._speed.embed_call_ms * MILLISECOND_NS)
        first_ns = self._token_ns if sequence.output_tokens else alone_ns
        self._plan(_Stretch(sequence, 1, max(1, read_ns + first_ns)), now_ns)

    def _go_on(self, sequence: Sequence, now_ns: int) -> None:
        tokens = sequence.output_tokens - sequence.produced if self._coarse else 1
        self._plan(_Stretch(sequence, tokens, tokens * self._token_ns), now_ns)

    def _plan(self, stretch: _Stretch, now_ns: int) -> None:
        self._under_way[id(stretch.sequence)] = stretch
        if self.frozen_at_ns is None:
            stretch.end_ns = now_ns + stretch.left_ns
            stretch.reminder = self._reminders.at(
                stretch.end_ns, partial(self._over, stretch), rank=self._rank
            )

    def _pause(self, stretch: _Stretch, now_ns: int) -> None:
        self._reminders.cancel(stretch.reminder)
        if self.frozen_at_ns in (None, now_ns):  # else it was paused when the process froze
            stretch.left_ns = stretch.end_ns - now_ns

    def _drop(self, sequence: Sequence) -> None:
        super()._drop(sequence)
        stretch = self._under_way.pop(id(sequence), None)
        if stretch is not None:
            self._reminders.cancel(stretch.reminder)

    def _over(self, stretch: _Stretch, at_ns: int) -> None:
        sequence = stretch.sequence
        if not sequence.produced:
            sequence.to_read, sequence.first_token_ns = 0, at_ns
        if sequence.output_tokens:
            sequence.produced += stretch.tokens
            self._host.token_made(sequence, at_ns)
        if sequence.gone or self.dead:
            return  # what a token sets off may end it
        if sequence.produced < sequence.output_tokens:
            self._go_on(sequence, at_ns)
            return
        sequence.gone = True
        self._drop(sequence)
        self._release(sequence)
        self._host.sequence_done(sequence, at_ns)
        self._serve(at_ns)
