"""What goes wrong in a world, and for how long: a plan on the timeline, not chance at work.

Rules: a fault has a beginning and an end; when all have ended the servers are as healthy as new.
Sources: reference/OLLAMA.md §2, §3.6, §3.7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final

from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_work import WorkKind
from broker.sim.timeline import Timeline
from broker.sim.world_server import Server
from broker.sim.world_switches import work_of


class FaultKind(Enum):
    """The first three leave what the server holds alone; the others may not."""

    LISTS_LATE = "lists_late"  # the list of residents arrives `delay_ns` after it was true
    LOADS_FAIL = "loads_fail"  # each load ends in an error
    LOADS_HANG = "loads_hang"  # each load says nothing until Ollama gives it up
    LOADS_OOM = "loads_oom"  # each load runs out of memory, once or for good
    SERVER_STOPS = "server_stops"  # SIGTERM; at the end it comes back, empty
    RUNNER_DIES = "runner_dies"  # killed; listed until somebody asks for it
    RUNNER_OOM = "runner_oom"  # dies at work, and what is idle is unloaded
    RUNNER_FREEZES = "runner_freezes"  # SIGSTOP; at the end it goes on, or is killed, see below
    STRANGER_LOADS = "stranger_loads"  # somebody else loads a model, and keeps it until the end


GENTLE: Final = (FaultKind.LISTS_LATE, FaultKind.LOADS_FAIL, FaultKind.LOADS_HANG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of one server. `model` "" means every model of that server."""

    kind: FaultKind
    server: str
    at_ns: int
    for_ns: int
    model: str = ""
    delay_ns: int = 0

    @property
    def end_ns(self) -> int:
        return self.at_ns + self.for_ns


def plan_fault(fault: Fault, server: Server, timeline: Timeline) -> None:
    """Puts its beginning and its end on the timeline."""
    timeline.at(fault.at_ns, partial(_BEGIN[fault.kind], fault, server, timeline))
    timeline.at(fault.end_ns, partial(_END[fault.kind], fault, server, timeline))


def empty(server: Server) -> None:
    """Somebody unloads everything: also runners that died and are listed all the same."""
    for row in server.rows():
        server.open(work_of(WorkKind.UNLOAD, row.name, None, 0), lambda signal: None)


_Act = Callable[[Fault, Server, Timeline], None]


def _lists_late(fault: Fault, server: Server, timeline: Timeline) -> None:
    server.list_delay_ns = fault.delay_ns


def _lists_in_time(fault: Fault, server: Server, timeline: Timeline) -> None:
    server.list_delay_ns = 0


def _spoil(spoil: Callable[[OllamaModel, str], None]) -> _Act:
    def begin(fault: Fault, server: Server, timeline: Timeline) -> None:
        def spoil_if_meant(process: OllamaModel, model: str) -> None:
            if fault.model in ("", model) and not server.holds(model):
                spoil(process, model)

        server.spoil_load = spoil_if_meant

    return begin


def _loads_work(fault: Fault, server: Server, timeline: Timeline) -> None:
    server.spoil_load = None
    server.model.heal_loads()


def _stop(fault: Fault, server: Server, timeline: Timeline) -> None:
    server.stop()


def _come_back(fault: Fault, server: Server, timeline: Timeline) -> None:
    server.come_back()


def _harm(harm: Callable[[OllamaModel, str, int], None]) -> _Act:
    def begin(fault: Fault, server: Server, timeline: Timeline) -> None:
        if server.is_up:
            harm(server.model, fault.model, timeline.now_ns)
            server.plan()

    return begin


def _thaw_or_kill(fault: Fault, server: Server, timeline: Timeline) -> None:
    """It goes on where Ollama cannot have given it up meanwhile. One that was given up and goes on
    is wedged for as long as anybody renews its keep_alive: Ollama waits for it to become idle, and
    a renewal makes it stay (OLLAMA.md §3.4). Its death ends that."""
    gone_on = fault.for_ns < server.model.settings.health_check_ns
    harm = OllamaModel.thaw_runner if gone_on else OllamaModel.kill_runner
    _harm(harm)(fault, server, timeline)


def _stranger_loads(fault: Fault, server: Server, timeline: Timeline) -> None:
    work = work_of(WorkKind.LOAD, fault.model, None, fault.for_ns * 2)
    close = server.open(work, lambda signal: None)
    timeline.at(fault.end_ns, close)  # it does not wait longer than it would have stayed


def _stranger_unloads(fault: Fault, server: Server, timeline: Timeline) -> None:
    if server.holds(fault.model):
        server.open(work_of(WorkKind.UNLOAD, fault.model, None, 0), lambda signal: None)


def _nothing(fault: Fault, server: Server, timeline: Timeline) -> None:
    """What died stays dead until somebody asks for it."""


_BEGIN: Final[dict[FaultKind, _Act]] = {
    FaultKind.LISTS_LATE: _lists_late,
    FaultKind.LOADS_FAIL: _spoil(lambda process, model: process.fail_load(model, "cannot load")),
    FaultKind.LOADS_HANG: _spoil(lambda process, model: process.hang_next_load(model)),
    FaultKind.LOADS_OOM: _spoil(lambda process, model: process.oom_next_load(2)),
    FaultKind.SERVER_STOPS: _stop,
    FaultKind.RUNNER_DIES: _harm(OllamaModel.kill_runner),
    FaultKind.RUNNER_OOM: _harm(OllamaModel.oom_runner),
    FaultKind.RUNNER_FREEZES: _harm(OllamaModel.freeze_runner),
    FaultKind.STRANGER_LOADS: _stranger_loads,
}
_END: Final[dict[FaultKind, _Act]] = {
    FaultKind.LISTS_LATE: _lists_in_time,
    FaultKind.LOADS_FAIL: _loads_work,
    FaultKind.LOADS_HANG: _loads_work,
    FaultKind.LOADS_OOM: _loads_work,
    FaultKind.SERVER_STOPS: _come_back,
    FaultKind.RUNNER_DIES: _nothing,
    FaultKind.RUNNER_OOM: _nothing,
    FaultKind.RUNNER_FREEZES: _thaw_or_kill,
    FaultKind.STRANGER_LOADS: _stranger_unloads,
}
