"""Any workload that a file may ask for comes to its end, and every request has exactly one."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.requests import Outcome
from broker.sim.fleet import Job
from broker.sim.recording import StretchKind
from broker.sim.report import report_of
from broker.sim.sessions import SECOND_NS
from broker.sim.simulation import Played, Simulation
from broker.sim.simulation_page import page_of
from broker.sim.trace import parse_trace
from broker.sim.workload_sites import backends_of, models_of
from broker.sim.workload_spec import Workload, WorkloadSpec

MODELS = ("a:1b", "b:7b", "c:13b")
TRACE = "arrival_ms,prompt_tokens,output_tokens,session\n" + "".join(
    f"{number * 700},{50 + number},{5 + number % 30},{'s' if number % 4 == 0 else ''}\n"
    for number in range(30)
)

_models: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.builds(
        dict,
        name=st.sampled_from(MODELS),
        size_gb=st.floats(0.5, 20),
        load_s=st.floats(0.1, 30),
        prefill_tokens_per_s=st.floats(200, 5000),
        decode_tokens_per_s=st.floats(10, 200),
        batch_slowdown=st.floats(0, 1),
        popularity=st.floats(0.1, 9),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda each: each["name"],
)
_backend: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    name=st.just("gpu"),
    count=st.integers(1, 3),
    memory_gb=st.none() | st.floats(30, 80),
    resident_max=st.none() | st.integers(1, 3),
    slots=st.integers(1, 4),
    page_cache_gb=st.sampled_from((0.0, 10.0, 100.0)),
)
_how: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(dict, loop=st.just("open"), every_s=st.floats(2, 60)),
    st.builds(dict, loop=st.just("closed"), think_s=st.floats(0, 20)),
    st.just({"loop": "trace"}),
)
_agents: st.SearchStrategy[dict[str, Any]] = st.builds(
    lambda how, **given: {**given, **how},
    _how,
    count=st.integers(1, 4),
    priority=st.integers(1, 10),
    prompt_tokens=st.none() | st.integers(1, 3000),
    output_tokens=st.none() | st.integers(1, 300),
    calls=st.tuples(st.integers(1, 2), st.integers(2, 4)),
    adds_tokens=st.integers(0, 200),
    call_gap_s=st.sampled_from((0.0, 3.0)),
    gives_up_s=st.none() | st.floats(1, 60),
    deadline_s=st.floats(5, 300),
    soft_deadline_s=st.sampled_from([0.0, 0.0, 20.0]),
    retries=st.integers(0, 3),
    preemptible=st.booleans(),
)


def play(spec: dict[str, Any]) -> Played:
    read = WorkloadSpec.model_validate(spec)
    trace = parse_trace(TRACE.encode(), "t.csv")
    workload = Workload(source="w.toml", spec=read, trace=trace, assumed=())
    return Simulation(workload, backends_of(read.backends, models_of(read.models))).play()


@pytest.mark.slow
@settings(max_examples=40)
@given(_models, _backend, st.lists(_agents, min_size=1, max_size=3), st.integers(0, 1 << 40))
def test_any_workload_ends_and_keeps_its_promises(
    models: list[dict[str, Any]],
    backend: dict[str, Any],
    agents: list[dict[str, Any]],
    seed: int,
) -> None:
    named = [{**each, "name": f"kind{number}"} for number, each in enumerate(agents)]
    spec = {"seed": seed, "duration_s": 90, "models": models, "backends": [backend]}
    played = play({**spec, "agents": named})
    for job in played.jobs:
        assert [each.endings for each in job.stories] == [1] * len(job.stories)
        assert len(job.stories) <= 1 + job.session.agents.retries
        deadline_ns = int(job.session.agents.deadline_s * SECOND_NS)
        assert all(each.ended_ns - each.task.at_ns <= deadline_ns for each in job.stories)
        soft_ns = int(job.session.agents.soft_deadline_s * SECOND_NS)
        assert all(each.task.soft_deadline_ns == soft_ns for each in job.stories)
    _check_order(played)
    _check_slots(played)
    report = report_of(played, "w")
    ways = report.all
    assert ways.in_time + ways.gave_up + ways.refused + ways.failed == ways.requests
    assert all(each.busy_share <= 1.0 and each.loading_share <= 1.0 for each in report.backends)
    assert page_of([(report, played)]).endswith("</html>\n")


def _check_order(played: Played) -> None:
    """Sessions are one after the other; an agent of a closed loop has one at a time."""
    sessions: dict[tuple[str, int], list[Job]] = defaultdict(list)
    loops: dict[str, list[Job]] = defaultdict(list)
    for job in played.jobs:
        sessions[job.session.agent_id, job.session.number].append(job)
        if job.session.agents.loop == "closed":
            loops[job.session.agent_id].append(job)
    for jobs in [*sessions.values(), *loops.values()]:
        for before, after in pairwise(jobs):
            assert after.asked_ns >= before.last.ended_ns
    for jobs in sessions.values():
        assert all(each.last.outcome is Outcome.COMPLETED for each in jobs[:-1])


def _check_slots(played: Played) -> None:
    """Never more at once than a backend has room and slots for."""
    for backend in played.backends:
        mine = [each for each in played.stretches if each.backend == backend.name]
        held = [each.lane for each in mine if each.kind is not StretchKind.RUNNING]
        assert max(held, default=0) < backend.resident_max
        runs = [each.lane for each in mine if each.kind is StretchKind.RUNNING]
        assert max(runs, default=0) < backend.slots * backend.resident_max
