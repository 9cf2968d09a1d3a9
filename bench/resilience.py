"""What failures cost, and how soon they are noticed; each part says how it is measured."""

from __future__ import annotations

from dataclasses import dataclass

from bench import failing, failover, frozen, open_streams, slow_reader
from bench.result import Result

SEED = frozen.SEED
BOUNDS = {
    "extra_calls_percent": 10.0,
    "frozen_found_ratio": 1.0,
    "frozen_false_alarms": 0.0,
    "slow_reader_cost_percent": 5.0,
    "open_stream_kb": 60.0,
    "failover_loss": 0.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured."""

    failing_requests: int = 2_000
    frozen_rounds: int = 3
    healthy_requests: int = 10_000
    reader_pairs: int = 9
    reader_stream_s: float = 4.0
    open_streams: int = 10_000
    failover_requests: int = 300


QUICK = Sizes(
    failing_requests=300,
    frozen_rounds=1,
    healthy_requests=300,
    reader_pairs=1,
    reader_stream_s=1.0,
    open_streams=500,
    failover_requests=90,
)


async def run(*, quick: bool) -> Result:
    """Takes about six minutes, one if quick."""
    sizes = QUICK if quick else Sizes()
    failed = await failing.measure(sizes.failing_requests)
    found = await frozen.found_ratio(sizes.frozen_rounds)
    healthy = frozen.false_alarms(sizes.healthy_requests)
    reader = await slow_reader.measure(sizes.reader_pairs, sizes.reader_stream_s)
    opened = await open_streams.measure(sizes.open_streams)
    losses = await failover.measure(sizes.failover_requests)
    return Result(
        name="resilience",
        seed=SEED,
        figures={
            "extra_calls_percent": failed.extra_calls_percent,
            "frozen_found_ratio": found,
            "frozen_false_alarms": float(healthy.false_alarms),
            "slow_reader_cost_percent": reader["slow_reader_cost_percent"],
            "open_stream_kb": opened["open_stream_kb"],
            "failover_loss": float(losses.lost),
            "failing_failed_percent": failed.failed_percent,
            "healthy_completed": float(healthy.completed),
            "slow_reader_p99_ms_with": reader["slow_reader_p99_ms_with"],
            "slow_reader_p99_ms_without": reader["slow_reader_p99_ms_without"],
            "open_subscriber_kb": opened["open_subscriber_kb"],
            "failover_requeued": float(losses.requeued),
            "failover_asked_to_fail": float(losses.asked_to_fail),
        },
        bounds=BOUNDS,
    )
