"""What goes wrong in a world, and for how long: a plan on the timeline, not chance at work.

Rules: a fault has a beginning and an end; when all have ended the servers are as healthy as new.
Sources: reference/OLLAMA.md §2, §3.6, §3.7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final, Protocol

from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_work import WorkKind
from broker.sim.timeline import Timeline
from broker.sim.world_server import Server
from broker.sim.world_switches import work_of

SLOWER: Final = 10.0
STRANGERS_EVERY_NS: Final = 3_000_000_000


class FaultKind(Enum):
    """Those in GENTLE leave what the server holds alone; the others may not."""

    LISTS_LATE = "lists_late"  # the list of residents arrives `delay_ns` after it was true
    LOADS_FAIL = "loads_fail"  # each load ends in an error
    LOADS_HANG = "loads_hang"  # each load says nothing until Ollama gives it up
    LOADS_OOM = "loads_oom"  # each load runs out of memory, once or for good
    SERVER_STOPS = "server_stops"  # SIGTERM; at the end it comes back, empty
    RUNNER_DIES = "runner_dies"  # killed; listed until somebody asks for it
    RUNNER_OOM = "runner_oom"  # dies at work, and what is idle is unloaded
    RUNNER_FREEZES = "runner_freezes"  # SIGSTOP; at the end it goes on, or is killed, see below
    STRANGER_LOADS = "stranger_loads"  # somebody else loads a model, and keeps it until the end
    STRANGERS = "strangers"  # somebody loads a model again whenever it is not there
    SLOW = "slow"  # everything takes ten times as long
    DIE_MID_LOAD = "die_mid_load"  # the process of each load is killed half way
    CUT = "cut"  # every call breaks, once
    RESET = "reset"  # every call breaks as soon as it is made
    REFUSED = "refused"  # no connection is taken; calls under way go on
    HALF_OPEN = "half_open"  # nothing arrives and nothing ends; calls under way never will
    GARBAGE = "garbage"  # what follows the first token of an answer is no JSON
    OVERSIZE = "oversize"  # it is a line without end
    BAD_UTF8 = "bad_utf8"  # it is cut within a character
    ERROR_LINE = "error_line"  # the first line of an answer is an error, its status 200
    NO_TERMINATOR = "no_terminator"  # answers end without their last object
    LISTS_GONE = "lists_gone"  # what was listed once is listed on, whether it is there or not
    LISTS_NOT = "lists_not"  # what is there is not listed
    WRONG_DIGEST = "wrong_digest"  # residents are listed with a digest that nothing on disk has
    BUSY_STORM = "busy_storm"  # every call but an unload is answered 503
    EVICTED = "evicted"  # somebody else unloads what is there
    DELETED = "deleted"  # a model is not on disk until the end
    CLOCK_JUMP = "clock_jump"  # the clock on the wall goes back or forth
    NO_NAMES = "no_names"  # the broker's host resolves no name: no connection to any server
    NO_DESCRIPTORS = "no_descriptors"  # the broker has no descriptor left: the same
    BROKER_STOPPED = "broker_stopped"  # SIGSTOP: all that happens meanwhile is heard at the end


GENTLE: Final = (
    FaultKind.LISTS_LATE,
    FaultKind.LOADS_FAIL,
    FaultKind.LOADS_HANG,
    FaultKind.CLOCK_JUMP,
)
# What befalls the broker and no server; `server` of such a fault says nothing.
OF_THE_BROKER: Final = frozenset(
    {
        FaultKind.CLOCK_JUMP,
        FaultKind.NO_NAMES,
        FaultKind.NO_DESCRIPTORS,
        FaultKind.BROKER_STOPPED,
    }
)
# What keeps answers from coming although nothing ends: somebody must notice.
SILENCING: Final = frozenset({FaultKind.HALF_OPEN, FaultKind.RUNNER_FREEZES})


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


class Broker(Protocol):
    """What can befall the broker itself."""

    wall_offset_ns: int

    def stop(self) -> None: ...

    def go_on(self) -> None: ...


def plan_broker_fault(
    fault: Fault, broker: Broker, servers: Iterable[Server], timeline: Timeline
) -> None:
    """As `plan_fault`, for what befalls the broker."""
    begin: Callable[[], None]
    end: Callable[[], None]
    match fault.kind:
        case FaultKind.BROKER_STOPPED:
            begin, end = broker.stop, broker.go_on
        case FaultKind.CLOCK_JUMP:
            back_ns = fault.delay_ns if fault.delay_ns % 2 else -fault.delay_ns
            begin = partial(_jump, broker, 1000 * back_ns)
            end = partial(_jump, broker, -1000 * back_ns)
        case FaultKind.NO_NAMES:
            begin = partial(_refuse_all, tuple(servers), "its name does not resolve")
            end = partial(_refuse_all, tuple(servers), "")
        case _:
            begin = partial(_refuse_all, tuple(servers), "too many open files")
            end = partial(_refuse_all, tuple(servers), "")
    timeline.at(fault.at_ns, begin)
    timeline.at(fault.end_ns, end)


def _jump(broker: Broker, by_ns: int) -> None:
    broker.wall_offset_ns += by_ns


def _refuse_all(servers: tuple[Server, ...], why: str) -> None:
    for server in servers:
        server.wire.refusal = why


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


def _strangers_load(fault: Fault, server: Server, timeline: Timeline) -> None:
    if timeline.now_ns >= fault.end_ns:
        return
    if server.is_up and not server.holds(fault.model):
        _stranger_loads(fault, server, timeline)
    timeline.after(STRANGERS_EVERY_NS, partial(_strangers_load, fault, server, timeline))


def _stranger_unloads(fault: Fault, server: Server, timeline: Timeline) -> None:
    if server.holds(fault.model):
        server.open(work_of(WorkKind.UNLOAD, fault.model, None, 0), lambda signal: None)


def _set_pace(pace: float) -> _Act:
    def act(fault: Fault, server: Server, timeline: Timeline) -> None:
        server.slow_down(fault.model, pace)

    return act


def _list_gone(fault: Fault, server: Server, timeline: Timeline) -> None:
    server.wire.remembers = True


def _hide(fault: Fault, server: Server, timeline: Timeline) -> None:
    server.wire.hides = fault.model


def _list_truly(fault: Fault, server: Server, timeline: Timeline) -> None:
    server.wire.remembers, server.wire.hides = False, None
    server.wire.seen.clear()


def _cut(fault: Fault, server: Server, timeline: Timeline) -> None:
    server.cut()


def _set_resets(*, resets: bool) -> _Act:
    def act(fault: Fault, server: Server, timeline: Timeline) -> None:
        server.wire.resets = resets
        server.cut()

    return act


def _set_refusal(why: str) -> _Act:
    def act(fault: Fault, server: Server, timeline: Timeline) -> None:
        server.wire.refusal = why

    return act


def _set_busy(*, is_busy: bool) -> _Act:
    def act(fault: Fault, server: Server, timeline: Timeline) -> None:
        server.wire.is_busy = is_busy

    return act


def _lose_wire(fault: Fault, server: Server, timeline: Timeline) -> None:
    server.lose_wire()


def _mend_wire(fault: Fault, server: Server, timeline: Timeline) -> None:
    server.wire.is_half_open = False


def _set_spoils(text: str, *, first: bool = False) -> _Act:
    def act(fault: Fault, server: Server, timeline: Timeline) -> None:
        server.wire.spoils, server.wire.spoils_first = text, first

    return act


def _set_digest(digest: str) -> _Act:
    def act(fault: Fault, server: Server, timeline: Timeline) -> None:
        server.wire.digest = digest

    return act


def _evict(fault: Fault, server: Server, timeline: Timeline) -> None:
    for row in server.rows():
        if fault.model in ("", row.name):
            server.open(work_of(WorkKind.UNLOAD, row.name, None, 0), lambda signal: None)


def _delete(fault: Fault, server: Server, timeline: Timeline) -> None:
    for card in list(server.model.catalogue):
        if fault.model in ("", card.name):
            server.delete(card.name)


def _undelete(fault: Fault, server: Server, timeline: Timeline) -> None:
    server.undelete()


def _nothing(fault: Fault, server: Server, timeline: Timeline) -> None:
    """What died stays dead until somebody asks for it."""


_SPOILED: Final = {
    FaultKind.GARBAGE: "a line of the answer cannot be read: JSON is malformed",
    FaultKind.OVERSIZE: "a line of the answer is over 8000000 bytes",
    FaultKind.BAD_UTF8: "a line of the answer cannot be read: invalid utf-8",
    FaultKind.ERROR_LINE: "an error in the stream",
    FaultKind.NO_TERMINATOR: "the answer ended without its terminator",
}


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
    FaultKind.STRANGERS: _strangers_load,
    FaultKind.SLOW: _set_pace(SLOWER),
    FaultKind.LISTS_GONE: _list_gone,
    FaultKind.LISTS_NOT: _hide,
    FaultKind.DIE_MID_LOAD: _spoil(lambda process, model: process.kill_next_load(model)),
    FaultKind.CUT: _cut,
    FaultKind.RESET: _set_resets(resets=True),
    FaultKind.REFUSED: _set_refusal("connection refused"),
    FaultKind.HALF_OPEN: _lose_wire,
    FaultKind.WRONG_DIGEST: _set_digest("0" * 64),
    FaultKind.BUSY_STORM: _set_busy(is_busy=True),
    FaultKind.EVICTED: _evict,
    FaultKind.DELETED: _delete,
    **{
        kind: _set_spoils(text, first=kind is FaultKind.ERROR_LINE)
        for kind, text in _SPOILED.items()
    },
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
    FaultKind.STRANGERS: _stranger_unloads,
    FaultKind.SLOW: _set_pace(1.0),
    FaultKind.LISTS_GONE: _list_truly,
    FaultKind.LISTS_NOT: _list_truly,
    FaultKind.DIE_MID_LOAD: _loads_work,
    FaultKind.CUT: _nothing,
    FaultKind.RESET: _set_resets(resets=False),
    FaultKind.REFUSED: _set_refusal(""),
    FaultKind.HALF_OPEN: _mend_wire,
    FaultKind.WRONG_DIGEST: _set_digest(""),
    FaultKind.BUSY_STORM: _set_busy(is_busy=False),
    FaultKind.EVICTED: _nothing,
    FaultKind.DELETED: _undelete,
    **dict.fromkeys(_SPOILED, _set_spoils("")),
}
