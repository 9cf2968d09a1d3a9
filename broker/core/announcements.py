"""Nobody waits in silence: tells each waiting request its position, an estimate and the reason.

At once when it starts to wait, then whenever the position or the reason changes materially, at most
once per interval: positions of a whole line change with every departure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from broker.core.backlog import Backlog
from broker.core.barriers import Bar, Barrier, barrier
from broker.core.calibration import Calibration, Word
from broker.core.effects import Effect, TellQueued, WaitReason
from broker.core.estimates import Estimates
from broker.core.lifecycle import State
from broker.core.outlook import Outlook, Prospect
from broker.core.placement import BackendState, has_room, may_get_room, serves
from broker.core.preemption import PREEMPTED
from broker.core.queueing import LineKey
from broker.core.record import Record
from broker.core.residency import ResidencyState
from broker.core.timers import Timers

# Near the front every step is worth a message; further back only a quarter of the way is.
POSITION_ALWAYS_TOLD_MAX = 3

# Whose positions a round works out, per runner: the whole queue as the seeds have it.
PLAYED_FORWARD_MAX = 1_000

# In a line of so many it is worked out what a newcomer has before it; in a longer one it is taken
# to be last.
FRONT_MAX = 32

# Of a model that is at hand the front is looked at in each round, the rest within so many: there it
# moves slowly, and to look at a thousand costs as much as to serve ten.
ROUNDS = 4

# Of models that are not at hand one more is looked at in a round until it were so many requests.
LOOKED_AT_MAX = 1_000


def is_material(told: int, position: int) -> bool:
    """Has the position changed enough to tell?"""
    if told == position:
        return False
    if position <= POSITION_ALWAYS_TOLD_MAX:
        return True
    return position <= told * 3 // 4 or position > told * 5 // 4


def wait_reason(
    record: Record, backends: Mapping[str, BackendState], backlog: Backlog, now_ns: int
) -> tuple[WaitReason, str]:
    """What a request waits for, as a reason and in words that follow "waits for"."""
    if record.state is State.ADMITTED:
        return WaitReason.QUEUE_FULL, "a place in the queue, which is full"
    if record.state is State.REQUEUED:
        lost = record.past[-1]
        if lost.reason == PREEMPTED:
            return WaitReason.BACKOFF, f"the end of its call, then its turn: {lost.problem}"
        return WaitReason.BACKOFF, f"its next attempt: {lost.backend} failed it ({lost.problem})"
    if record.agent.is_paused:
        return WaitReason.PAUSED, f"an operator to resume {record.agent.paused_whom}"
    bit, bulkheads = record.compartment, backlog.bulkheads
    if bulkheads.closed and bulkheads.is_closed(bit):
        limit, name = bulkheads.limit(bit), bulkheads.name(bit)
        running = bulkheads.running(bit)
        return WaitReason.BULKHEAD, f"bulkhead {name}, where {running} run of at most {limit}"
    if backlog.offers.holds(record):
        return WaitReason.LEVEL, backlog.offers.why_held(record)
    return _wait_for_model(record.line, record.model, backends, now_ns)


def _wait_for_model(
    line: LineKey, model: str, backends: Mapping[str, BackendState], now_ns: int
) -> tuple[WaitReason, str]:
    for backend in backends.values():  # the usual case first: asked for with every arrival
        if backend.takes(line[0]) and serves(backend, line):
            return _wait_for_slot(line[0], model, backend)
    model = _spelled(model, backends)
    having = [each for each in backends.values() if line[0] in each.by_runner]
    up = [each for each in having if each.up]
    if not up:
        words = f"a backend that has {model}"
        if having:
            do_not = "does not" if len(having) == 1 else "do not"
            words += f" to answer: {', '.join(each.name for each in having)} {do_not}"
        return WaitReason.BACKEND_DOWN, words
    closed = [(each, barrier(each, line[0], now_ns)) for each in up]
    open_ = [each for each, found in closed if found is None]
    if open_:
        return _wait_for_room(line, model, open_)
    barred = [(each, found) for each, found in closed if found is not None]
    backend, why = min(barred, key=lambda each: each[1].wait_ns)
    return _why_closed(backend, line[0], model, why)


def _wait_for_slot(runner: str, model: str, backend: BackendState) -> tuple[WaitReason, str]:
    """Who comes while one is free is told so: it has only its turn to wait for."""
    spec = backend.models.get(model)
    where = f"{spec.name if spec else model} on {backend.name}"
    residency = backend.residents[runner]
    if residency.running < residency.slots:
        return WaitReason.SLOT, f"its turn at {where}, which has a free slot"
    return WaitReason.SLOT, f"a free slot of {where}"


def _spelled(model: str, backends: Mapping[str, BackendState]) -> str:
    """The name (comparison key) as a backend that has it spells it: not each knows tags."""
    for backend in backends.values():
        if model in backend.models:
            return backend.models[model].name
    return model


def _why_closed(
    backend: BackendState, runner: str, model: str, found: Barrier
) -> tuple[WaitReason, str]:
    """What waits for a backend that answers and starts nothing of a model is told."""
    name, wait_ns = backend.name, found.wait_ns
    match found.kind:
        case Bar.CLOSED:
            words = f"{name}, which has {model}, to be opened again: nothing is started there"
            return WaitReason.BACKEND_DRAINS, words
        case Bar.RESTARTING:
            return WaitReason.HEALING, f"{name}, which has {model}, to be restarted"
        case Bar.CURED:
            return WaitReason.HEALING, f"{model} to be cured on {name}"
        case Bar.BROKEN:
            until = f"a try in {_seconds(wait_ns)}" if wait_ns else "the outcome of a try"
            words = f"{until}: calls of {model} on {name} have failed too often lately"
            return WaitReason.BREAKER, words
        case Bar.WEDGED:
            until = f"a try in {_seconds(wait_ns)}" if wait_ns else "the outcome of a try"
            return WaitReason.SICK, f"{until}: {name}, which has {model}, loads nothing"
        case _:
            why = backend.held_because.get(runner, "")
            again = f"{model} to be loaded on {name} again in {_seconds(wait_ns)}"
            words = f"{again}, where that failed"
            return WaitReason.SICK, f"{words} ({why})" if why else words


def _seconds(wait_ns: float) -> str:
    return f"{max(1, round(wait_ns / 1e9))} s"


def _wait_for_room(line: LineKey, model: str, up: Sequence[BackendState]) -> tuple[WaitReason, str]:
    """The same where none of the backends that are up has it ready."""
    for backend in up:
        residency = backend.residents.get(line[0])
        if residency is not None and residency.state is ResidencyState.LOADING:
            return WaitReason.LOADING, f"{model}, which is being loaded on {backend.name}"
    for backend in up:
        if has_room(backend, line[0]) and not backend.is_switching:
            return WaitReason.LOADING, f"{model}, which is about to be loaded on {backend.name}"
    for backend in up:
        if may_get_room(backend, line[0]):
            held = ", ".join(each.model for each in backend.residents.values())
            return WaitReason.SWAP, f"{backend.name} to make room for {model} (it holds {held})"
    backend = up[0]
    held = ", ".join(each.model for each in backend.residents.values() if not each.managed)
    words = f"room for {model} on {backend.name}, which holds {held}, loaded by others"
    return WaitReason.NO_ROOM, words


class _Why(NamedTuple):
    """What some requests wait for, in words, and how fast it goes."""

    reason: WaitReason
    detail: str
    prospect: Prospect | None


class Announcer:
    """Keeps whose waiting requests may stand elsewhere now, and tells them, not too often."""

    def __init__(
        self,
        interval_ns: int,
        backlog: Backlog,
        backends: Mapping[str, BackendState],
        estimates: Estimates,
        waits: Calibration,
        timers: Timers,
        emit: Callable[[Effect], None],
        changed: dict[str, None],
    ) -> None:
        self.interval_ns = interval_ns
        self._backlog = backlog
        self._backends = backends
        self._estimates = estimates
        self._outlook = Outlook(backends, backlog, estimates)
        self._waits = waits
        self._timers = timers
        self._emit = emit
        self._changed = changed  # runners for which what waits may stand elsewhere now
        self._timer = 0
        self._round = 0
        self._rest: dict[str, int] = {}  # rounds until all of a runner was looked at since

    def tell_first(self, record: Record, now_ns: int) -> None:
        """The first word, at once. The newest of its line is told to stand last, of those that may
        run if it may, until the rules are played forward: for all together, not for each arrival.
        """
        backlog = self._backlog
        line = backlog.lines[record.line]
        is_held = (
            record.agent.is_paused
            or backlog.bulkheads.is_closed(record.compartment)
            or backlog.offers.holds(record)
        )
        why = self._why(record, now_ns)
        position = line.size if is_held else line.demand_first(0)[0]
        ahead_ns = 0.0
        if why.prospect is not None:
            ahead_ns = self._ahead_ns(record, position, why.prospect, now_ns)
        self._tell_why(record, position, ahead_ns, why, now_ns)

    def _ahead_ns(self, record: Record, position: int, prospect: Prospect, now_ns: int) -> float:
        """How much work a newcomer has before it."""
        if position > FRONT_MAX:
            return (position - 1) * prospect.service_ns
        ahead_ns = 0.0
        for each in self._backlog.forward(record.line[0], now_ns, FRONT_MAX):
            if each is record:
                return ahead_ns
            ahead_ns += each.service_ns or prospect.service_ns
        return ahead_ns

    def tell_standing(self, record: Record, position: int, now_ns: int) -> None:
        """The first word to a request in the waiting room."""
        self._tell(record, position, now_ns)

    def tell_again(self, record: Record, now_ns: int) -> None:
        """Where it stands as it was last told, with today's reason."""
        self._tell(record, record.told_position, now_ns)

    def plan(self, now_ns: int) -> None:
        """At the end of a turn: arranges for the next round, if it will have anything to tell."""
        if self._timer:
            return
        changed, rest = self._changed, self._rest
        if any(runner in changed or runner in rest for runner, _ in self._backlog.lines):
            self._timer = self._timers.set(now_ns + self.interval_ns, self._announce)
        else:
            changed.clear()
            rest.clear()

    def _announce(self, _: None, now_ns: int) -> None:
        """A round. In a queue of many thousands those far back hear nothing new until they are
        among the first: playing the rules forward for all would cost more than serving them."""
        self._timer = 0
        self._round = (self._round + 1) % ROUNDS
        looked = 0
        for runner in list({**self._changed, **self._rest}):  # those first that were noted first
            is_at_hand = self._is_at_hand(runner)
            if not is_at_hand and looked >= LOOKED_AT_MAX:
                continue  # in the next round
            rounds = self._rest.pop(runner, 0) - 1
            if runner in self._changed:
                del self._changed[runner]
                rounds = ROUNDS - 1
            usual_ns = self._estimates.service_ns(runner) or 0.0
            whys: dict[tuple[LineKey, str, int, bool], _Why] = {}
            ahead_ns = 0.0
            order = self._backlog.forward(runner, now_ns, PLAYED_FORWARD_MAX)
            for position, record in enumerate(order, start=1):
                if not is_at_hand or position <= FRONT_MAX or record.rank % ROUNDS == self._round:
                    self._look(record, position, ahead_ns, whys, now_ns)
                ahead_ns += record.service_ns or usual_ns
            looked += 0 if is_at_hand else len(order)
            if is_at_hand and rounds > 0 and len(order) > FRONT_MAX:
                self._rest[runner] = rounds

    def _is_at_hand(self, runner: str) -> bool:
        """Is it somewhere, or about to be?"""
        return any(
            runner in each.residents or each.promised == runner for each in self._backends.values()
        )

    def _look(
        self,
        record: Record,
        position: int,
        ahead_ns: float,
        whys: dict[tuple[LineKey, str, int, bool], _Why],
        now_ns: int,
    ) -> None:
        """Tells it what is worth a word now. `whys`: what this round knows of those alike."""
        holds = self._backlog.offers.holds(record)
        alike = record.line, record.model, record.compartment, holds
        why = whys.get(alike)
        if why is None:
            why = whys[alike] = self._why(record, now_ns)
        if record.first_word is not None and not record.is_overdue:
            self._look_if_overdue(record, record.first_word, now_ns)
        if self._is_worth_a_word(record, position, ahead_ns, why, now_ns):
            self._tell_why(record, position, ahead_ns, why, now_ns)

    def _look_if_overdue(self, record: Record, word: Word, now_ns: int) -> None:
        if now_ns - word.at_ns > word.interval.high_ns and record.tries == 0:
            record.is_overdue = True
            self._waits.overdue(word)

    def _is_worth_a_word(
        self, record: Record, position: int, ahead_ns: float, why: _Why, now_ns: int
    ) -> bool:
        """Its place or its reason is another, or it will start outside of what it was told."""
        told = record.told_position
        if record.told_reason is not why.reason:
            return True
        if told != position and is_material(told, position):
            return True
        prospect = why.prospect
        if prospect is None or record.told_starts_ns is None:
            return prospect is not None  # now it can be told
        first_ns, last_ns = record.told_starts_ns
        point_ns = prospect.point_ns(ahead_ns)
        starts_ns = now_ns + self._waits.middle_ns(prospect.situation, point_ns)
        return not first_ns <= starts_ns <= last_ns

    def _why(self, record: Record, now_ns: int) -> _Why:
        reason, detail = wait_reason(record, self._backends, self._backlog, now_ns)
        return _Why(reason, detail, self._outlook.prospect(record, reason, now_ns))

    def _tell(self, record: Record, position: int, now_ns: int) -> None:
        """What is before it, of which nothing new is known, is taken to be of the usual size."""
        why = self._why(record, now_ns)
        ahead_ns = 0.0 if why.prospect is None else (position - 1) * why.prospect.service_ns
        self._tell_why(record, position, ahead_ns, why, now_ns)

    def _tell_why(
        self, record: Record, position: int, ahead_ns: float, why: _Why, now_ns: int
    ) -> None:
        reason, detail, prospect = why
        key = record.spec.key
        is_first = record.told_reason is None
        record.told_position, record.told_reason = position, reason
        if prospect is None:
            record.told_starts_ns = None
            self._emit(TellQueued(key, position, None, reason, detail))
            return
        point_ns = prospect.point_ns(ahead_ns)
        if is_first:
            word = record.first_word = self._waits.word(prospect.situation, point_ns, now_ns)
            interval = word.interval
        else:
            interval = self._waits.interval(prospect.situation, point_ns)
        low_ns, middle_ns, high_ns = interval
        record.told_starts_ns = now_ns + low_ns, now_ns + high_ns
        self._emit(TellQueued(key, position, middle_ns, reason, detail, low_ns, high_ns))
