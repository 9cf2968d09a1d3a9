"""What `fleet` says of the order of rivals, and how the work of its cell is given to a server."""

from __future__ import annotations

import pytest

from bench.fleet import APART, CELL, turned_round
from bench.fleet_machine import SimulatedWording, reading_ns
from bench.fleet_ollama import REQUESTS_MIN, REQUESTS_QUICK, Found, RealModel
from bench.fleet_play import WAYS
from bench.scheduling import RIVALS
from bench.scheduling_cells import TRACE, draws, rows_of, tasks_of
from broker.sim.workload import Task

SIMULATED = {"best": 0.7, "middle": 0.6, "near": 0.6 - APART / 2, "worst": 0.2}


def tasks(many: int) -> list[Task]:
    rows = rows_of(TRACE, many)
    return tasks_of(CELL, rows, draws(1, many))


def found(*load_s: float, speed: float = 10.0) -> Found:
    models = {
        f"fleet-{letter}:latest": RealModel(
            name=f"real-{letter}",
            load_s=each,
            prefill_tokens_per_s=5_000.0,
            decode_tokens_per_s=20.0,
        )
        for letter, each in zip("abcde", load_s, strict=False)
    }
    return Found("http://127.0.0.1:1", CELL, models, speed)


@pytest.mark.parametrize(
    ("real", "turned"),
    [
        ({"best": 0.5, "middle": 0.4, "near": 0.3, "worst": 0.1}, []),
        ({"best": 0.5, "middle": 0.3, "near": 0.4, "worst": 0.1}, []),  # too near to tell
        ({"best": 0.4, "middle": 0.5, "near": 0.3, "worst": 0.1}, [("best", "middle")]),
        ({"best": 0.5, "middle": 0.4, "near": 0.3, "worst": 0.3}, [("near", "worst")]),
    ],
)
def test_rivals_that_are_apart_are_to_keep_their_order(
    real: dict[str, float], turned: list[tuple[str, str]]
) -> None:
    assert turned_round(real, SIMULATED) == turned


def test_the_rivals_are_those_of_the_simulation() -> None:
    assert set(WAYS) == set(RIVALS)


def test_a_simulated_model_hears_its_length_and_the_broker_does_not() -> None:
    wording = SimulatedWording()
    for task in tasks(20):
        words = wording.prompt(task).split()
        assert words[0] == str(task.output_tokens)
        assert words.count("word") == task.prompt_tokens
        assert wording.output_max(task) == task.output_tokens_max >= task.output_tokens


def test_two_prompts_never_begin_alike() -> None:
    first, second = (SimulatedWording().prompt(task) for task in tasks(2))
    assert first.split()[:2] != second.split()[:2]


def test_reading_a_prompt_is_no_waiting() -> None:
    (task,) = tasks(1)
    assert reading_ns(task) == int((task.prompt_tokens / 2500 + 1 / 40) * 1e9)


def test_real_models_take_the_places_of_as_many_simulated_ones() -> None:
    two = found(1.0, 2.0)
    given = tasks(100)
    played = two.tasks(given, quick=False)
    assert len(played) == 100
    assert {each.model for each in played} == {"fleet-a:latest", "fleet-b:latest"}
    same = [before.model == after.model for before, after in zip(given, played, strict=True)]
    assert 0 < sum(same) < len(same)
    assert len(two.tasks(given, quick=True)) == REQUESTS_QUICK


def test_a_slow_ollama_has_fewer_requests_and_never_too_few() -> None:
    given = tasks(200)
    assert len(found(1.0, 1.0, speed=0.1).tasks(given, quick=False)) == REQUESTS_MIN
    fewer = len(found(1.0, 1.0, speed=4.0).tasks(given, quick=False))
    assert REQUESTS_MIN < fewer < 200


def test_the_words_of_a_real_run_name_its_models_and_how_it_is_to_be_started() -> None:
    text = "\n".join(found(1.0, 2.0).words())
    assert "OLLAMA_MAX_LOADED_MODELS=1 and OLLAMA_NUM_PARALLEL=2" in text
    assert "real-a as fleet-a:latest: loads in 1.00 s" in text
