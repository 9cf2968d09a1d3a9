"""The arithmetic of `scheduling`: what a run comes to, and how two runs compare."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from bench.scheduling_play import Ended, Played
from broker.core.requests import RequestKey

URGENT_WORST = 2  # the worst priority that counts as urgent
WAITED_NS_MIN = 1_000_000_000  # a wait that its estimate can be compared with


def goodput(ended: Sequence[Ended]) -> float:
    """The share done in time, of all that came: refused ones, too."""
    return sum(each.is_in_time for each in ended) / len(ended)


def urgent(ended: Iterable[Ended]) -> list[Ended]:
    return [each for each in ended if each.task.priority <= URGENT_WORST]


def same_requests(ended: Iterable[Ended], keys: Iterable[RequestKey]) -> list[Ended]:
    """Of one run those that are of interest in another."""
    wanted = set(keys)
    return [each for each in ended if each.task.key in wanted]


def urgent_cost_points(plain: Sequence[Ended], with_urgent: Sequence[Ended]) -> float:
    """What the others lose, in points of goodput: the very same requests, once beside urgent ones
    and once beside as many that are not."""
    rest = [each for each in with_urgent if each.task.priority > URGENT_WORST]
    before = same_requests(plain, (each.task.key for each in rest))
    return (goodput(before) - goodput(rest)) * 100


def short_sojourn_ns(ended: Sequence[Ended]) -> float:
    """The mean sojourn of requests below the median size."""
    median_ns = statistics.median(each.service_ns for each in ended)
    short = [each.sojourn_ns for each in ended if each.service_ns < median_ns]
    return statistics.fmean(short) if short else 0.0


def ratios(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    """Seed by seed. What is nothing for both is the same."""
    return [
        mine / other if other else (1.0 if mine == other else float("inf"))
        for mine, other in zip(ours, others, strict=True)
    ]


def median_ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(ratios(ours, others))


def loads_over_bound(played: Played) -> float:
    return played.loads / played.loads_bound if played.loads_bound else 0.0


def wait_over_bound_max(ended: Iterable[Ended], bound_ns: Mapping[RequestKey, int]) -> float:
    """The largest wait over the bound that was stated when it came; without a bound it does not
    count: it was not feasible."""
    return max(
        (each.waited_ns / bound_ns[each.task.key] for each in ended if each.task.key in bound_ns),
        default=0.0,
    )


def eta_coverage(
    ended: Iterable[Ended], told_ns: Mapping[RequestKey, tuple[int, int]]
) -> float | None:
    """The share that started inside the interval (first, last moment) they were told first. Who
    left after its end counts as outside; who left before says nothing. None: nobody was told."""
    inside = counted = 0
    for each in ended:
        interval = told_ns.get(each.task.key)
        if interval is None:
            continue
        first_ns, last_ns = interval
        if each.started_ns >= 0:
            counted += 1
            inside += first_ns <= each.started_ns <= last_ns
        elif each.ended_ns > last_ns:
            counted += 1
    return inside / counted if counted else None


def eta_width(
    ended: Iterable[Ended], told_ns: Mapping[RequestKey, tuple[int, int]]
) -> float | None:
    """The median width of these intervals over the wait, of those that started and waited for a
    second at least: a wide interval is easily true. None: there are none."""
    widths = [
        (told_ns[each.task.key][1] - told_ns[each.task.key][0]) / each.waited_ns
        for each in ended
        if each.task.key in told_ns and each.started_ns >= 0 and each.waited_ns >= WAITED_NS_MIN
    ]
    return statistics.median(widths) if widths else None


def percentile(values: Sequence[float], percent: int) -> float:
    """The nearest rank; 100 is the largest."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else 0.0
