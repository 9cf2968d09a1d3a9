"""What the benchmark `scheduling` draws and how it counts, on cases that can be counted by hand."""

from __future__ import annotations

import pytest

from bench.scheduling_cells import (
    CELLS,
    FIRST_NS,
    GIVES_UP_NS,
    MAX_TOKENS_FACTOR,
    PRIORITY,
    SECOND_NS,
    TRACE,
    URGENT,
    draws,
    rows_of,
    service_ns,
    tasks_of,
)
from bench.scheduling_figures import (
    eta_coverage,
    eta_width,
    goodput,
    median_ratio,
    percentile,
    ratios,
    short_sojourn_ns,
    urgent_cost_points,
    wait_over_bound_max,
)
from bench.scheduling_play import Ended, loading_ns
from broker.core.requests import Outcome, RequestKey
from broker.sim.ollama_log import LogEntry, LogKind
from broker.sim.workload import Task

SERVICE_S = 2  # 80 tokens at 40/s, and no prompt to speak of


def ended(
    name: str,
    *,
    started_s: float = 0.0,
    ended_s: float = 10.0,
    outcome: Outcome = Outcome.COMPLETED,
    priority: int = PRIORITY,
    output_tokens: int = 80,
) -> Ended:
    """A request that came at 0 s. A start of -1 s: it never started."""
    task = Task(
        at_ns=0,
        agent_id="agent",
        request_id=name,
        model="m",
        priority=priority,
        prompt_tokens=0,
        output_tokens=output_tokens,
        patience_ns=1,
    )
    start_ns = -1 if started_s < 0 else int(started_s * SECOND_NS)
    return Ended(task, outcome, start_ns, int(ended_s * SECOND_NS), "m")


def key(name: str) -> RequestKey:
    return "agent", name


def test_in_time_is_within_a_minute_and_twice_its_own_service() -> None:
    last_s = 60 + 2 * SERVICE_S
    assert ended("a", ended_s=last_s).is_in_time
    assert not ended("a", ended_s=last_s + 0.001).is_in_time
    assert not ended("a", outcome=Outcome.CANCELLED).is_in_time


def test_goodput_counts_all_that_came() -> None:
    assert goodput(
        [ended("a"), ended("b", outcome=Outcome.REFUSED), ended("c", ended_s=99), ended("d")]
    ) == pytest.approx(0.5)


def test_who_left_waited_until_it_left() -> None:
    gone = ended("a", started_s=-1, ended_s=60, outcome=Outcome.CANCELLED)
    assert gone.waited_ns == gone.sojourn_ns == 60 * SECOND_NS
    assert ended("b", started_s=3).waited_ns == 3 * SECOND_NS


def test_what_urgent_work_costs_is_counted_on_the_same_requests() -> None:
    plain = [ended("a"), ended("b"), ended("c"), ended("u", ended_s=99)]
    beside = [ended("a"), ended("b", ended_s=99), ended("c"), ended("u", priority=1)]
    assert urgent_cost_points(plain, beside) == pytest.approx(100 / 3)


def test_short_is_below_the_median_size() -> None:
    sizes = {10: 5.0, 20: 7.0, 30: 50.0, 40: 90.0}
    all_four = [
        ended(str(tokens), output_tokens=tokens, ended_s=seconds)
        for tokens, seconds in sizes.items()
    ]
    assert short_sojourn_ns(all_four) == 6 * SECOND_NS


def test_runs_are_compared_seed_by_seed() -> None:
    assert ratios([1.0, 0.0, 2.0], [2.0, 0.0, 0.0]) == [0.5, 1.0, float("inf")]
    assert median_ratio([1.0, 2.0, 9.0], [1.0, 4.0, 3.0]) == 1.0


def test_the_largest_wait_counts_only_where_a_bound_was_stated() -> None:
    waits = [ended("a", started_s=30), ended("b", started_s=50), ended("c", started_s=500)]
    bound_ns = {key("a"): 40 * SECOND_NS, key("b"): 100 * SECOND_NS}
    assert wait_over_bound_max(waits, bound_ns) == pytest.approx(0.75)
    assert wait_over_bound_max(waits, {}) == 0.0


