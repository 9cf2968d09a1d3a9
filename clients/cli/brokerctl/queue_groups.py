"""What waits, grouped. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from broker_client import RequestStatus, Status

# As many as the broker lists in one answer.
REQUESTS_LOOKED_AT: Final = 1000
WAITING_STATES: Final = frozenset({"admitted", "queued", "requeued"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Requests that have something in common."""

    name: str
    waiting: int
    running: int
    oldest_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What waits. `requests` has those that wait, the oldest first; `left_out` more wait that the
    broker does not list."""

    waiting: int
    waiting_max: int
    left_out: int
    requests: tuple[RequestStatus, ...]
    by_reason: tuple[Group, ...]
    by_priority: tuple[Group, ...]
    by_agent: tuple[Group, ...]
    by_model: tuple[Group, ...]

    def document(self) -> dict[str, Any]:
        """The same for programs."""
        return {name: getattr(self, name) for name in self.__slots__}


def is_waiting(request: RequestStatus) -> bool:
    """Has no backend got it?"""
    return request.state in WAITING_STATES


def queue_of(status: Status) -> Queue:
    """Groups what waits, each with what of it runs, the largest group first."""
    under_way = status.requests
    waiting = tuple(sorted(filter(is_waiting, under_way), key=lambda each: -each.age_ms))
    all_waiting = status.queued + status.standing
    by_priority = grouped(under_way, lambda each: str(each.priority))
    return Queue(
        waiting=all_waiting,
        waiting_max=status.queued_max,
        left_out=max(0, all_waiting - len(waiting)) if len(under_way) >= REQUESTS_LOOKED_AT else 0,
        requests=waiting,
        by_reason=grouped(waiting, lambda each: each.wait_reason),
        by_priority=tuple(sorted(by_priority, key=lambda each: int(each.name))),
        by_agent=grouped(under_way, lambda each: each.agent_id),
        by_model=grouped(under_way, lambda each: each.model),
    )


def grouped(
    requests: tuple[RequestStatus, ...], name_of: Callable[[RequestStatus], str]
) -> tuple[Group, ...]:
    """By name, those where most wait first; those where nothing waits are left out."""
    members: dict[str, list[RequestStatus]] = {}
    for each in requests:
        members.setdefault(name_of(each), []).append(each)
    groups = []
    for name, found in members.items():
        waiting = [each for each in found if is_waiting(each)]
        if waiting:
            groups.append(
                Group(
                    name=name,
                    waiting=len(waiting),
                    running=len(found) - len(waiting),
                    oldest_ms=max(each.age_ms for each in waiting),
                )
            )
    return tuple(sorted(groups, key=lambda each: (-each.waiting, each.name)))
