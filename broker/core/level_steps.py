"""How the level moves: its tables, the dwell, and what damps a level that comes and goes.

Up at once, by as many levels as the load asks for; down one at a time, each after the load has been
below that level's `down` for its dwell. A level that is entered again soon after it was left is
held twice as long, and half as long again for each calm while. Source of the damping: RFC 2439, a
penalty for each flap that decays by halves; here the penalty is the dwell itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from broker.core.level import DegradationPolicy, Level
from broker.core.state_machine import Machine, Symbol


class LevelTrigger(Symbol):
    OVER_1 = "load over 1's up"
    OVER_2 = "load over 2's up"
    OVER_CRITICAL = "load over critical's up"
    CALM = "load under its down for its dwell"


_L, _T = Level, LevelTrigger

LEVELS: Final = Machine(
    "level",
    {
        (_L.NORMAL, _T.OVER_1): _L.LEVEL_1,
        (_L.NORMAL, _T.OVER_2): _L.LEVEL_2,
        (_L.NORMAL, _T.OVER_CRITICAL): _L.CRITICAL,
        (_L.LEVEL_1, _T.OVER_2): _L.LEVEL_2,
        (_L.LEVEL_1, _T.OVER_CRITICAL): _L.CRITICAL,
        (_L.LEVEL_1, _T.CALM): _L.NORMAL,
        (_L.LEVEL_2, _T.OVER_CRITICAL): _L.CRITICAL,
        (_L.LEVEL_2, _T.CALM): _L.LEVEL_1,
        (_L.CRITICAL, _T.CALM): _L.LEVEL_2,
    },
)

_OVER: Final[Mapping[Level, LevelTrigger]] = MappingProxyType(
    {_L.LEVEL_1: _T.OVER_1, _L.LEVEL_2: _T.OVER_2, _L.CRITICAL: _T.OVER_CRITICAL}
)


class Mode(Symbol):
    AUTOMATIC = "automatic"  # the load decides
    BY_HAND = "by_hand"  # an operator has set the level, until a moment or until it is set again


class ModeTrigger(Symbol):
    SET = "set"
    FREED = "freed"  # an operator leaves it to the load again
    EXPIRED = "expired"


MODES: Final = Machine(
    "mode of the level",
    {
        (Mode.AUTOMATIC, ModeTrigger.SET): Mode.BY_HAND,
        (Mode.AUTOMATIC, ModeTrigger.FREED): Mode.AUTOMATIC,
        (Mode.BY_HAND, ModeTrigger.SET): Mode.BY_HAND,
        (Mode.BY_HAND, ModeTrigger.FREED): Mode.AUTOMATIC,
        (Mode.BY_HAND, ModeTrigger.EXPIRED): Mode.AUTOMATIC,
    },
)


@dataclass(slots=True)
class _Hold:
    """How long a level is held, and when it was last left. `left_ns` None: not yet."""

    dwell_ns: int
    left_ns: int | None = None


class LevelSteps:
    """The level that a load asks for, step by step. Knows nothing of what the load is made of."""

    __slots__ = ("_below_since_ns", "_holds", "_policy", "level")

    def __init__(self, policy: DegradationPolicy) -> None:
        self.level = Level.NORMAL
        self._policy = policy
        self._below_since_ns: int | None = None
        self._holds: dict[Level, _Hold] = {}

    def configure(self, policy: DegradationPolicy) -> None:
        """Other thresholds and times hold from the next look on. What was learned of levels that
        come and go is kept, within the new limits."""
        self._policy = policy
        for hold in self._holds.values():
            hold.dwell_ns = min(max(hold.dwell_ns, policy.dwell_ns), policy.dwell_ns_max)

    def restart(self, load: float | None) -> None:
        """What the load asks for now, whatever was before: nobody has held it for a dwell."""
        self._holds.clear()
        self._below_since_ns = None
        self.level = self._asked_for(load)

    def look(self, load: float | None, now_ns: int) -> None:
        """One look at the load. Nothing known is nothing to hold the level up with."""
        asked = self._asked_for(load)
        if asked > self.level:
            self._rise(asked, now_ns)
        elif not self._is_below(load):
            self._below_since_ns = None
        elif self._below_since_ns is None:
            self._below_since_ns = now_ns
        elif now_ns - self._below_since_ns >= self.dwell_ns:
            self._hold(self.level).left_ns = now_ns
            self.level = LEVELS.step(self.level, LevelTrigger.CALM)
            self._below_since_ns = now_ns if self._is_below(load) else None

    @property
    def dwell_ns(self) -> int:
        """How long the load must stay below the present level's `down`; the usual time at NORMAL,
        where nothing is to be left."""
        hold = self._holds.get(self.level)
        return self._policy.dwell_ns if hold is None else hold.dwell_ns

    def below_ns(self, now_ns: int) -> int | None:
        """For how long the load has been below the present level's `down`; None where it is not."""
        return None if self._below_since_ns is None else now_ns - self._below_since_ns

    def _asked_for(self, load: float | None) -> Level:
        """The highest level whose `up` the load exceeds."""
        if load is None:
            return Level.NORMAL
        thresholds = self._policy.thresholds
        over = [level for level, each in thresholds.items() if load > each.up]
        return max(over, default=Level.NORMAL)

    def _is_below(self, load: float | None) -> bool:
        if self.level is Level.NORMAL:
            return False
        return load is None or load < self._policy.thresholds[self.level].down

    def _rise(self, asked: Level, now_ns: int) -> None:
        for level in Level:
            if self.level < level <= asked:
                self._enter(level, now_ns)
        self.level = LEVELS.step(self.level, _OVER[asked])
        self._below_since_ns = None

    def _enter(self, level: Level, now_ns: int) -> None:
        """Soon is what is within the longest dwell: were it the present one, a load that comes back
        a moment later than that would make the level swing for ever."""
        least_ns, most_ns = self._policy.dwell_ns, self._policy.dwell_ns_max
        hold = self._hold(level)
        if hold.left_ns is None:
            return
        calms = (now_ns - hold.left_ns) // most_ns
        if calms < 1:
            hold.dwell_ns = min(2 * hold.dwell_ns, most_ns)
        else:
            hold.dwell_ns = max(hold.dwell_ns >> min(calms, 64), least_ns)

    def _hold(self, level: Level) -> _Hold:
        return self._holds.setdefault(level, _Hold(self._policy.dwell_ns))


