"""One more model for a workload: what if it were asked for, too?

Rules: it is said as NAME, where the bundled simulator knows the model, or with its settings behind:
NAME,size_gb=20,load_s=14,prefill_tokens_per_s=900,decode_tokens_per_s=30. It is one more of
[[models]], so that it takes its share, by its popularity, of all requests that name no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic import ValidationError

from broker.sim.workload_problem import Problem, WorkloadProblems, shown
from broker.sim.workload_rules import contradictions, wrong
from broker.sim.workload_spec import ModelDraft, Workload, WorkloadSpec

SOURCE: Final = "--add-model"
_REST: Final = {"backends": [{"name": "any"}]}


def with_models(workload: Workload, words: Sequence[str]) -> Workload:
    """The same with these, too; WorkloadProblems where that cannot be, or changes nothing."""
    more = tuple(_draft(each) for each in words)
    spec = workload.spec.model_copy(update={"models": (*workload.spec.models, *more)})
    known = len(workload.spec.models)
    found = [
        Problem(source=SOURCE, path=spec.models[keys[1]].name, text=text)
        for keys, text in contradictions(spec)
        if len(keys) > 1 and keys[0] == "models" and isinstance(keys[1], int) and keys[1] >= known
    ]
    if not found and not _is_asked_for(workload):
        text = "nobody would ask for it: all that ask name their models"
        found = [Problem(source=SOURCE, path=more[0].name, text=text)]
    if found:
        raise WorkloadProblems(found)
    names = " and ".join(each.name for each in more)
    return replace(workload, spec=spec, assumed=(*workload.assumed, f"{names} asked for, too"))


def _draft(words: str) -> ModelDraft:
    name, *settings = words.split(",")
    given: dict[str, Any] = {"name": name.strip()}
    for each in settings:
        key, mark, value = each.partition("=")
        if not mark:
            text = f"{shown(each)} must be a setting, as size_gb=20"
            raise WorkloadProblems([Problem(source=SOURCE, path=name, text=text)])
        given[key.strip()] = _number(value)
    try:
        return WorkloadSpec.model_validate({"models": [given], **_REST}).models[0]
    except ValidationError as error:
        raise WorkloadProblems(
            Problem(source=SOURCE, path=".".join([name, *map(str, keys[2:])]), text=text)
            for keys, text in wrong(error)
        ) from None


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _is_asked_for(workload: Workload) -> bool:
    """Does any request name no model?"""
    rows = workload.trace.rows if workload.trace is not None else ()
    sends = any(each.loop == "trace" for each in workload.spec.agents) or not workload.spec.agents
    if any(not each.models and each.loop != "trace" for each in workload.spec.agents):
        return True
    names_none = any(not each.models for each in workload.spec.agents if each.loop == "trace")
    return sends and names_none and any(not each.model for each in rows)
