"""Whether the GPU memory of a model that left has come back: the second half of the proof.

Ollama takes a runner off its list before its memory is free, and measures what is free when it
loads the next: a load that comes too soon is put in the little that there is, the rest of it on the
processor, for as long as it stays. Where Ollama evicts, it waits up to 5 s for the memory before it
goes on (reference/OLLAMA.md §3.4); who unloads one model and loads another has to see for himself.
So where the backend runs on this host, and the sensor of its GPUs is believed, a model is gone once
its memory is seen to be back; or `memory_wait_ns` after it was told to leave, with a word to the
operator, as others may have taken it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from broker.core.effects import Effect, SenseGpus
from broker.core.gpu_load import gpu_problem, held_by_processes
from broker.core.load import of_total
from broker.core.placement import BackendState
from broker.core.residency import Residency, ResidencyTrigger
from broker.core.sensing import GpuReading
from broker.core.timers import Timers

# So much of what it held has to be back, as Ollama itself has it: figures differ a little.
FREED_SHARE: Final = 0.75

# How often the sensor is asked meanwhile: it takes milliseconds, and a load waits for it.
ASK_AGAIN_NS: Final = 100_000_000

# A picture from before that is older than this says nothing of the moment of the unload.
BEFORE_NS_MAX: Final = 10_000_000_000


class _Held(NamedTuple):
    """What is held on the cards: by processes of ours, None where nobody tells, and by all."""

    at_ns: int
    ours_bytes: int | None
    used_bytes: int

    def freed_since(self, before: _Held) -> int:
        """What came back since then. Others may take memory meanwhile: ours counts, if known."""
        if before.ours_bytes is not None and self.ours_bytes is not None:
            return before.ours_bytes - self.ours_bytes
        return before.used_bytes - self.used_bytes


@dataclass(slots=True, kw_only=True)
class _Wait:
    """A model that is not listed any more."""

    backend: BackendState
    residency: Residency
    before: _Held
    since_ns: int
    seen_bytes: int = 0  # that came back so far
    timer: int = 0  # its end
    ask_timer: int = 0


class FreedMemory:
    """See the module. `wait_ns` says how long it may last, 0: not at all. `on_over` hears of each
    wait once: whether it is back, and the figures in words."""

    def __init__(
        self,
        backends: Mapping[str, BackendState],
        timers: Timers,
        wait_ns: Callable[[], int],
        emit: Callable[[Effect], None],
        on_over: Callable[[BackendState, Residency, bool, str, int], None],
    ) -> None:
        self._backends = backends
        self._timers = timers
        self._wait_ns = wait_ns
        self._emit = emit
        self._on_over = on_over
        self._before: dict[str, _Held] = {}  # by backend, while nothing was leaving there
        self._waits: dict[str, _Wait] = {}  # by backend: one leaves at a time

    def sensed(self, reading: GpuReading, now_ns: int) -> None:
        """A sample of the cards."""
        held = _held(reading, now_ns)
        for wait in list(self._waits.values()):
            if held is None or held.at_ns <= wait.since_ns:
                continue
            wait.seen_bytes = held.freed_since(wait.before)
            if wait.seen_bytes >= FREED_SHARE * wait.residency.gpu_memory_bytes:
                self._end(wait, now_ns, is_back=True)
        # After that: what has just been proven to be back is in no picture of before any more.
        for name, backend in self._backends.items():
            if not backend.policy.is_local or held is None:
                self._before.pop(name, None)
            elif not backend.is_switching:
                self._before[name] = held

    def awaits(self, backend: BackendState, residency: Residency, now_ns: int) -> bool:
        """It is not listed any more: is it to be seen that its memory comes back? Not where nothing
        tells, nor where another server of this host changes its models at the same time."""
        until_ns = residency.changed_ns + self._wait_ns()  # an unload as a whole takes no longer
        before = self._before.get(backend.name)
        if before is None or until_ns <= now_ns or not self._tells(before, backend, residency):
            if residency.gpu_memory_bytes:
                self._before.clear()  # they show what comes back unseen now
            return False
        residency.move(ResidencyTrigger.UNLISTED, now_ns)
        wait = _Wait(backend=backend, residency=residency, before=before, since_ns=now_ns)
        self._waits[backend.name] = wait
        wait.timer = self._timers.set(until_ns, self._give_up, wait)
        self._ask(wait, now_ns)
        return True

    def _tells(self, before: _Held, backend: BackendState, residency: Residency) -> bool:
        """Is it a picture of the moment of this unload? What was loaded on this host since then,
        this model or one beside it, would hide what comes back."""
        if not residency.gpu_memory_bytes or residency.changed_ns - before.at_ns > BEFORE_NS_MAX:
            return False
        local = [each for each in self._backends.values() if each.policy.is_local]
        if any(each.is_switching for each in local if each is not backend):
            return False
        loaded = (each.loaded_ns for of in local for each in of.residents.values())
        return all(each < before.at_ns for each in loaded)

    def _ask(self, wait: _Wait, now_ns: int) -> None:
        self._emit(SenseGpus())
        wait.ask_timer = self._timers.set(now_ns + ASK_AGAIN_NS, self._ask, wait)

    def _give_up(self, wait: _Wait, now_ns: int) -> None:
        self._end(wait, now_ns, is_back=False)

    def _end(self, wait: _Wait, now_ns: int, *, is_back: bool) -> None:
        self._timers.cancel(wait.timer)
        self._timers.cancel(wait.ask_timer)
        del self._waits[wait.backend.name]
        seen = of_total(max(0, wait.seen_bytes), wait.residency.gpu_memory_bytes)
        waited_s = (now_ns - wait.since_ns) / 1e9
        words = f"{seen} had come back {waited_s:.1f} s after it was not listed any more"
        self._on_over(wait.backend, wait.residency, is_back, words, now_ns)


def _held(reading: GpuReading, now_ns: int) -> _Held | None:
    """None where the sensor is not to be believed."""
    if gpu_problem(reading, BEFORE_NS_MAX, now_ns):
        return None
    used_bytes = sum(each.memory_used_bytes for each in reading.gpus)
    return _Held(reading.at_ns, held_by_processes(reading.gpus) or None, used_bytes)
