"""Workloads through the real engine: what agents do, what is counted, what a seed decides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from broker.core.agent_policy import AgentsPolicy, AgentTypePolicy, BucketPolicy
from broker.core.placement import BackendPolicy
from broker.core.policy import EnginePolicy
from broker.core.requests import Outcome
from broker.sim.fleet import Job
from broker.sim.recording import StretchKind
from broker.sim.report import report_of, spread_of
from broker.sim.sessions import SECOND_NS
from broker.sim.simulation import Played, Simulation
from broker.sim.workload_file import read_workload
from broker.sim.workload_problem import WorkloadProblems
from broker.sim.workload_sites import backends_of, models_of
from tests.tidy.sources import ROOT

MODELS = """
[[models]]
name = "a:7b"
size_gb = 4
load_s = 10
prefill_tokens_per_s = 2000
decode_tokens_per_s = 40
popularity = 3
[[models]]
name = "b:3b"
size_gb = 2
load_s = 6
load_cached_s = 1
prefill_tokens_per_s = 4000
decode_tokens_per_s = 80
"""
BACKEND = """
[[backends]]
name = "gpu"
resident_max = {resident_max}
slots = {slots}
"""
OPEN = """
[[agents]]
name = "open"
loop = "open"
count = 5
every_s = 20
prompt_tokens = [50, 800]
output_tokens = [10, 200]
"""
CLOSED = """
[[agents]]
name = "closed"
loop = "closed"
count = 3
think_s = 2
calls = [2, 4]
call_gap_s = 1
adds_tokens = 50
prompt_tokens = 300
output_tokens = 40
"""


def play(
    folder: Path,
    agents: str,
    *,
    top: str = "duration_s = 200",
    slots: int = 2,
    resident_max: int = 1,
    seed: int = 1,
    policy: EnginePolicy | None = None,
) -> Played:
    path = folder / "w.toml"
    path.write_text("\n".join([top, MODELS, BACKEND.format(**locals()), agents]))
    workload = read_workload(path)
    backends = backends_of(workload.spec.backends, models_of(workload.spec.models))
    return Simulation(workload, backends, seed=seed, policy=policy).play()


def by_session(played: Played) -> dict[tuple[str, int], list[Job]]:
    found: dict[tuple[str, int], list[Job]] = defaultdict(list)
    for job in played.jobs:
        found[job.session.agent_id, job.session.number].append(job)
    return found


def test_the_same_seed_is_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    here = json.dumps(report_of(play(tmp_path, OPEN + CLOSED), "w").document())
    script = (
        "import sys, json; from pathlib import Path; from tests.sim.test_simulation import *;"
        "played = play(Path(sys.argv[1]), OPEN + CLOSED);"
        "print(json.dumps(report_of(played, 'w').document()))"
    )
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.strip() == here


def test_another_seed_is_another_history(tmp_path: Path) -> None:
    reports = [report_of(play(tmp_path, OPEN, seed=seed), "w") for seed in (1, 2)]
    assert reports[0].all != reports[1].all


def test_a_closed_loop_has_one_request_of_each_agent_at_most(tmp_path: Path) -> None:
    played = play(tmp_path, CLOSED)
    of_agent: dict[str, list[Job]] = defaultdict(list)
    for job in played.jobs:
        of_agent[job.session.agent_id].append(job)
    assert set(of_agent) == {"closed-0", "closed-1", "closed-2"}
    for jobs in of_agent.values():
        assert len({each.session.number for each in jobs}) > 5
        for before, after in pairwise(jobs):
            assert after.asked_ns >= before.last.ended_ns


def test_the_calls_of_a_session_come_after_one_another_and_share_their_prompt(
    tmp_path: Path,
) -> None:
    for jobs in by_session(play(tmp_path, CLOSED)).values():
        assert 2 <= len(jobs[0].session.calls) <= 4
        assert [each.place for each in jobs] == list(range(len(jobs[0].session.calls)))
        for before, after in pairwise(jobs):
            assert after.asked_ns == before.last.ended_ns + SECOND_NS
            said = before.last.task.prompt
            assert after.last.task.prompt[: len(said)] == said
            assert len(after.last.task.prompt) == len(said) + 40 + 50


def test_who_gives_up_leaves_when_nothing_was_started_for_it(tmp_path: Path) -> None:
    flood = OPEN.replace("every_s = 20", "every_s = 2") + "gives_up_s = 15\n"
    played = play(tmp_path, flood)
    left = [each for each in played.jobs if each.last.outcome is Outcome.CANCELLED]
    assert left
    assert {each.last.ended_ns - each.asked_ns for each in left} == {15 * SECOND_NS}
    assert not any(each.last.started_ns for each in left)
    report = report_of(played, "w")
    assert report.all.gave_up == len(left)
    assert report.all.requests == report.all.in_time + len(left)


def test_who_is_expired_counts_as_given_up(tmp_path: Path) -> None:
    flood = OPEN.replace("every_s = 20", "every_s = 2") + "deadline_s = 15\n"
    report = report_of(play(tmp_path, flood), "w")
    assert report.all.gave_up > 0
    assert report.all.gave_up + report.all.in_time + report.all.refused == report.all.requests


def test_who_is_refused_tries_again_and_is_one_request_all_the_same(tmp_path: Path) -> None:
    slow_rate = AgentsPolicy(
        types=(AgentTypePolicy(name="all", match=("*",)),),
        default_type="all",
        requests=BucketPolicy(per_minute=20.0, burst=1.0),
    )
    policy = EnginePolicy(backends=(BackendPolicy(name="gpu"),), agents=slow_rate)
    played = play(tmp_path, OPEN + "retries = 3\nretry_s = 1\n", policy=policy)
    tries = [len(each.stories) for each in played.jobs]
    assert (min(tries), max(tries)) == (1, 4)
    for job in played.jobs:
        assert job.asked_ns == job.stories[0].task.at_ns
        for before, after in pairwise(job.stories):
            assert before.outcome is Outcome.REFUSED
            assert before.error is not None
            assert after.task.at_ns == before.ended_ns + (before.error.retry_after_ns or 0)
    report = report_of(played, "w")
    assert report.all.requests == len(played.jobs)
    assert report.all.refused == sum(job.last.outcome is Outcome.REFUSED for job in played.jobs)


def test_arrivals_are_stretched_to_rho(tmp_path: Path) -> None:
    played = play(tmp_path, OPEN, top="duration_s = 200\nrho = 0.5")
    speeds = {each.name: each for each in played.models}
    service_s = sum(job.session.service_s(speeds) for job in played.jobs)
    span_s = (played.jobs[-1].asked_ns - played.jobs[0].asked_ns) / SECOND_NS
    assert played.capacity == 2
    assert service_s / (played.capacity * span_s) == pytest.approx(0.5, rel=1e-6)


def test_slots_and_memory_are_never_exceeded(tmp_path: Path) -> None:
    played = play(tmp_path, OPEN.replace("every_s = 20", "every_s = 3"))
    assert max(each.lane for each in played.stretches if each.kind is StretchKind.RUNNING) == 1
    at_work = [each for each in played.stretches if each.kind is not StretchKind.RUNNING]
    assert {each.lane for each in at_work} == {0}  # one model at a time has room
    for before, after in pairwise(at_work):
        assert before.end_ns is not None
        assert before.end_ns <= after.begin_ns


def test_a_model_that_left_is_loaded_faster_from_the_page_cache(tmp_path: Path) -> None:
    played = play(tmp_path, OPEN.replace("every_s = 20", "every_s = 4"))
    loads = [each.length_ns() / SECOND_NS for each in played.stretches if _is_load_of(each, "b:3b")]
    assert len(loads) > 1
    assert loads[0] > 6
    assert all(1 < each < 3 for each in loads[1:])


def _is_load_of(stretch: object, model: str) -> bool:
    kind, name = getattr(stretch, "kind", None), getattr(stretch, "model", "")
    return kind is StretchKind.LOADING and name == model


def test_the_report_adds_up(tmp_path: Path) -> None:
    report = report_of(play(tmp_path, OPEN + CLOSED), "w")
    for groups in (report.by_priority, report.by_model, report.by_agents):
        assert sum(each.requests for each in groups) == report.all.requests
        assert sum(each.in_time for each in groups) == report.all.in_time
    (backend,) = report.backends
    assert 0 < backend.busy_share < 1
    assert 0 < backend.loading_share < 1
    assert report.loads == backend.loads > 1
    assert report.all.wait.p50_s is not None


def test_percentiles_are_the_nearest_rank() -> None:
    spread = spread_of(number * SECOND_NS for number in Random(1).sample(range(1, 101), 100))
    assert (spread.p50_s, spread.p90_s, spread.p99_s) == (50.0, 90.0, 99.0)
    assert spread_of([1_500_000_000]).p99_s == 1.5
    assert spread_of([]).p50_s is None


TRACED = """
[trace]
file = "t.csv"
[[agents]]
name = "night"
loop = "trace"
count = 4
priority = 8
[[agents]]
name = "opus"
loop = "trace"
priority = [1, 2]
"""


def test_a_trace_decides_what_it_says_and_the_agents_the_rest(tmp_path: Path) -> None:
    rows = [
        "0,10,20,,,,",
        "1000,11,21,opus-7,b:3b,,",
        "2000,12,22,else,a,9,s",
        "9000,13,2,else,,,s",
    ]
    header = "arrival_ms,prompt_tokens,output_tokens,agent,model,priority,session"
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]).replace(",a,9", ",a:7b,9"))
    jobs = play(tmp_path, TRACED).jobs
    anybody, opus, first, second = jobs
    assert anybody.session.agent_id.partition("-")[0] in ("night", "opus")
    assert (opus.session.agent_id, opus.session.model) == ("opus-7", "b:3b")
    assert opus.session.priority in (1, 2)
    assert first.session is second.session  # whose second call waits for the answer to the first
    assert (first.session.priority, first.session.model) == (9, "a:7b")
    assert second.asked_ns == max(9 * SECOND_NS, first.last.ended_ns)
    assert [each.last.task.prompt_tokens for each in jobs] == [10, 11, 12, 13]


def test_a_log_tells_the_deadline_of_each_request(tmp_path: Path) -> None:
    ended = {"event": "request ended", "agent": "a", "outcome": "completed", "model": "qwen3:8b"}
    sizes = {"prompt_tokens": 70, "output_tokens": 3000, "timestamp": "2026-01-01T00:00:00Z"}
    path = tmp_path / "log.jsonl"
    lines = [{**ended, **sizes}, {**ended, **sizes, "deadline_ms": 20_000.0}]
    path.write_text("\n".join(json.dumps(each) for each in lines))
    workload = read_workload(path)
    backends = backends_of(workload.spec.backends, models_of(workload.spec.models))
    patient, hurried = Simulation(workload, backends).play().jobs
    assert patient.last.outcome is Outcome.COMPLETED
    assert hurried.last.outcome is Outcome.EXPIRED
    assert hurried.last.ended_ns == 20 * SECOND_NS


def test_what_never_ran_is_drawn_from_what_did(tmp_path: Path) -> None:
    ended = {"event": "request ended", "agent": "a", "timestamp": "2026-01-01T00:00:00Z"}
    ran = {**ended, "prompt_tokens": 70, "output_tokens": 7, "outcome": "completed"}
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in (ran, {**ended, "outcome": "refused"})))
    workload = read_workload(path)
    backends = backends_of(workload.spec.backends, models_of(workload.spec.models))
    played = Simulation(workload, backends).play()
    assert [each.last.task.prompt_tokens for each in played.jobs] == [70, 70]
    assert any(each.startswith("1 requests of the trace never ran") for each in played.assumed)
    path.write_text(json.dumps(ended))
    with pytest.raises(WorkloadProblems, match="no request tells its tokens"):
        Simulation(read_workload(path), backends).play()
