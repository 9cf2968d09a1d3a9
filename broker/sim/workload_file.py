"""Reads a workload: a spec in TOML, or a trace alone, which then runs on what is assumed.

Rules: every problem of a file is told together, each with the line and column of its setting. A
trace alone names neither backends nor, mostly, models: one backend that holds two of the bundled
models is assumed, and the report says so.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from broker.sim.ollama_catalogue import default_catalogue, parse_name
from broker.sim.toml_places import Path as KeyPath
from broker.sim.toml_places import TomlPlaces
from broker.sim.trace import read_trace
from broker.sim.trace_row import Trace
from broker.sim.workload_problem import Problem, WorkloadProblems, shown
from broker.sim.workload_rules import contradictions, talking_models, wrong
from broker.sim.workload_spec import (
    AgentsDraft,
    BackendDraft,
    ModelDraft,
    TraceDraft,
    Workload,
    WorkloadSpec,
)

FILE_BYTES_MAX: Final = 4 * 1024 * 1024
_AGENTS_ASSUMED: Final = 20
_RESIDENTS_ASSUMED: Final = 2
_SLOTS_ASSUMED: Final = 4


def read_workload(path: Path, *, requests_max: int | None = None) -> Workload:
    """A spec where the name ends in .toml, else a trace. WorkloadProblems with all that is wrong.
    `requests_max` has the last word on how much of a trace is read."""
    if path.suffix.lower() == ".toml":
        return _read_spec(path, requests_max)
    draft = TraceDraft(file=str(path))
    trace = read_trace(path, rows_max=requests_max or draft.requests_max)
    return _of_trace_alone(path, draft, trace)


def _read_spec(path: Path, requests_max: int | None) -> Workload:
    text = _text_of(path)
    try:
        document = tomllib.loads(text)
    except RecursionError:
        problem = "is not TOML that can be used: nested too deeply"
        raise WorkloadProblems([Problem(source=str(path), text=problem)]) from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise WorkloadProblems([_not_toml(path, str(error))]) from None
    places = TomlPlaces(text)

    def placed(keys: KeyPath, words: str) -> Problem:
        line, column = places.place(keys)
        return Problem(
            source=str(path), line=line, column=column, path=_shown_path(keys), text=words
        )

    try:
        spec = WorkloadSpec.model_validate(document)
    except ValidationError as error:
        raise WorkloadProblems(placed(*each) for each in wrong(error)) from None
    found = [placed(*each) for each in contradictions(spec)]
    trace = None
    if spec.trace is not None:
        most = min(requests_max or spec.trace.requests_max, spec.trace.requests_max)
        try:
            trace = read_trace(path.parent / spec.trace.file, rows_max=most)
        except WorkloadProblems as of_trace:
            found += of_trace.problems
    if trace is not None:
        found += _unknown_models(spec, trace)
    if found:
        raise WorkloadProblems(found)
    assumed = tuple(_left_out(trace)) if trace is not None else ()
    return Workload(source=str(path), spec=spec, trace=trace, assumed=assumed)


def _left_out(trace: Trace) -> Iterator[str]:
    if trace.torn:
        first = trace.torn[0]
        yield f"{len(trace.torn)} lines of the log cannot be read and are left out, as line {first}"


def _text_of(path: Path) -> str:
    def problem(text: str, line: int = 0, column: int = 0) -> WorkloadProblems:
        return WorkloadProblems([Problem(source=str(path), line=line, column=column, text=text)])

    try:
        with path.open("rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise problem(f"cannot be read: {error.strerror or error}") from None
    if len(data) > FILE_BYTES_MAX:
        raise problem(f"is larger than {FILE_BYTES_MAX} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        begun = data.rfind(b"\n", 0, error.start) + 1
        column = len(data[begun : error.start].decode("utf-8", "replace")) + 1
        line = data.count(b"\n", 0, error.start) + 1
        raise problem("is not UTF-8", line, column) from None


def _not_toml(path: Path, words: str) -> Problem:
    """tomllib tells the place in its sentence."""
    at = re.search(r" \(at line (\d+), column (\d+)\)$", words)
    line, column = (int(at[1]), int(at[2])) if at else (0, 0)
    text = f"is not TOML: {words[: at.start()] if at else words}"
    return Problem(source=str(path), line=line, column=column, text=text)


def _shown_path(keys: KeyPath) -> str:
    text = ""
    for each in keys:
        text += f"[{each}]" if isinstance(each, int) else f".{each}" if text else each
    return text


def _unknown_models(spec: WorkloadSpec, trace: Trace) -> Iterator[Problem]:
    """Models that the trace names and the spec does not describe, each at its first line."""
    known = {parsed.key for each in spec.models if (parsed := parse_name(each.name))}
    seen: set[str] = set()
    for row in trace.rows:
        if not row.model or row.model in seen:
            continue
        seen.add(row.model)
        parsed = parse_name(row.model)
        if parsed is None or parsed.key not in known:
            todo = "add it to [[models]] of a workload in TOML whose [trace] names this file"
            text = f"model {shown(row.model)} is not described: {todo}"
            yield Problem(source=trace.source, line=row.line, column=row.model_column, text=text)


def _of_trace_alone(path: Path, draft: TraceDraft, trace: Trace) -> Workload:
    models = talking_models()
    bundled = default_catalogue()
    named = {row.model for row in trace.rows if row.model}
    asked = {found.name for name in named if (found := bundled.find(name))}
    spec = WorkloadSpec(
        models=tuple(
            ModelDraft(name=each.name)
            for each in (bundled if asked else models)
            if not asked or each.name in asked
        ),
        backends=(BackendDraft(name="gpu", resident_max=_RESIDENTS_ASSUMED, slots=_SLOTS_ASSUMED),),
        agents=(AgentsDraft(name="agent", loop="trace", count=_AGENTS_ASSUMED),),
        trace=draft,
    )
    problems = list(_unknown_models(spec, trace))
    if problems:
        raise WorkloadProblems(problems)
    assumed = list(_left_out(trace))
    if any(not row.model for row in trace.rows):
        names = ", ".join(each.name for each in models)
        assumed.append(f"requests that name no model are spread evenly over {names}")
    if any(not row.agent for row in trace.rows):
        assumed.append(f"requests that name no agent are spread over {_AGENTS_ASSUMED}")
    return Workload(
        source=str(path),
        spec=spec,
        trace=trace,
        assumed=tuple(assumed),
        assumed_backends=f"the trace names no backend: one that holds {_RESIDENTS_ASSUMED} models, "
        f"{_SLOTS_ASSUMED} slots each",
    )
