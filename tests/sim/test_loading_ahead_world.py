"""What loading ahead is worth: the same requests on the same machine, with and without a place for
the model that comes next. The worlds of test_world.py see that no server evicts one for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.core.requests import Outcome
from broker.sim.recording import StretchKind
from broker.sim.simulation import Played, Simulation
from broker.sim.workload_file import read_workload
from broker.sim.workload_problem import WorkloadProblems
from broker.sim.workload_sites import backends_of, models_of

MODELS = "".join(
    f"""
[[models]]
name = "{name}:7b"
size_gb = 5
memory_gb = 6
load_s = 12
prefill_tokens_per_s = 2500
decode_tokens_per_s = 40
"""
    for name in ("a", "b", "c", "d")
)
WORKLOAD = """
duration_s = 900
{models}
[[backends]]
name = "gpu"
memory_gb = 30
resident_max = 2
slots = 4
{room}
[[agents]]
name = "open"
loop = "open"
count = 20
every_s = 20
prompt_tokens = [50, 2000]
output_tokens = [20, 300]
"""


def play(folder: Path, room: str) -> Played:
    path = folder / "w.toml"
    path.write_text(WORKLOAD.format(models=MODELS, room=room))
    workload = read_workload(path)
    backends = backends_of(workload.spec.backends, models_of(workload.spec.models))
    return Simulation(workload, backends).play()


def mean_wait_ns(played: Played) -> float:
    waits = [each.last.started_ns - each.asked_ns for each in played.jobs]
    assert all(each.last.outcome is Outcome.COMPLETED for each in played.jobs)
    return sum(waits) / len(waits)


def test_a_place_for_the_next_model_shortens_the_waits(tmp_path: Path) -> None:
    without, ahead = play(tmp_path, ""), play(tmp_path, "loaded_max = 3")
    assert len(without.jobs) == len(ahead.jobs)
    assert mean_wait_ns(ahead) < 0.6 * mean_wait_ns(without)
    assert ahead.loads_failed == without.loads_failed == 0


def test_no_more_models_are_loaded_than_there_are_places(tmp_path: Path) -> None:
    played = play(tmp_path, "loaded_max = 3")
    held = 0
    moments = []
    for each in played.stretches:
        if each.kind in (StretchKind.LOADING, StretchKind.RESIDENT):
            moments += [(each.end_ns, -1), (each.begin_ns, 1)]
    for _, step in sorted(moments):
        held += step
        assert held <= 3


@pytest.mark.parametrize(
    ("room", "problem"),
    [
        ("loaded_max = 1", "is less than resident_max"),
        ("loaded_max = 0", "0"),
    ],
)
def test_room_that_makes_no_sense_is_refused(tmp_path: Path, room: str, problem: str) -> None:
    with pytest.raises(WorkloadProblems, match=problem):
        play(tmp_path, room)
