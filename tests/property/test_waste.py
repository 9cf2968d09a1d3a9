"""What urgent work may waste of others' slots: never more than its share, over any time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.core.preemption import PreemptionPolicy, WasteAccount

SECOND_NS = 1_000_000_000
ROUNDING_NS = 1_000.0

# (time that passes, what a call would waste, of which so much was not lost after all), in ms.
steps = st.lists(
    st.tuples(st.integers(0, 100_000), st.integers(0, 40_000), st.integers(0, 100)), max_size=60
)


@given(
    steps=steps,
    share=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
    window_s=st.sampled_from([1, 60, 600]),
    slots=st.integers(1, 8),
)
def test_over_any_time_no_more_than_the_share_is_wasted(
    steps: list[tuple[int, int, int]], share: float, window_s: int, slots: int
) -> None:
    policy = PreemptionPolicy(share_max=share, window_ns=window_s * SECOND_NS)
    account, now_ns, spent = WasteAccount(policy), 0, list[tuple[int, int]]()
    for gap_ms, waste_ms, back_percent in steps:
        now_ns += gap_ms * 1_000_000
        waste_ns = waste_ms * 1_000_000
        if waste_ns > account.left_ns(policy, slots, now_ns):
            continue
        account.spend(policy, waste_ns, slots, now_ns)
        back_ns = waste_ns * back_percent // 100
        account.spend(policy, -back_ns, slots, now_ns)
        spent.append((now_ns, waste_ns - back_ns))
    for first, (from_ns, _) in enumerate(spent):
        total_ns = 0
        for at_ns, waste_ns in spent[first:]:
            total_ns += waste_ns
            most_ns = share * (at_ns - from_ns + policy.window_ns) * slots
            assert total_ns <= most_ns + ROUNDING_NS


@given(steps=steps)
def test_asking_changes_nothing(steps: list[tuple[int, int, int]]) -> None:
    """Whoever looks, as often as they like."""
    policy, now_ns = PreemptionPolicy(window_ns=60 * SECOND_NS), 0
    asked, silent = WasteAccount(policy), WasteAccount(policy)
    for gap_ms, waste_ms, _ in steps:
        now_ns += gap_ms * 1_000_000
        asked.left_ns(policy, 2, now_ns)
        for each in (asked, silent):
            each.spend(policy, waste_ms * 1_000_000, 2, now_ns)
        assert asked.left_ns(policy, 2, now_ns) == silent.left_ns(policy, 2, now_ns)
