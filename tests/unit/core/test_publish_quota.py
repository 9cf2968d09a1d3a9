"""What each agent may publish."""

from __future__ import annotations

import pytest

from broker.core.errors import PublishRateLimited
from broker.core.publish_quota import PublishPolicy, PublishQuotas

S = 1_000_000_000


def taken(quotas: PublishQuotas, agent_id: str, *, of: int, now_ns: int = 0) -> int:
    """How many of so many events are let through."""
    count = 0
    for _ in range(of):
        try:
            quotas.take(agent_id, now_ns)
        except PublishRateLimited:
            continue
        count += 1
    return count


def test_a_flood_ends_at_the_burst_and_goes_on_at_the_rate() -> None:
    quotas = PublishQuotas(PublishPolicy(per_minute=60, burst=5))
    assert taken(quotas, "a", of=100) == 5
    assert taken(quotas, "a", of=100, now_ns=3 * S) == 3


def test_it_says_when_the_next_one_may_come() -> None:
    quotas = PublishQuotas(PublishPolicy(per_minute=30, burst=1))
    quotas.take("a", 0)
    with pytest.raises(PublishRateLimited, match="30 events a minute, 1 at once") as caught:
        quotas.take("a", S // 2)
    assert caught.value.retry_after_ns == 3 * S // 2
    quotas.take("a", 2 * S)


def test_a_flood_of_one_agent_costs_no_other() -> None:
    quotas = PublishQuotas(PublishPolicy(per_minute=60, burst=5))
    assert taken(quotas, "a", of=100) == 5
    assert taken(quotas, "b", of=100) == 5


def test_agents_are_remembered_up_to_a_number_the_last_seen_longest() -> None:
    quotas = PublishQuotas(PublishPolicy(per_minute=60, burst=1, remembered_max=2))
    assert [taken(quotas, each, of=2) for each in "ab"] == [1, 1]
    assert taken(quotas, "a", of=1) == 0  # seen again
    assert taken(quotas, "c", of=1) == 1
    assert len(quotas) == 2
    assert [taken(quotas, each, of=1) for each in "ab"] == [0, 1]


@pytest.mark.parametrize(
    "changed",
    [{"per_minute": 0}, {"burst": 0.5}, {"burst": float("nan")}, {"remembered_max": 0}],
)
def test_a_policy_that_cannot_hold_is_refused(changed: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        PublishPolicy(**changed)  # type: ignore[arg-type]
