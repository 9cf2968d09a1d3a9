"""One simulated runner process: its slots, the queue before them, and the batches it computes.

Rules: the queue is first come, first served. Work goes in steps: each step makes one token for
every request that decodes and reads up to `num_batch` prompt tokens of those that begin, so a long
prompt lets the others have one token per batch. Who comes or leaves counts from the next step on.
A step is never cut, a frozen process stops in the middle of one. With coarse tokens several equal
steps are taken as one: the moments are the same, the events fewer. What else falls on the end of a
step comes after it, whenever it was planned; `rank` says so, and is below 0.
Sources: reference/OLLAMA.md §3.6, §7.6; recordings 61_, 62_, 83_prefill_stalls_decode.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from broker.sim.ollama_machine import MILLISECOND_NS, SECOND_NS, ServerSettings, Sizing
from broker.sim.ollama_model_card import SimModel
from broker.sim.ollama_reminders import Reminder, Reminders
from broker.sim.ollama_runner_prompts import PromptMemory, Slot
from broker.sim.ollama_work import ExchangeId

# A process that is killed forgets its prompts; a model without KV has none to keep.
_OLDER_TOKENS_MAX = 1 << 24


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """One runner call: a prompt to read and, unless it is an embedding, tokens to make."""

    exchange: ExchangeId
    prompt: tuple[int, ...]
    output_tokens: int  # 0 for an embedding
    slot: Slot | None = None
    to_read: int = 0
    produced: int = 0
    began_ns: int | None = None
    first_token_ns: int = 0
    gone: bool = False
    stalled: bool = False


class RunnerHost(Protocol):
    """Who hears of what a runner does, each time with the moment."""

    def slot_taken(self, sequence: Sequence, at_ns: int) -> None: ...

    def token_made(self, sequence: Sequence, at_ns: int) -> None: ...

    def sequence_done(self, sequence: Sequence, at_ns: int) -> None: ...


@dataclass(slots=True, kw_only=True)
class _Run:
    """Equal steps being computed: who decodes, and how much of whose prompt is read."""

    began_ns: int
    step_ns: int
    steps: int
    decoding: tuple[Sequence, ...]
    reading: tuple[tuple[Sequence, int], ...]
    reminder: Reminder | None = field(default=None)

    @property
    def end_ns(self) -> int:
        return self.began_ns + self.step_ns * self.steps


class Runner:
    """A runner process from healthy to killed."""

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
        self.frozen_at_ns: int | None = None
        self.dead = False
        self._speed = model.speed
        self._whole_share = self._share = share
        self._rank = rank
        self._coarse = coarse
        self._reminders = reminders
        self._host = host
        self._num_batch = size.num_batch
        older = settings.prompt_cache_bytes // max(1, model.kv_bytes_per_token)
        self._memory = PromptMemory(
            size.slots, capacity_tokens=min(older, _OLDER_TOKENS_MAX) if older else 0
        )
        self._free = size.slots
        self._queue: deque[Sequence] = deque()
        self._held: dict[int, Sequence] = {}
        self._reading: list[Sequence] = []
        self._decoding: list[Sequence] = []
        self._run: _Run | None = None
        self._token_ns = 1
        self._set_share(share)

    def ask(self, sequence: Sequence, now_ns: int) -> None:
        """Asks for a slot: at once if one is free, else in the queue, which has no end."""
        self._queue.append(sequence)
        self._serve(now_ns)

    def leave(self, sequence: Sequence, now_ns: int, *, lose_slot: bool = False) -> None:
        """The request is gone. Its place is given on at once, unless that is lost for good."""
        if sequence.gone:
            return
        sequence.gone = True
        if sequence.slot is None:
            return
        self._drop(sequence)
        self._shorten(now_ns)
        if not lose_slot:
            self._release(sequence)
            self._serve(now_ns)

    def stall(self, sequence: Sequence, now_ns: int) -> None:
        """The client does not read: the request keeps its slot and makes no tokens."""
        if sequence in self._decoding:
            run = self._run
            if run is not None and sequence in run.decoding:
                sequence.produced += (now_ns - run.began_ns) // run.step_ns
            sequence.stalled = True
            self._decoding.remove(sequence)
            self._shorten(now_ns)

    def resume(self, sequence: Sequence, now_ns: int) -> None:
        if sequence.stalled and not sequence.gone:
            sequence.stalled = False
            self._decoding.append(sequence)
            self._step(now_ns)

    def freeze(self, now_ns: int) -> None:
        """The process stops where it is (SIGSTOP)."""
        if self.dead or self.frozen_at_ns is not None:
            return
        self.frozen_at_ns = now_ns
        if self._run is not None:
            self._reminders.cancel(self._run.reminder)

    def thaw(self, now_ns: int) -> None:
        if self.frozen_at_ns is None:
            return
        paused_ns, self.frozen_at_ns = now_ns - self.frozen_at_ns, None
        if self._run is not None:
            self._run.began_ns += paused_ns
            self._remind(self._run)
        else:
            self._step(now_ns)

    def set_pace(self, pace: float, now_ns: int) -> None:
        """From now on everything takes so many times as long as it should. The step that is being
        computed ends as it was begun."""
        self._set_share(self._whole_share / pace)
        self._shorten(now_ns)

    def kill(self) -> tuple[list[Sequence], list[Sequence]]:
        """Ends the process; returns those that held a slot and those that waited for one."""
        held = list(self._held.values())
        waited = [sequence for sequence in self._queue if not sequence.gone]
        self.dead, self.frozen_at_ns = True, None
        if self._run is not None:
            self._reminders.cancel(self._run.reminder)
            self._run = None
        self._held.clear()
        self._queue.clear()
        self._reading.clear()
        self._decoding.clear()
        for sequence in (*held, *waited):
            sequence.gone = True
        return held, waited

    # -- slots ---------------------------------------------------------------------------------

    def _serve(self, now_ns: int) -> None:
        while self._queue and self._free > 0 and not self.dead:
            sequence = self._queue.popleft()
            if sequence.gone:
                continue
            place = self._memory.take(sequence.prompt)
            self._free -= 1
            self._held[id(sequence)] = sequence
            sequence.slot = place.slot
            sequence.to_read = max(1, len(sequence.prompt) - place.cached)
            self._host.slot_taken(sequence, now_ns)
            restore_ns = int(self._speed.restore_ms * MILLISECOND_NS) if place.restored else 0
            if restore_ns:
                self._reminders.at(now_ns + restore_ns, partial(self._begin, sequence))
            else:
                self._begin(sequence, now_ns)

    def _begin(self, sequence: Sequence, now_ns: int) -> None:
        if not sequence.gone and not self.dead:
            self._reading.append(sequence)
            self._shorten(now_ns)
            self._step(now_ns)

    def _drop(self, sequence: Sequence) -> None:
        self._held.pop(id(sequence), None)
        for line in (self._reading, self._decoding):
            if sequence in line:
                line.remove(sequence)

    def _release(self, sequence: Sequence) -> None:
        if sequence.slot is not None:
            sequence.slot.busy = False
            sequence.slot = None
            self._free += 1

    def _set_share(self, share: float) -> None:
        """Of the speed that the model has when all of it is on the GPU."""
        self._share = share
        self._token_ns = max(1, int(SECOND_NS / (self._speed.decode_tokens_per_s * share)))

    # -- steps ---------------------------------------------------------------------------------

    def _step(self, now_ns: int) -> None:
        """Starts the next step if none is being computed and there is something to compute."""
        if self._run is not None or self.dead or self.frozen_at_ns is not None:
            return
        decoding, reading = tuple(self._decoding), self._portions()
        if not decoding and not reading:
            return
        steps = 1
        if self._coarse and not reading:
            steps = min(sequence.output_tokens - sequence.produced for sequence in decoding)
        run = _Run(
            began_ns=now_ns,
            step_ns=self._step_ns(len(decoding), reading),
            steps=steps,
            decoding=decoding,
            reading=reading,
        )
        for sequence, _ in reading:
            if sequence.began_ns is None:
                sequence.began_ns = now_ns
        self._run = run
        self._remind(run)

    def _portions(self) -> tuple[tuple[Sequence, int], ...]:
        room = self._num_batch
        portions: list[tuple[Sequence, int]] = []
        for sequence in self._reading:
            portion = min(room, sequence.to_read)
            if portion <= 0:
                break
            portions.append((sequence, portion))
            room -= portion
        return tuple(portions)

    def _step_ns(self, decoding: int, reading: tuple[tuple[Sequence, int], ...]) -> int:
        speed = self._speed
        tokens = sum(portion for _, portion in reading)
        read_ns = int(tokens * SECOND_NS / (speed.prefill_tokens_per_s * self._share))
        embeddings = sum(sequence.output_tokens == 0 for sequence, _ in reading)
        if embeddings:
            return max(1, read_ns + int(embeddings * speed.embed_call_ms * MILLISECOND_NS))
        decode_ns = 0
        if decoding:
            decode_ns = int(self._token_ns * (1.0 + speed.batch_slowdown * (decoding - 1)))
        # Reading one token costs as much as making one: the weights are gone through once.
        return max(self._token_ns, read_ns + decode_ns)

    def _remind(self, run: _Run) -> None:
        run.reminder = self._reminders.at(run.end_ns, self._on_run_end, rank=self._rank)

    def _shorten(self, now_ns: int) -> None:
        """Ends a run of several steps with the step that is being computed now."""
        run = self._run
        if run is None or run.steps <= 1:
            return
        clock_ns = now_ns if self.frozen_at_ns is None else self.frozen_at_ns
        steps = (clock_ns - run.began_ns) // run.step_ns + 1
        if steps >= run.steps:
            return
        run.steps = steps
        if self.frozen_at_ns is None:
            self._reminders.cancel(run.reminder)
            self._remind(run)

    def _on_run_end(self, at_ns: int) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        done: list[Sequence] = []
        for sequence in run.decoding:
            if sequence.gone or sequence.stalled:
                continue
            sequence.produced += run.steps
            self._host.token_made(sequence, at_ns)
            if sequence.produced >= sequence.output_tokens:
                done.append(sequence)
        for sequence, portion in run.reading:
            if not sequence.gone and self._read(sequence, portion, at_ns):
                done.append(sequence)
        for sequence in done:
            # What one answer's end sets off may end the process, or another of these requests.
            if not sequence.gone and not self.dead:
                sequence.gone = True
                self._drop(sequence)
                self._release(sequence)
                self._host.sequence_done(sequence, at_ns)
                self._serve(at_ns)
        self._step(at_ns)

    def _read(self, sequence: Sequence, portion: int, at_ns: int) -> bool:
        """Books what was read of a prompt; True if the sequence is complete with that."""
        sequence.to_read -= portion
        if sequence.to_read > 0:
            return False
        self._reading.remove(sequence)
        sequence.first_token_ns = at_ns
        if sequence.output_tokens == 0:
            return True
        sequence.produced = 1
        self._decoding.append(sequence)
        self._host.token_made(sequence, at_ns)
        return sequence.output_tokens == 1
