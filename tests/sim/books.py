"""What the oracle of a world writes down: who is under way, who holds a slot, what is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.core.requests import AttemptId, RequestKey, RequestSpec
from broker.sim.workload import Task


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
    attempt: AttemptId | None = None
    is_apart: bool = False  # it waits for its next attempt, in no line


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
    loads: int = 0
    is_missing: bool = False  # the last look found it away

    def looked_at(self, *, is_up: bool) -> None:
        """One that was away may be another process: it may load what failed before."""
        if is_up and self.is_missing:
            self.load_failed_ns.clear()
        self.up, self.is_missing = is_up, not is_up
