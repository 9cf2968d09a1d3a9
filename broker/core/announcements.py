"""Nobody waits in silence: tells each waiting request its position, an estimate and the reason.

At once when it starts to wait, then whenever the position or the reason changes materially, at most
once per interval: positions of a whole line change with every departure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from broker.core.effects import Effect, TellQueued, WaitReason
from broker.core.estimates import Estimates
from broker.core.placement import BackendState, LineKey, has_room, may_get_room, serves
from broker.core.queueing import Line, positions
from broker.core.record import Record
from broker.core.requests import RequestKey
from broker.core.residency import ResidencyState
from broker.core.timers import Timers

# Near the front every step is worth a message; further back only a quarter of the way is.
POSITION_ALWAYS_TOLD_MAX = 3


def is_material(told: int, position: int) -> bool:
    """Has the position changed enough to tell?"""
    if told == position:
        return False
    if position <= POSITION_ALWAYS_TOLD_MAX:
        return True
    return position <= told * 3 // 4 or position > told * 5 // 4


def wait_reason(
    line: LineKey, model: str, backends: Mapping[str, BackendState]
) -> tuple[WaitReason, str]:
    """What the requests of this line wait for, as a reason and in words."""
    having = [each for each in backends.values() if line[0] in each.by_runner]
    up = [each for each in having if each.up]
    if not up:
        names = ", ".join(each.name for each in having) or "no backend has it"
        return WaitReason.BACKEND_DOWN, f"the backend of {model} does not answer ({names})"
    for backend in up:
        if serves(backend, line):
            return WaitReason.SLOT, f"a free slot of {model} on {backend.name}"
    for backend in up:
        residency = backend.residents.get(line[0])
        if residency is not None and residency.state is ResidencyState.LOADING:
            return WaitReason.LOADING, f"{model} is being loaded on {backend.name}"
    for backend in up:
        if has_room(backend, line[0]) and not backend.is_switching:
            return WaitReason.LOADING, f"{model} is about to be loaded on {backend.name}"
    for backend in up:
        if may_get_room(backend, line[0]):
            held = ", ".join(each.model for each in backend.residents.values())
            return WaitReason.SWAP, f"{backend.name} to make room for {model} (it holds {held})"
    backend = up[0]
    held = ", ".join(each.model for each in backend.residents.values() if not each.managed)
    return WaitReason.NO_ROOM, f"{backend.name} holds {held}, which the broker does not manage"


def estimate_ns(
    line: LineKey,
    position: int,
    reason: WaitReason,
    backends: Mapping[str, BackendState],
    estimates: Estimates,
) -> int | None:
    """Until it starts, from what was measured for this runner; None while there is nothing."""
    service_ns = estimates.service_ns(line[0])
    if service_ns is None or reason in (WaitReason.BACKEND_DOWN, WaitReason.NO_ROOM):
        return None
    slots = max(
        (each.by_runner[line[0]].slots for each in backends.values() if line[0] in each.by_runner),
        default=1,
    )
    wait_ns = service_ns * position / slots
    if reason is not WaitReason.SLOT:
        load_ns = estimates.load_ns(line[0])
        if load_ns is None:
            return None
        wait_ns += load_ns
    return int(wait_ns)


class Announcer:
    """Keeps whose waiting requests may stand elsewhere now, and tells them, not too often."""

    def __init__(
        self,
        interval_ns: int,
        lines: Mapping[LineKey, Line],
        records: Mapping[RequestKey, Record],
        backends: Mapping[str, BackendState],
        estimates: Estimates,
        timers: Timers,
        emit: Callable[[Effect], None],
    ) -> None:
        self._interval_ns = interval_ns
        self._lines = lines
        self._records = records
        self._backends = backends
        self._estimates = estimates
        self._timers = timers
        self._emit = emit
        self._changed: dict[str, None] = {}  # runners
        self._timer = 0

    def note(self, runner: str) -> None:
        """The requests that wait for this runner may stand elsewhere now."""
        self._changed[runner] = None

    def tell_first(self, record: Record) -> None:
        """The first word, at once. The newest of its line is told to stand last until the rules
        are played forward, which is done for all together and not for each arrival."""
        position = self._lines[record.line].size
        reason, detail = wait_reason(record.line, record.model, self._backends)
        self._tell(record, position, reason, detail)

    def tell_again(self, record: Record) -> None:
        """The same to a newer call for this request: as it was last told, with today's reason."""
        reason, detail = wait_reason(record.line, record.model, self._backends)
        self._tell(record, record.told_position, reason, detail)

    def plan(self, now_ns: int) -> None:
        """At the end of a turn: arranges for the next round, if it will have anything to tell."""
        if self._timer:
            return
        if any(runner in self._changed for runner, _ in self._lines):
            self._timer = self._timers.set(now_ns + self._interval_ns, self._announce)
        else:
            self._changed.clear()

    def _announce(self, now_ns: int) -> None:
        self._timer = 0
        runners, self._changed = self._changed, {}
        for runner in runners:
            mine = [line for key, line in self._lines.items() if key[0] == runner]
            reasons: dict[LineKey, tuple[WaitReason, str]] = {}
            for key, position in positions(mine, now_ns).items():
                record = self._records[key]
                if record.line not in reasons:
                    reasons[record.line] = wait_reason(record.line, record.model, self._backends)
                reason, detail = reasons[record.line]
                told = record.told_position
                if record.told_reason is not reason or is_material(told, position):
                    self._tell(record, position, reason, detail)

    def _tell(self, record: Record, position: int, reason: WaitReason, detail: str) -> None:
        record.told_position, record.told_reason = position, reason
        eta_ns = estimate_ns(record.line, position, reason, self._backends, self._estimates)
        self._emit(TellQueued(record.spec.key, position, eta_ns, reason, detail))
