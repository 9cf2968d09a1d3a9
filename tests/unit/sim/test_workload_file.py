"""A workload in TOML, or a trace alone: what is read, what is assumed, what is named as wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.sim.toml_places import TomlPlaces
from broker.sim.workload_file import read_workload
from broker.sim.workload_problem import WorkloadProblems
from broker.sim.workload_spec import Workload

GOOD = """\
seed = 3

[[models]]
name = "llama3.2:3b"
popularity = 2

[[models]]
name = "mine:13b"
size_gb = 9
load_s = 12
prefill_tokens_per_s = 1800
decode_tokens_per_s = 35

[[backends]]
name = "gpu"
count = 2
memory_gb = 24
slots = 4

[[agents]]
name = "opus"
loop = "open"
every_s = 30
priority = [1, 3]
prompt_tokens = [200, 2000]
output_tokens = 100
"""
TRACE = "arrival_ms,prompt_tokens,output_tokens\n0,10,20\n500,30,40\n"


def write(folder: Path, text: str, name: str = "w.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(WorkloadProblems) as found:
        read_workload(write(folder, text))
    return [str(each).replace(f"{folder}/", "") for each in found.value.problems]


def test_a_good_file(tmp_path: Path) -> None:
    workload = read_workload(write(tmp_path, GOOD))
    assert (workload.spec.seed, workload.assumed, workload.trace) == (3, (), None)
    assert [each.name for each in workload.spec.models] == ["llama3.2:3b", "mine:13b"]
    (opus,) = workload.spec.agents
    assert (opus.priority, opus.prompt_tokens, opus.output_tokens) == (
        (1, 3),
        (200, 2000),
        (100, 100),
    )


def test_all_problems_are_told_together_each_with_line_column_and_path(tmp_path: Path) -> None:
    text = (
        GOOD.replace("seed = 3", "seed = -3")
        .replace("popularity = 2", 'popularity = "much"')
        .replace("slots = 4", "  slot = 4")
        .replace("priority = [1, 3]", "priority = [3, 1]")
    )
    assert problems(tmp_path, text) == [
        "w.toml:1:1: seed: is -3; must be at least 0",
        "w.toml:5:1: models[0].popularity: is 'much'; must be a number",
        "w.toml:18:3: backends[0].slot: is no setting; did you mean slots?",
        "w.toml:24:1: agents[0].priority: is [3, 1]; must be a whole number from 1 to 10, "
        "or [least, most] of such",
    ]


@pytest.mark.parametrize(
    ("line", "other", "problem"),
    [
        ('name = "gpu"', 'name = "GPU"', "w.toml:15:1: backends[0].name: is 'GPU'; must match"),
        ("seed = 3", "duration_s = nan", "w.toml:1:1: duration_s: is nan; must be a finite"),
        ("seed = 3", "seed = =", "w.toml:1:8: is not TOML: Invalid value"),
        ("seed = 3", "[x]", "w.toml:1:1: x: is no setting; known are seed, "),
        ("every_s = 30", "", 'w.toml:20:1: agents[0]: every_s belongs to loop = "open", which'),
        ("size_gb = 9", "", "w.toml:7:1: models[1]: size_gb missing; only these may leave them"),
        ("mine:13b", "llama3.2:3B", "w.toml:8:1: models[1].name: llama3.2:3B is there twice"),
        ("mine:13b", "x x", "w.toml:8:1: models[1].name: is 'x x'; must be a model name"),
        ("output_tokens = 100", "", "w.toml:20:1: agents[0]: output_tokens is missing, and"),
        ("every_s = 30", 'every_s = 3\nmodels = ["a"]', "w.toml:24:1: agents[0].models: 'a' is n"),
        ('"open"\nevery_s = 30', '"trace"', "w.toml:22:1: agents[0].loop: needs a [trace]"),
        ('[[agents]]\nname = "opus"', '[[agent]]\nname = "opus"', "w.toml:20:1: agent: is no se"),
        ("seed = 3", '[trace]\nfile = "gone.csv"', "gone.csv: cannot be read: No such file"),
    ],
)
def test_what_is_wrong_has_its_place(tmp_path: Path, line: str, other: str, problem: str) -> None:
    assert line in GOOD
    (found,) = problems(tmp_path, GOOD.replace(line, other))
    assert found.startswith(problem)


def test_nobody_asks_for_anything(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, GOOD.partition("[[agents]]")[0])
    assert found == "w.toml: nobody asks for anything: there must be [[agents]] or a [trace]"


def test_a_spec_with_a_trace_finds_it_beside_itself(tmp_path: Path) -> None:
    write(tmp_path, TRACE, "t.csv")
    workload = read_workload(write(tmp_path, GOOD + '[trace]\nfile = "t.csv"\n'))
    assert workload.trace is not None
    assert len(workload.trace.rows) == 2


def test_a_trace_names_models_that_the_spec_describes(tmp_path: Path) -> None:
    trace = "arrival_ms,prompt_tokens,output_tokens,model\n0,1,1,llama3.2:3b\n1,1,1,other\n"
    write(tmp_path, trace, "t.csv")
    (found,) = problems(tmp_path, GOOD + '[trace]\nfile = "t.csv"\n')
    assert found.startswith("t.csv:3:7: model 'other' is not described: add it to [[models]]")


def test_problems_of_spec_and_trace_come_together(tmp_path: Path) -> None:
    write(tmp_path, TRACE + "x,1,1\n", "t.csv")
    text = GOOD.replace("mine:13b", "x x") + '[trace]\nfile = "t.csv"\n'
    assert [each.partition(":")[0] for each in problems(tmp_path, text)] == ["t.csv", "w.toml"]


def test_a_trace_alone_says_what_is_assumed(tmp_path: Path) -> None:
    workload = read_workload(write(tmp_path, TRACE, "t.csv"))
    assert [each.split(":")[0] for each in workload.assumed] == [
        "requests that name no model are spread evenly over llama3.2",
        "requests that name no agent are spread over 20",
    ]


def test_a_trace_that_names_all_assumes_only_the_backend(tmp_path: Path) -> None:
    text = "arrival_ms,prompt_tokens,output_tokens,model,agent\n0,1,1,qwen3:8b,a-1\n"
    workload = read_workload(write(tmp_path, text, "t.csv"))
    assert [each.name for each in workload.spec.models] == ["qwen3:8b"]
    assert workload.assumed == ()
    assert workload.assumed_backends.startswith("the trace names no backend: one that holds 2")


def test_files_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    for path, problem in (
        (tmp_path / "gone.toml", "cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
    ):
        with pytest.raises(WorkloadProblems, match=problem):
            read_workload(path)
    nested = write(tmp_path, "a = " + "[" * 100_000)
    with pytest.raises(WorkloadProblems, match="nested too deeply"):
        read_workload(nested)
    (tmp_path / "w.toml").write_bytes(b'seed = 1\nx = "\xff"\n')
    with pytest.raises(WorkloadProblems, match=r"w\.toml:2:6: is not UTF-8"):
        read_workload(tmp_path / "w.toml")


_LINES = st.sampled_from([*GOOD.splitlines(), "[trace]", 'file = "t.csv"', "x = [1,", "]", '"""'])