def test_an_estimate_is_right_if_the_start_lies_in_its_interval() -> None:
    left = Outcome.CANCELLED
    told = {key(name): (5 * SECOND_NS, 20 * SECOND_NS) for name in "abcde"}
    share = eta_coverage(
        [
            ended("a", started_s=5),
            ended("b", started_s=21),
            ended("c", started_s=-1, ended_s=30, outcome=left),  # left after it: outside
            ended("d", started_s=-1, ended_s=10, outcome=left),  # left before: says nothing
            ended("e", started_s=4),
            ended("f", started_s=6),  # was told nothing
        ],
        told,
    )
    assert share == pytest.approx(1 / 4)
    assert eta_coverage([ended("a")], {}) is None


def test_how_wide_intervals_are_is_told_over_the_wait() -> None:
    told = {key(name): (5 * SECOND_NS, 25 * SECOND_NS) for name in "abcd"}
    waits = [
        ended("a", started_s=10),
        ended("b", started_s=20),
        ended("c", started_s=0),  # has not waited
        ended("d", started_s=-1, ended_s=10, outcome=Outcome.CANCELLED),
        ended("e", started_s=6),  # was told nothing
    ]
    assert eta_width(waits, told) == pytest.approx(1.5)
    assert eta_width(waits, {}) is None


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert [percentile([3.0, 1.0, 2.0], each) for each in (1, 50, 99, 100)] == [1.0, 2.0, 3.0, 3.0]
    assert percentile([], 50) == 0.0


def test_loads_count_until_the_moment_asked_for_whatever_became_of_them() -> None:
    kinds = [
        (10, LogKind.SPAWNED),
        (15, LogKind.LOADED),
        (16, LogKind.UNLOADED),
        (20, LogKind.SPAWNED),
        (23, LogKind.ABORTED),
        (30, LogKind.SPAWNED),
        (44, LogKind.LOADED),
        (50, LogKind.SPAWNED),
    ]
    log = [LogEntry(at_ns=at, kind=kind, model="m", exchange=None) for at, kind in kinds]
    assert loading_ns(log, 100) == 5 + 3 + 14 + 50
    assert loading_ns(log, 40) == 5 + 3 + 10


def test_time_is_stretched_to_the_load_that_is_asked_for() -> None:
    rows = rows_of(TRACE, 200)
    for cell in CELLS.values():
        tasks = tasks_of(cell, rows, draws(1, len(rows)))
        offered_ns = sum(service_ns(each.prompt_tokens, each.output_tokens) for each in tasks)
        span_ns = tasks[-1].at_ns - FIRST_NS
        assert offered_ns / (cell.resident * cell.slots * span_ns) == pytest.approx(cell.rho)


def test_all_cells_of_a_seed_have_the_same_requests_and_differ_where_they_say() -> None:
    rows = rows_of(TRACE, 400)
    drawn = draws(7, len(rows))
    assert drawn == draws(7, len(rows))
    assert drawn != draws(8, len(rows))
    plain, flexible, urgent = (
        tasks_of(CELLS[name], rows, drawn)
        for name in ("2x4_rho09", "1x2_rho09_flexible", "2x4_rho09_urgent")
    )
    assert [each.model for each in plain] == [each.model for each in flexible]
    assert {each.priority for each in plain} == {PRIORITY}
    assert {each.priority for each in urgent} == {PRIORITY, *URGENT}
    assert 0.05 < sum(each.priority in URGENT for each in urgent) / len(rows) < 0.15
    assert 0.4 < sum(bool(each.fallback_models) for each in flexible) / len(rows) < 0.6
    assert all(each.model not in each.fallback_models for each in flexible)
    assert not any(each.fallback_models for each in plain)


def test_the_broker_is_told_what_a_client_knows_and_no_more() -> None:
    rows = rows_of(TRACE, 100)
    for task in tasks_of(CELLS["1x2_rho09"], rows, draws(1, len(rows))):
        most = task.output_tokens_max
        assert task.output_tokens <= most <= task.output_tokens * MAX_TOKENS_FACTOR
        assert task.gives_up_after_ns == task.queue_limit_ns == GIVES_UP_NS
        assert task.patience_ns == GIVES_UP_NS + 2 * service_ns(task.prompt_tokens, most)
