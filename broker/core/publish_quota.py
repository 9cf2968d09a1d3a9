"""How much each agent may publish: a token bucket of its own, apart from that of its requests."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import isfinite
from typing import Final

from _sched.bucket import BucketArray
from broker.core.errors import PublishRateLimited

SECONDS_PER_MINUTE: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishPolicy:
    """Events a minute and at once. `remembered_max` agents are: who was not seen for longest is
    forgotten first, and finds its bucket full when it comes again."""

    per_minute: float = 600.0
    burst: float = 100.0
    remembered_max: int = 10_000

    def __post_init__(self) -> None:
        for name in ("per_minute", "burst"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, not {value}")
        if self.burst < 1:
            raise ValueError("a burst of less than 1 would let nothing through")
        if self.remembered_max < 1:
            raise ValueError("remembered_max must be at least 1")


class PublishQuotas:
    """The buckets of those who publish."""

    def __init__(self, policy: PublishPolicy) -> None:
        self._policy = policy
        self._buckets = BucketArray()
        self._handles: OrderedDict[str, int] = OrderedDict()  # the one seen last at the end

    def __len__(self) -> int:
        return len(self._handles)

    def take(self, agent_id: str, now_ns: int) -> None:
        """Pays for one event. PublishRateLimited where there is nothing left."""
        handle = self._handles.get(agent_id)
        if handle is None:
            handle = self._meet(agent_id, now_ns)
        else:
            self._handles.move_to_end(agent_id)
        wait_ns = self._buckets.acquire(handle, 1.0, now_ns)
        if wait_ns:
            policy = self._policy
            raise PublishRateLimited(
                f"this agent may publish {policy.per_minute:g} events a minute, "
                f"{policy.burst:g} at once",
                retry_after_ns=wait_ns,
            )

    def _meet(self, agent_id: str, now_ns: int) -> int:
        if len(self._handles) >= self._policy.remembered_max:
            self._buckets.remove(self._handles.popitem(last=False)[1])
        handle = self._buckets.add(
            self._policy.per_minute / SECONDS_PER_MINUTE, self._policy.burst, now_ns
        )
        self._handles[agent_id] = handle
        return handle
