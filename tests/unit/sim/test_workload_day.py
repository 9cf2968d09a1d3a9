"""Agents that begin by the hour and the weekday, and turn from one model to another."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from broker.sim.sessions import SECOND_NS, Session, Sessions
from broker.sim.workload_day import DAY_NS, HOUR_NS
from broker.sim.workload_file import read_workload
from broker.sim.workload_problem import WorkloadProblems
from broker.sim.workload_sites import models_of

PACKAGING = Path(__file__).resolve().parents[3] / "packaging"
DIURNAL = PACKAGING / "diurnal.example.toml"
HEAD = """
duration_s = 1209600
{top}
[[models]]
name = "llama3.2:1b"
[[models]]
name = "llama3.2:3b"
{model}
[[backends]]
name = "gpu"
[[agents]]
name = "a"
loop = "open"
count = 4
every_s = 600
prompt_tokens = 10
output_tokens = 10
models = ["llama3.2:1b"]
{more}
"""
OFFICE = "hours = [" + ", ".join("1" if 9 <= hour < 17 else "0" for hour in range(24)) + "]"


def planned(folder: Path, more: str = "", *, top: str = "", model: str = "") -> list[Session]:
    path = folder / "w.toml"
    path.write_text(HEAD.format(top=top, model=model, more=more))
    return sessions_of(path)


def sessions_of(path: Path, days: float = 14.0) -> list[Session]:
    workload = read_workload(path)
    spec = workload.spec.model_copy(update={"duration_s": days * 86_400})
    workload = replace(workload, spec=spec)
    return Sessions(workload, models_of(spec.models), seed=1).planned(4, None)[0]


def test_they_begin_in_their_hours_alone(tmp_path: Path) -> None:
    hours = Counter(each.start_ns % DAY_NS // HOUR_NS for each in planned(tmp_path, OFFICE))
    assert set(hours) == set(range(9, 17))
    # Four agents, six an hour each, on fourteen days.
    assert all(250 < count < 430 for count in hours.values())


def test_the_workload_begins_at_the_hour_and_on_the_day_that_it_says(tmp_path: Path) -> None:
    top = 'begins_on = "saturday"\nbegins_at_h = 8'
    weekdays = "weekdays = [1, 1, 1, 1, 1, 0, 0]"
    first = planned(tmp_path, f"{OFFICE}\n{weekdays}", top=top)[0]
    monday_nine_ns = 2 * DAY_NS + HOUR_NS
    assert monday_nine_ns <= first.start_ns < monday_nine_ns + HOUR_NS


def test_days_differ_by_chance_where_that_is_said(tmp_path: Path) -> None:
    def days(more: str) -> list[int]:
        return list(Counter(each.start_ns // DAY_NS for each in planned(tmp_path, more)).values())

    even, uneven = days(""), days("day_noise = 0.5")
    assert max(even) < 1.3 * min(even)
    assert max(uneven) > 1.6 * min(uneven)


def test_what_names_no_hours_is_drawn_as_ever(tmp_path: Path) -> None:
    alike = "hours = [" + ", ".join(["1"] * 24) + "]"
    assert [each.start_ns for each in planned(tmp_path)] == [
        each.start_ns for each in planned(tmp_path, alike)
    ]


def test_a_session_goes_on_with_other_models(tmp_path: Path) -> None:
    more = 'calls = 3\nthen_models = ["llama3.2:3b"]'
    session = planned(tmp_path, more)[0]
    models = [session.model_of(place) for place in range(3)]
    assert models == ["llama3.2:1b", "llama3.2:3b", "llama3.2:3b"]


def test_what_embeds_answers_with_one_token(tmp_path: Path) -> None:
    more = 'calls = 2\nthen_models = ["llama3.2:3b"]'
    session = planned(tmp_path, more, model="embeds = true")[0]
    assert [each.output_tokens for each in session.calls] == [10, 1]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ("hours = [1, 2]", "hours must be 24 numbers"),
        ("weekdays = [0, 0, 0, 0, 0, 0, 0]", "weekdays must be 7 numbers, not all of them 0"),
        ('then_models = ["other:1b"]', "'other:1b' is not among"),
    ],
)
def test_what_makes_no_sense_is_told(tmp_path: Path, more: str, problem: str) -> None:
    with pytest.raises(WorkloadProblems, match=problem):
        planned(tmp_path, more)


def test_only_open_loops_know_the_hour(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    text = HEAD.format(top="", model="", more=OFFICE)
    path.write_text(text.replace('"open"', '"closed"').replace("every_s", "think_s"))
    with pytest.raises(WorkloadProblems, match="belong to loop"):
        read_workload(path)


def test_the_example_changes_its_models_over_the_day() -> None:
    sessions = [each for each in sessions_of(DIURNAL, 5.0) if each.start_ns > SECOND_NS]
    by_hour = [Counter[str]() for _ in range(24)]
    for each in sessions:
        by_hour[each.start_ns % DAY_NS // HOUR_NS][each.model] += 1
    assert by_hour[2].most_common(1)[0][0] == "embed:300m"
    assert by_hour[6].most_common(1)[0][0] == "vision:11b"
    assert {"coder:14b", "chat:8b"} <= set(by_hour[10])
    assert "coder:14b" not in by_hour[22]
