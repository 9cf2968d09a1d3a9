"""A run of the benchmark `scheduling` on a few requests: everybody is accounted for, and so is
every slot at every moment."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench.scheduling import RIVALS
from bench.scheduling_cells import CELLS, FIRST_NS, SECOND_NS, Cell, service_ns
from bench.scheduling_play import Play, play_broker, play_exhaustive
from broker.core.requests import Outcome
from broker.sim.workload import Task

ONE = Cell(name="one", resident=1, slots=2, rho=0.9)
LOAD_S = {"fleet-a:latest": 12.0, "fleet-b:latest": 8.0}


def task(number: int, at_s: float, *, model: str = "fleet-a:latest", output: int = 400) -> Task:
    return Task(
        at_ns=FIRST_NS + int(at_s * SECOND_NS),
        agent_id=f"agent-{number % 3}",
        request_id=str(number),
        model=model,
        priority=5,
        prompt_tokens=250,
        output_tokens=output,
        patience_ns=600 * SECOND_NS,
        queue_limit_ns=60 * SECOND_NS,
        gives_up_after_ns=60 * SECOND_NS,
    )


def few() -> Sequence[Task]:
    both = [task(number, number, model="fleet-b:latest") for number in range(6)]
    return [*both, *(task(number, number) for number in range(6, 12)), task(12, 300)]


@pytest.mark.parametrize("name", RIVALS)
def test_every_request_ends_once_and_only_by_its_own_model(name: str) -> None:
    tasks = few()
    played = RIVALS[name](ONE, tasks)
    assert [each.task for each in played.ended] == tasks
    assert played.loads >= 2
    assert 0 < played.loads_bound <= played.loads
    assert 0 < played.loading_share < 1
    for each in played.ended:
        assert (each.model == each.task.model) is (each.started_ns >= 0)
        assert each.outcome in (Outcome.COMPLETED, Outcome.CANCELLED, Outcome.EXPIRED)


@pytest.mark.parametrize("name", ["broker", "exhaustive", "collation", "fifo"])
def test_a_request_alone_takes_its_load_and_its_service(name: str) -> None:
    (one,) = RIVALS[name](ONE, [task(0, 0)]).ended
    load_ns = int(LOAD_S[one.task.model] * SECOND_NS)
    expected_ns = load_ns + service_ns(250, 400)
    assert one.sojourn_ns == pytest.approx(expected_ns, abs=0.05 * SECOND_NS)


@pytest.mark.parametrize("play", [play_broker, play_exhaustive])
def test_every_slot_is_accounted_for_at_every_moment(play: Play) -> None:
    played = play(ONE, few())
    assert sum(played.profile.values()) == pytest.approx(1.0)
    assert played.profile["busy"] > 0.1
    assert played.profile["switching"] > 0.05
    assert played.profile["idle"] > 0.3  # until the last comes


def test_the_same_tasks_give_the_same_run() -> None:
    assert play_broker(CELLS["2x4_rho09"], few()) == play_broker(CELLS["2x4_rho09"], few())


def test_what_each_was_told_first_is_written_down_where_it_said_when() -> None:
    tasks = few()
    told_ns = play_broker(ONE, tasks).told_ns
    assert tasks[0].key not in told_ns  # nothing had been measured
    assert tasks[-1].key in told_ns
    at_ns = {each.key: each.at_ns for each in tasks}
    assert all(at_ns[key] <= first <= last for key, (first, last) in told_ns.items())
