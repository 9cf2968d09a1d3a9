"""The serial loader of a simulated Ollama: one queue, one load at a time.

Rules: requests are taken in order; while one is worked for, all behind it wait, whatever they ask
for. Who owns a load takes it along when leaving. A victim is chosen once, then the loader waits
until any runner at all is unloaded and looks again. A load that fails is not remembered.
Sources: reference/OLLAMA.md §3.2 to §3.7; recordings 63_ to 65_, 70_ to 79_, 86_.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

from broker.sim.ollama_log import Ledger, LogKind
from broker.sim.ollama_machine import (
    MILLISECOND_NS,
    PageCache,
    ServerSettings,
    fits_beside_others,
    load_ns,
    needs_reload,
    on_grid_ns,
)
from broker.sim.ollama_model_card import BrokenFile
from broker.sim.ollama_model_request import Request, Stage
from broker.sim.ollama_reminders import Reminder, Reminders
from broker.sim.ollama_resident import Resident, Residents

# Ollama reads a file's header before it starts a runner (recorded: 69_load_corrupt_blob, 2 ms).
_FILE_CHECK_NS = 1 * MILLISECOND_NS
# The steps down of an automatic num_ctx when a load runs out of memory (OLLAMA.md §3.3).
_NUM_CTX_STEPS = (32_768, 4096)

KILLED_TEXT = "llama-server process has terminated: signal: killed"
STALLED_TEXT = "timed out waiting for llama-server to start - "
OOM_TEXT = (
    "llama-server reported out-of-memory during startup: "
    "cudaMalloc failed: out of memory: failed to allocate compute buffers"
)
_TENSOR_TEXT = "error loading model: check_tensor_dims: tensor 'output_norm.weight' not found"
EXIT_TEXT = f"llama-server process has terminated: exit status 1: {_TENSOR_TEXT}\n{_TENSOR_TEXT}"
MAGIC_TEXT = "invalid file magic"


class LoaderState(Enum):
    IDLE = "idle"
    CHECKING = "checking"  # waits for a health check of the runner it would hand over
    EVICTING = "evicting"  # waits for any runner to be unloaded
    LOADING = "loading"
    ABORTING = "aborting"  # the owner left: the process is being killed


@dataclass(slots=True, kw_only=True)
class LoadFaults:
    """What shall go wrong with loads to come. "" as a model's name means any model."""

    hangs: list[str] = field(default_factory=list)  # one load each
    deaths: list[str] = field(default_factory=list)  # one load each
    fails: dict[str, str] = field(default_factory=dict)  # one load each, with this text
    ooms: int = 0

    def take_hang(self, name: str) -> bool:
        return _take(self.hangs, name)

    def take_death(self, name: str) -> bool:
        return _take(self.deaths, name)

    def take_fail(self, name: str) -> str | None:
        return self.fails.pop(name, None) or self.fails.pop("", None)

    def take_oom(self) -> bool:
        if self.ooms <= 0:
            return False
        self.ooms -= 1
        return True


@dataclass(slots=True, kw_only=True)
class _Load:
    """The process that is being started; before `spawned_ns` there is none yet."""

    spawned_ns: int | None = None
    next: Reminder | None = None
    frozen_ns: int | None = None
    ready_ns: int | None = None  # None: it will never be


class LoaderHost(Protocol):
    """What the loader cannot do by itself."""

    def hand_over(self, request: Request, resident: Resident, at_ns: int) -> None: ...

    def fail(self, request: Request, status: int, text: str, at_ns: int) -> None: ...

    def unload(self, resident: Resident, at_ns: int) -> None: ...

    def start_check(self, resident: Resident, request: Request, at_ns: int) -> None: ...

    def make_resident(self, request: Request, free_bytes: int) -> Resident: ...


