"""What the oracle of a world writes down: who is under way, who holds a slot, what is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from broker.core.requests import AttemptId, RequestKey, RequestSpec
from broker.sim.workload import Task

LOAD_NS_UNKNOWN: Final = 5_000_000_000  # what a load is taken for before any was measured


class Wrong(AssertionError):
    """The engine did what it must not."""


def must(truth: object, words: str) -> None:
    if not truth:
        raise Wrong(words)


@dataclass(slots=True)
class Live:
    """A request that was admitted and has not ended."""

    task: Task
    spec: RequestSpec
    line: tuple[str, int]
    runners: frozenset[str]  # of all models that it accepts
    attempt: AttemptId | None = None
    is_apart: bool = False  # it waits for its next attempt, in no line

    @property
    def is_flexible(self) -> bool:
        return len(self.runners) > 1


@dataclass(slots=True)
class Held:
    """A slot that is held: by whom, where."""

    key: RequestKey
    backend: str
    runner: str
    cut_to: int | None = None  # tokens, by the level at which it was started


@dataclass(slots=True)
class Books:
    """Of one backend. `loading` and `unloading` are runners; `ours` those that our loads made,
    and when; `pressed` those for which somebody has waited ever since one was last started."""

    up: bool = False
    loading: str = ""
    unloading: str = ""
    is_aborting: bool = False  # what loads
    ours: dict[str, int] = field(default_factory=dict)
    pressed: set[str] = field(default_factory=set)
    used_ns: dict[str, int] = field(default_factory=dict)
    renewed_ns: dict[str, int] = field(default_factory=dict)
    listed_ns: dict[str, int] = field(default_factory=dict)
    load_failed_ns: dict[str, int] = field(default_factory=dict)
    contested_ns: dict[str, int] = field(default_factory=dict)  # when others took it once too often
    loads: int = 0
    loading_since_ns: int = 0
    load_ns_min: int = LOAD_NS_UNKNOWN  # of those that came to a good end
    is_missing: bool = False  # the last look found it away
    is_leaving: bool = False  # it is not configured
    is_unknown: bool = False  # and is gone

    def held_ns(self, runner: str, never_ns: int) -> int:
        """When its load last failed, or others took it once too often."""
        failed_ns = self.load_failed_ns.get(runner, never_ns)
        return max(failed_ns, self.contested_ns.get(runner, never_ns))

    def has_loaded(self, runner: str, now_ns: int) -> None:
        """A load of ours came to a good end."""
        self.ours[runner] = now_ns
        self.load_ns_min = min(self.load_ns_min, now_ns - self.loading_since_ns)
        self.pressed.add(runner)

    def check_cut(self, runner: str, shortest_ns: int, now_ns: int) -> None:
        """What has work left is there for as long as the shortest load takes before it leaves: else
        its own would have been for nothing."""
        stayed_ns = now_ns - self.ours.get(runner, now_ns - shortest_ns)
        must(stayed_ns >= shortest_ns, f"{runner} is to leave with work left, and has just come")

    def looked_at(self, *, is_up: bool) -> None:
        """One that was away may be another process: it may load what failed before."""
        if is_up and self.is_missing:
            self.load_failed_ns.clear()
        self.up, self.is_missing = is_up, not is_up

    @property
    def is_open(self) -> bool:
        return self.up and not self.is_leaving

    def configured(self, *, is_there: bool) -> None:
        """What is taken back is asked anew before it is used."""
        if is_there and self.is_leaving:
            self.up = False
        self.is_leaving, self.is_unknown = not is_there, self.is_unknown and not is_there

    def check_reachable(self, words: str) -> None:
        must(self.up, f"{words}, which is down")
        must(not self.is_leaving, f"{words}, which is not configured")