class JoinedSteps:
    """What memory asks for and what the rest of the load asks for, each by steps of its own, of
    which the higher holds. So neither keeps up a level that only the other asked for, and it is
    known how much of the level is for memory's sake."""

    __slots__ = ("_rest", "memory")

    def __init__(self, policy: DegradationPolicy) -> None:
        self.memory = LevelSteps(policy)
        self._rest = LevelSteps(policy)

    @property
    def level(self) -> Level:
        return max(self.memory.level, self._rest.level)

    def configure(self, policy: DegradationPolicy) -> None:
        self.memory.configure(policy)
        self._rest.configure(policy)

    def restart(self, memory: float | None, rest: float | None) -> None:
        self.memory.restart(memory)
        self._rest.restart(rest)

    def look(self, memory: float | None, rest: float | None, now_ns: int) -> None:
        self.memory.look(memory, now_ns)
        self._rest.look(rest, now_ns)

    def last(self, now_ns: int) -> LevelSteps:
        """Which of them leaves the present level last, as far as can be told."""

        def rest_ns(steps: LevelSteps) -> tuple[bool, int]:
            below_ns = steps.below_ns(now_ns)
            return below_ns is None, steps.dwell_ns - (below_ns or 0)

        level = self.level
        return max((each for each in (self.memory, self._rest) if each.level is level), key=rest_ns)