class Loader:
    def __init__(
        self,
        settings: ServerSettings,
        residents: Residents,
        reminders: Reminders,
        ledger: Ledger,
        host: LoaderHost,
    ) -> None:
        self.state = LoaderState.IDLE
        self.faults = LoadFaults()
        self.paces: dict[str, float] = {}  # how many times as long all takes, by file
        self.held: Request | None = None
        self._settings = settings
        self._residents = residents
        self._reminders = reminders
        self._ledger = ledger
        self._host = host
        self._cache = PageCache(settings.page_cache_bytes)
        self._pending: deque[Request] = deque()
        self._stopping = 0  # runners that were killed and are not gone yet
        self._load = _Load()
        self._checked = False
        self._tries = 0

    @property
    def pending(self) -> int:
        """How many places of the queue are taken, dead requests included."""
        return len(self._pending)

    def offer(self, request: Request, at_ns: int) -> bool:
        """Takes a request or queues it; False if the queue is full."""
        if self.state is not LoaderState.IDLE:
            if len(self._pending) >= self._settings.max_queue:
                return False
            self._pending.append(request)
            if not request.ended:
                request.move(Stage.PENDING)
            self._ledger.note(LogKind.QUEUED, request.model.name, at_ns, request.id)
            return True
        self._pending.append(request)
        self._work(at_ns)
        return True

    def forget(self, request: Request) -> None:
        """Takes a request out of the queue, which Ollama itself never does."""
        if request in self._pending:
            self._pending.remove(request)

    def owner_left(self, at_ns: int) -> None:
        """The client of the request that is worked for has gone: its load is given up at once,
        an eviction is not (recorded: 77_cancelled_while_eviction_pends)."""
        if self.state is LoaderState.LOADING:
            self._reminders.cancel(self._load.next)
            self._abort(at_ns)

    def unloading(self) -> None:
        self._stopping += 1

    def unloaded(self, at_ns: int) -> None:
        """A runner is gone, and its memory is back."""
        self._stopping -= 1
        if self.state is LoaderState.EVICTING:
            self._work(at_ns)

    def checked(self, at_ns: int) -> None:
        """The health check for the held request is over, whatever it found."""
        if self.state is LoaderState.CHECKING:
            self._checked = True
            self._work(at_ns)

    def loads(self, blob: str | None) -> bool:
        """Whether a process for this file (None: for any) is being started now."""
        held = self.held
        if self.state is not LoaderState.LOADING or held is None:
            return False
        return self._load.spawned_ns is not None and blob in (None, held.model.blob)

    def kill_load(self, at_ns: int) -> None:
        """The starting process dies; Ollama sees it at its next poll."""
        spawned_ns = self._load.spawned_ns
        if spawned_ns is None:
            return
        self._reminders.cancel(self._load.next)
        seen_ns = spawned_ns + on_grid_ns(at_ns - spawned_ns, self._settings)
        self._load.next = self._reminders.at(seen_ns, lambda at: self._fail(KILLED_TEXT, at))

    def freeze_load(self, at_ns: int) -> None:
        load = self._load
        if load.frozen_ns is None:
            self._reminders.cancel(load.next)
            load.frozen_ns = at_ns
            self._await_timeout(at_ns)

    def thaw_load(self, at_ns: int) -> None:
        load = self._load
        if load.frozen_ns is None or load.ready_ns is None or load.spawned_ns is None:
            return
        self._reminders.cancel(load.next)
        ready_ns = load.ready_ns + at_ns - load.frozen_ns
        load.ready_ns = load.spawned_ns + on_grid_ns(ready_ns - load.spawned_ns, self._settings)
        load.frozen_ns = None
        load.next = self._reminders.at(load.ready_ns, self._on_ready)

    # -- one request after the other -----------------------------------------------------------

    def _work(self, at_ns: int) -> None:
        """Goes on until it must wait for something; a loop, because a whole queue may drain."""
        while self.held is not None or self._pending:
            if self.held is None:
                request = self._pending.popleft()
                if request.ended:
                    self._ledger.note(LogKind.DROPPED, request.model.name, at_ns, request.id)
                    continue
                request.move(Stage.HELD)
                self.held, self._checked, self._tries = request, False, 0
            if not self._settle(self.held, at_ns):
                return
            self.held = None
        self.state = LoaderState.IDLE

    def _settle(self, request: Request, at_ns: int) -> bool:
        """One round of sched.go:processPending; False if there is something to wait for."""
        residents, settings = self._residents, self._settings
        resident = residents.of(request.model.blob)
        if resident is not None:
            return self._use(resident, request, at_ns)
        if len(residents) >= settings.loaded_models_max:
            self._evict(residents.victim(), at_ns)
        elif self._stopping:
            self.state = LoaderState.EVICTING
        elif len(residents) == 0:
            self._start(request, at_ns)
        elif self._tries:
            for other in residents:
                self._evict(other, at_ns)
        elif fits_beside_others(request.model, request.asked, self._free_bytes(), settings):
            self._start(request, at_ns)
        else:
            self._evict(residents.victim(), at_ns)
        return False

    def _use(self, resident: Resident, request: Request, at_ns: int) -> bool:
        """Hands a loaded runner over, unless it must be checked or restarted first."""
        if resident.runner.dead or needs_reload(resident.size, request.asked):
            self._evict(resident, at_ns)
            return False
        if resident.silent:
            if self._checked:
                self._evict(resident, at_ns)
            else:
                self.state = LoaderState.CHECKING
                self._host.start_check(resident, request, at_ns)
            return False
        if not request.ended:
            self._host.hand_over(request, resident, at_ns)
        return True

    def _evict(self, victim: Resident | None, at_ns: int) -> None:
        self.state = LoaderState.EVICTING
        if victim is None:
            return
        self._ledger.note(LogKind.VICTIM, victim.model.name, at_ns)
        victim.victim = True
        victim.keep_alive_ns = 0
        self._reminders.cancel(victim.timer)
        victim.timer = None
        if victim.idle:
            self._host.unload(victim, at_ns)

    def _free_bytes(self) -> int:
        return self._settings.memory_bytes - self._residents.vram_bytes()

    # -- one load ------------------------------------------------------------------------------

    def _start(self, request: Request, at_ns: int) -> None:
        self.state = LoaderState.LOADING
        self._load = load = _Load()
        broken = request.model.broken
        if broken in (BrokenFile.MAGIC, BrokenFile.TRUNCATED):
            text = MAGIC_TEXT if broken is BrokenFile.MAGIC else _truncated_text(request)
            checked_ns = at_ns + _FILE_CHECK_NS
            load.next = self._reminders.at(checked_ns, lambda at: self._fail(text, at))
        elif request.ended:
            self._ledger.note(LogKind.SPAWNED, request.model.name, at_ns, request.id)
            self._abort(at_ns)
        elif self._settings.gpu:
            load.next = self._reminders.at(at_ns + self._settings.gpu_query_ns, self._spawn)
        else:
            self._spawn(at_ns)

    def _spawn(self, at_ns: int) -> None:
        request, load, settings = self._owner(), self._load, self._settings
        model = request.model
        self._ledger.note(LogKind.SPAWNED, model.name, at_ns, request.id)
        load.spawned_ns = at_ns
        cached = self._cache.read(model.blob, model.size_bytes)
        pace = self.paces.get(model.blob, 1.0)
        length_ns = load_ns(model, cached=cached, settings=settings)
        if pace != 1.0:
            length_ns = on_grid_ns(int(length_ns * pace), settings)
        first_poll_ns = at_ns + on_grid_ns(1, settings)
        text = EXIT_TEXT if model.broken is BrokenFile.RUNNER else self.faults.take_fail(model.name)
        if self.faults.take_hang(model.name):
            load.frozen_ns = at_ns
            self._await_timeout(at_ns)
        elif text is not None:
            load.next = self._reminders.at(first_poll_ns, lambda at: self._fail(text, at))
        elif self.faults.take_oom():
            load.next = self._reminders.at(first_poll_ns, self._on_oom)
        elif self.faults.take_death(model.name):
            seen_ns = at_ns + on_grid_ns(length_ns // 2, settings)
            load.next = self._reminders.at(seen_ns, lambda at: self._fail(KILLED_TEXT, at))
        else:
            load.ready_ns = at_ns + length_ns
            load.next = self._reminders.at(load.ready_ns, self._on_ready)

    def _await_timeout(self, at_ns: int) -> None:
        """Without output from the runner Ollama gives up after OLLAMA_LOAD_TIMEOUT, if ever."""
        load, timeout_ns = self._load, self._settings.load_timeout_ns
        load.next = None
        if timeout_ns > 0 and load.spawned_ns is not None:
            stalled_ns = on_grid_ns(at_ns + timeout_ns - load.spawned_ns, self._settings)
            ends_ns = load.spawned_ns + stalled_ns
            load.next = self._reminders.at(ends_ns, lambda at: self._fail(STALLED_TEXT, at))

    def _on_ready(self, at_ns: int) -> None:
        request = self._owner()
        resident = self._host.make_resident(request, self._free_bytes())
        self._residents.add(resident)
        self._ledger.note(LogKind.LOADED, request.model.name, at_ns, request.id)
        self._host.hand_over(request, resident, at_ns)
        self.held = None
        self._work(at_ns)

    def _on_oom(self, at_ns: int) -> None:
        """The first time with less context and nothing else loaded, the second time an error."""
        request = self._owner()
        if self._tries:
            self._fail(OOM_TEXT, at_ns)
            return
        self._tries = 1
        lower = next((step for step in _NUM_CTX_STEPS if step < request.asked.num_ctx), None)
        if request.asked.num_ctx_auto and lower is not None:
            request.asked = replace(request.asked, num_ctx=lower)
        self._work(at_ns)

    def _fail(self, text: str, at_ns: int) -> None:
        request = self._owner()
        self._ledger.note(LogKind.LOAD_FAILED, request.model.name, at_ns, request.id)
        if not request.ended:
            self._host.fail(request, 500, text, at_ns)
        self.held = None
        self._work(at_ns)

    def _abort(self, at_ns: int) -> None:
        self.state = LoaderState.ABORTING
        request = self._owner()
        self._ledger.note(LogKind.ABORTED, request.model.name, at_ns, request.id)
        self._reminders.at(at_ns + self._settings.kill_ns, self._on_aborted)

    def _on_aborted(self, at_ns: int) -> None:
        self.held = None
        self._work(at_ns)

    def _owner(self) -> Request:
        if self.held is None:
            raise RuntimeError("a load without an owner")
        return self.held


def _take(names: list[str], name: str) -> bool:
    """Takes one entry for this model, or for any."""
    for wanted in (name, ""):
        if wanted in names:
            names.remove(wanted)
            return True
    return False


def _truncated_text(request: Request) -> str:
    size = request.model.size_bytes
    wanted, held = size * 7 // 12, size // 2
    return f'tensor "blk.0.attn_output.weight" offset+size ({wanted}) exceeds file size ({held})'