@given(st.lists(_LINES | st.text(max_size=30), max_size=25))
def test_garbage_is_told_of_and_never_more_than_that(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.toml"
    path.write_text("\n".join(lines), errors="replace")
    read: Workload | WorkloadProblems
    try:
        read = read_workload(path)
    except WorkloadProblems as found:
        read = found
    assert read.problems if isinstance(read, WorkloadProblems) else read.spec.models


PLACES = """\
a = 1 # one
"b c".d = [
  1, # [2]
  { x = "]" },
]
  [t]
text = '''
[no.table]
k = 2
'''
k = "[" # =
[[m]]
[[m]]
n = 1
[m.sub]
o = 1
[[m.list]]
p = 1
[[m.list]]
p = 2
"""


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("a",), (1, 1)),
        (("b c", "d"), (2, 1)),
        (("b c", "d", 1, "x"), (2, 1)),  # what is inside has the place of its key
        (("t",), (6, 3)),
        (("t", "k"), (11, 1)),
        (("m", 0), (12, 1)),
        (("m", 1, "n"), (14, 1)),
        (("m", 1, "sub", "o"), (16, 1)),
        (("m", 1, "list", 1, "p"), (20, 1)),
        (("m", 1, "absent"), (13, 1)),  # what is not there has the place of its table
        (("absent",), (0, 0)),
    ],
)
def test_places_in_toml(path: tuple[str | int, ...], place: tuple[int, int]) -> None:
    assert TomlPlaces(PLACES).place(path) == place
