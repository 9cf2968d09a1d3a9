"""The lower bound on loads never exceeds what an optimal order takes, and is tight where it can be
seen."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from broker.sim.loads_bound import Window, loads_at_least


def test_nothing_takes_no_load() -> None:
    assert loads_at_least([], 1) == 0


def test_each_model_is_loaded_once_at_least() -> None:
    served = [Window("a", 0, 100), Window("b", 0, 100), Window("a", 50, 150)]
    assert loads_at_least(served, 1) == 2
    assert loads_at_least(served, 2) == 2


def test_what_takes_turns_faster_than_anybody_waits_is_loaded_anew() -> None:
    served = [Window("abc"[turn % 3], turn * 10, turn * 10 + 5) for turn in range(6)]
    assert loads_at_least(served, 1) == 3 + 2  # of three in the second stretch one may be there
    assert loads_at_least(served, 2) == 3 + 1
    assert loads_at_least(served, 3) == 3


def test_who_can_wait_for_the_next_turn_costs_no_load() -> None:
    served = [Window("abc"[turn % 3], turn * 10, turn * 10 + 60) for turn in range(6)]
    assert loads_at_least(served, 1) == 3


windows = st.lists(
    st.builds(
        lambda model, arrived, length: Window(model, arrived, arrived + length),
        st.sampled_from("abc"),
        st.integers(0, 6),
        st.integers(0, 4),
    ),
    max_size=6,
)


def fewest_loads(served: list[Window], resident_max: int) -> int:
    """By trying all: any set of models may be resident, three times in each moment; loads take no
    time."""
    sets = [
        frozenset(name for name, is_in in zip("abc", bits, strict=True) if is_in)
        for bits in product((False, True), repeat=3)
        if sum(bits) <= resident_max
    ]
    # After each moment: what is resident and which windows were hit, with the fewest loads.
    states: dict[tuple[frozenset[str], frozenset[int]], int] = {(frozenset(), frozenset()): 0}
    for third in range(3 * 12):
        moment = third // 3
        after: dict[tuple[frozenset[str], frozenset[int]], int] = {}
        for (before, hit), loads in states.items():
            for now in sets:
                hits = hit | {
                    number
                    for number, each in enumerate(served)
                    if each.model in now and each.arrived_ns <= moment <= each.latest_start_ns
                }
                cost = loads + len(now - before)
                key = (now, hits)
                after[key] = min(cost, after.get(key, cost))
        states = after
    everything = frozenset(range(len(served)))
    return min(loads for (_, hit), loads in states.items() if hit == everything)


@given(windows)
def test_no_order_takes_fewer(served: list[Window]) -> None:
    assert loads_at_least(served, 1) <= fewest_loads(served, 1)


@given(windows)
def test_no_order_takes_fewer_with_room_for_two(served: list[Window]) -> None:
    assert loads_at_least(served, 2) <= fewest_loads(served, 2)
