"""Which model is asked for next: learned from when models were asked for, and after which others.

Two habits are learned, and what was asked for lately counts beside them. The day: how often a model
is needed in each half hour, on working days and at weekends, older days counting less. Successors:
what an agent asks for after this one, the same or another, how often and how soon, by its own
requests as far as there are any and by those of all. A need is a
request unless its agent has just had the same model: a session of twenty calls is one.

Rules: counts only, no word of any prompt; the wall's clock is the engine's plus an offset that is
told; the same requests at the same moments give the same forecast. All of it is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice
from math import exp, sqrt
from typing import Final, NamedTuple

from broker.core.preload import (
    DAY_NS,
    SECOND_NS,
    SLOT_NS,
    SLOTS,
    SLOTS_PER_DAY,
    Forecast,
    Learned,
    LearnedModel,
    LearnedSuccessor,
    PreloadPolicy,
)
from broker.core.successors import (
    ALL_COUNT,
    ASKED_MIN,
    FOLLOW_NS,
    SUCCESSORS_MAX,
    Last,
    Turn,
    Turns,
)

WEEK_SLOTS: Final = 7 * SLOTS_PER_DAY
DRIFT_NS: Final = 60 * SECOND_NS  # clocks differ by a little; nothing is learned so finely

_FIRST_WEEKDAY: Final = 3  # 1 January 1970 was a Thursday; 0 is Monday
_SATURDAY: Final = 5

# A request of an agent for the same model within so long of its last one is no new need.
NEED_NS: Final = 60 * SECOND_NS

# How far back what was asked for lately counts; and with which part of that time the habit of the
# hour stands beside it.
LATELY_NS: Final = 900 * SECOND_NS
HABIT_NS: Final = 900.0 * SECOND_NS

# How much of what chance makes of so few needs is allowed for, in standard deviations.
DOUBT: Final = 0.5

AGENTS_MAX: Final = 1_024  # remembered, for what each asked last
PENDING_MAX: Final = 64  # agents that are looked at for what they may turn to


class _Habit:
    """What is known of one model. `needs` by slot, without those of the slot that lasts, which are
    `now`. `lately` fades; it was so at `lately_ns`."""

    __slots__ = ("lately", "lately_ns", "needs", "now", "turns")

    def __init__(self) -> None:
        self.needs = [0.0] * SLOTS
        self.now = 0
        self.lately = 0.0
        self.lately_ns = 0
        self.turns = Turns()


class Habits:
    """See the module. Models go by their comparison keys. `closed` counts the slots that are over:
    then there is something new to keep."""

    def __init__(self, policy: PreloadPolicy) -> None:
        self.policy = policy
        self.closed = 0
        self._habits: OrderedDict[str, _Habit] = OrderedDict()  # the one asked for last at the end
        self._agents: OrderedDict[str, Last] = OrderedDict()  # the same
        self._days = [0.0] * SLOTS
        self._offset_ns: int | None = None  # of the wall's clock; None: it is not known
        self._begun_ns = 0  # when what is seen of this slot began
        self._ends_ns: int | None = None  # when it is over; None: the time of day is not known
        self._first_ns: int | None = None  # when anything was heard for the first time

    # What is heard

    def clock_set(self, offset_ns: int, now_ns: int) -> None:
        """The clock on the wall shows so much more than the engine's, in local time."""
        if self._offset_ns is not None and abs(offset_ns - self._offset_ns) < DRIFT_NS:
            return
        if self._ends_ns is not None:
            self._close(min(now_ns, self._ends_ns))
        for habit in self._habits.values():
            habit.now = 0  # of which nobody knows the hour
        self._offset_ns = offset_ns
        self._open(now_ns)

    def restore(self, learned: Learned) -> None:
        """What the broker before this one had learned; what was heard since start goes on."""
        if len(learned.days) != SLOTS:
            return
        self._days = list(learned.days)
        for each in learned.models[: self.policy.models_max]:
            if len(each.needs) == SLOTS:
                habit = self._habit(each.model)
                habit.needs, habit.turns.asked = list(each.needs), each.asked
                for turn in each.successors[:SUCCESSORS_MAX]:
                    habit.turns.to[turn.model] = Turn(turn.count, turn.gap_s * SECOND_NS)

    def asked(self, model: str, agent_id: str, now_ns: int) -> None:
        """A request came. Two or three microseconds: it is on the way of each."""
        if self._ends_ns is not None and now_ns >= self._ends_ns:
            self.roll(now_ns)
        self._habit(model).turns.asked += 1.0
        last = self._agents.get(agent_id)
        if last is None:
            last = self._agents[agent_id] = Last(model, now_ns)
            last.turns(model).asked += 1.0
            if len(self._agents) > AGENTS_MAX:
                self._agents.popitem(last=False)
            self._need(model, now_ns)
            return
        self._agents.move_to_end(agent_id)
        gap_ns = now_ns - last.at_ns
        if gap_ns <= FOLLOW_NS:
            last.turns(last.model).add(model, gap_ns)
            before = self._habits.get(last.model)
            if before is not None:
                before.turns.add(model, gap_ns)
        last.turns(model).asked += 1.0
        last.at_ns = now_ns
        if model != last.model or now_ns - last.need_ns >= NEED_NS:
            last.model, last.need_ns = model, now_ns
            self._need(model, now_ns)

    def _habit(self, model: str) -> _Habit:
        habit = self._habits.get(model)
        if habit is None:
            habit = self._habits[model] = _Habit()
            self._make_room()
        return habit

    def _make_room(self) -> None:
        while len(self._habits) > self.policy.models_max:
            gone, _ = self._habits.popitem(last=False)
            for each in self._habits.values():
                each.turns.to.pop(gone, None)

    def _need(self, model: str, now_ns: int) -> None:
        if self._first_ns is None:
            self._first_ns = now_ns
        habit = self._habit(model)
        self._habits.move_to_end(model)
        habit.now += 1
        habit.lately = _faded(habit, now_ns) + 1.0
        habit.lately_ns = now_ns

    # The slots of the day

    def roll(self, now_ns: int) -> None:
        """Closes the slots that are over. Of a long silence only the last week is told apart."""
        ends_ns = self._ends_ns
        if ends_ns is None or now_ns < ends_ns:
            return
        self._close(ends_ns)
        passed = (now_ns - ends_ns) // SLOT_NS
        first = max(0, passed - WEEK_SLOTS)
        for step in range(first, passed):
            begun_ns = ends_ns + step * SLOT_NS
            self._begun_ns = begun_ns
            self._close(begun_ns + SLOT_NS)
        self._open(now_ns)

    def _open(self, now_ns: int) -> None:
        if self._offset_ns is not None:
            wall_ns = now_ns + self._offset_ns
            self._begun_ns = now_ns
            self._ends_ns = now_ns + SLOT_NS - wall_ns % SLOT_NS

    def _close(self, now_ns: int) -> None:
        """What was seen of the slot that lasted joins what was seen on other days."""
        seen = (now_ns - self._begun_ns) / SLOT_NS
        place = self._place(self._begun_ns)
        if seen <= 0 or place is None:
            return
        kept = (1.0 - 1.0 / self.policy.days) ** seen
        self._days[place] = self._days[place] * kept + seen
        for habit in self._habits.values():
            if habit.now or habit.needs[place]:
                habit.needs[place] = habit.needs[place] * kept + habit.now
                habit.now = 0
        self.closed += 1

    def _place(self, now_ns: int) -> int | None:
        """Which slot a moment is in; None while the time of day is not known."""
        if self._offset_ns is None:
            return None
        day, rest_ns = divmod(now_ns + self._offset_ns, DAY_NS)
        kind = int((day + _FIRST_WEEKDAY) % 7 >= _SATURDAY)
        return kind * SLOTS_PER_DAY + rest_ns // SLOT_NS

    # What follows from it

    def forecasts(self, now_ns: int) -> Mapping[str, Forecast]:
        """Of each model of which anything is known. Some microseconds for each."""
        slots = tuple(self._ahead(now_ns))
        soon = self._successors(now_ns)
        return {
            model: self._forecast(model, habit, slots, soon.get(model), now_ns)
            for model, habit in self._habits.items()
        }

    def _ahead(self, now_ns: int) -> Iterator[tuple[int, float]]:
        """The slots of the horizon, and which part of it lies in each."""
        horizon_ns = self.policy.horizon_ns
        at_ns, until_ns = now_ns, now_ns + horizon_ns
        while at_ns < until_ns and self._offset_ns is not None:
            rest_ns = SLOT_NS - (at_ns + self._offset_ns) % SLOT_NS
            step_ns = min(rest_ns, until_ns - at_ns)
            place = self._place(at_ns)
            if place is not None:
                yield place, step_ns / horizon_ns
            at_ns += step_ns

    def _forecast(
        self,
        model: str,
        habit: _Habit,
        slots: tuple[tuple[int, float], ...],
        soon: _Soon | None,
        now_ns: int,
    ) -> Forecast:
        """The habit of the hour counts as if it had been seen for a quarter of an hour today,
        beside what was."""
        needs = days = 0.0
        for place, part in slots:
            seen = self._days[place]
            if seen:
                needs += part * habit.needs[place] / seen
                days += part * min(1.0, seen)
        habit_ns = HABIT_NS * days
        usual_per_ns = needs / days / SLOT_NS if days else 0.0
        since_ns = now_ns - (now_ns if self._first_ns is None else self._first_ns)
        lately_ns = LATELY_NS * (1.0 - exp(-since_ns / LATELY_NS))
        lately = _faded(habit, now_ns)
        seen_ns = habit_ns + lately_ns
        per_s = (usual_per_ns * habit_ns + lately) / seen_ns * SECOND_NS if seen_ns else 0.0
        # What all that rests on: how many needs were counted.
        counted = lately + sum(habit.needs[place] for place, _ in slots)
        doubt = DOUBT / sqrt(1.0 + counted)
        low, high = per_s * (1.0 - doubt), per_s * (1.0 + doubt)
        why = ""
        if soon is not None:
            per_s, low, high = per_s + soon.per_s, low + soon.per_s, high + soon.per_s
            if soon.per_s > per_s / 2 and soon.after != model:
                why = f"usually asked for after {soon.after}"
        if not why and usual_per_ns * habit_ns >= lately:
            why = f"usually asked for at {self._clock(now_ns)}"
        return Forecast(per_s, low, high, why or "often asked for lately")

    def _clock(self, now_ns: int) -> str:
        minutes = (now_ns + (self._offset_ns or 0)) % DAY_NS // (60 * SECOND_NS)
        return f"{minutes // 60:02d}:{minutes % 60:02d}"

    def _successors(self, now_ns: int) -> dict[str, _Soon]:
        """What agents that asked for something just now usually turn to."""
        found: dict[str, _Soon] = {}
        for last in islice(reversed(self._agents.values()), PENDING_MAX):
            age_ns = now_ns - last.at_ns
            if age_ns > FOLLOW_NS:
                break
            for model, likely, gap_ns in self._turns_of(last):
                # That it has not come yet makes it less likely that it will.
                still = likely * exp(-age_ns / gap_ns)
                still /= 1.0 - likely + still or 1.0
                per_s = still / gap_ns * SECOND_NS
                before = found.get(model)
                if before is None:
                    found[model] = _Soon(per_s, last.model)
                else:
                    found[model] = _Soon(before.per_s + per_s, before.after)
        return found

    def _turns_of(self, last: Last) -> Iterator[tuple[str, float, float]]:
        """What this agent may ask for next, how likely, and how long after the last."""
        own, habit = last.turns(last.model), self._habits.get(last.model)
        all_ = habit.turns if habit is not None else _NO_TURNS
        if own.asked + all_.asked < ASKED_MIN:
            return
        for model in dict.fromkeys((*own.to, *all_.to)):
            mine, theirs = own.to.get(model), all_.to.get(model)
            share = theirs.count / max(1.0, all_.asked) if theirs is not None else 0.0
            count = mine.count if mine is not None else 0.0
            likely = min(1.0, (count + ALL_COUNT * share) / (own.asked + ALL_COUNT))
            turn = mine or theirs
            if turn is not None:
                yield model, likely, max(turn.gap_ns, 1.0)

    def learned(self) -> Learned:
        """As it is now, to be kept."""
        return Learned(
            days=tuple(round(each, 4) for each in self._days),
            models=tuple(
                LearnedModel(
                    model=model,
                    needs=tuple(round(each, 3) for each in habit.needs),
                    asked=round(habit.turns.asked, 3),
                    successors=tuple(
                        LearnedSuccessor(
                            model=each,
                            count=round(turn.count, 3),
                            gap_s=round(turn.gap_ns / SECOND_NS, 3),
                        )
                        for each, turn in habit.turns.to.items()
                    ),
                )
                for model, habit in self._habits.items()
            ),
        )

    def configure(self, policy: PreloadPolicy) -> None:
        """From now on this holds; what is more than may be kept goes, what was asked for longest
        ago first."""
        self.policy = policy
        self._make_room()

    def __len__(self) -> int:
        return len(self._habits)


_NO_TURNS: Final = Turns()


class _Soon(NamedTuple):
    """What agents will probably turn to. `after`: the model that one of them asked for last."""

    per_s: float
    after: str


def _faded(habit: _Habit, now_ns: int) -> float:
    return habit.lately * exp((habit.lately_ns - now_ns) / LATELY_NS) if habit.lately else 0.0
