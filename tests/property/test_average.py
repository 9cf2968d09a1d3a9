"""The moving average at native speed is the one in plain Python."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _sched.average import MovingAverage, ServiceRates
from _sched.reference import MovingAverage as Oracle
from _sched.reference import ServiceRates as RatesOracle

SAMPLES = st.lists(st.floats(-1e12, 1e12, allow_nan=False), max_size=60)


@given(samples=SAMPLES, weight=st.floats(0.01, 1), samples_min=st.integers(-1, 30))
def test_it_does_what_its_oracle_does(
    samples: list[float], weight: float, samples_min: int
) -> None:
    average, oracle = MovingAverage(weight), Oracle(weight)
    for sample in samples:
        average.add(sample)
        oracle.add(sample)
    assert average.count == oracle.count == len(samples)
    assert average.mean(samples_min) == oracle.mean(samples_min)


@given(samples=SAMPLES.filter(bool), weight=st.floats(0.01, 1))
def test_it_lies_between_the_least_and_the_largest_sample(
    samples: list[float], weight: float
) -> None:
    average = MovingAverage(weight)
    for sample in samples:
        average.add(sample)
    mean = average.mean()
    assert mean is not None
    slack = 1e-9 * max(map(abs, samples))
    assert min(samples) - slack <= mean <= max(samples) + slack


@pytest.mark.parametrize("weight", [0.0, -0.1, 1.1, float("nan")])
def test_a_weight_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="a weight must be in"):
        MovingAverage(weight)


AMOUNTS = st.integers(0, 10**6)


@given(
    served=st.lists(st.tuples(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS), max_size=40),
    samples_min=st.integers(1, 25),
    size=AMOUNTS,
    most=AMOUNTS,
)
def test_rates_are_those_of_their_oracle(
    served: list[tuple[int, int, int, int, int]], samples_min: int, size: int, most: int
) -> None:
    rates, oracle = ServiceRates(0.1, samples_min), RatesOracle(0.1, samples_min)
    for each in served:
        rates.add(*each)
        oracle.add(*each)
    assert rates.count == oracle.count == len(served)
    assert rates.mean_ns() == oracle.mean_ns()
    for limit in (0, most):
        assert rates.expected_ns(size, limit) == pytest.approx(oracle.expected_ns(size, limit))
        assert rates.tokens(size, limit) == pytest.approx(oracle.tokens(size, limit))


def test_rates_need_a_sample_at_least() -> None:
    with pytest.raises(ValueError, match="samples_min must be at least 1"):
        ServiceRates(0.1, 0)
