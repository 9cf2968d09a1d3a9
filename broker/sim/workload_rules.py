"""What must be so in a workload beside the types of its settings, and how what is wrong is said."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from broker.sim.ollama_catalogue import default_catalogue, parse_name
from broker.sim.ollama_model_card import SimModel
from broker.sim.toml_places import Path as KeyPath
from broker.sim.workload_problem import shown
from broker.sim.workload_spec import (
    AgentsDraft,
    BackendDraft,
    ModelDraft,
    TraceDraft,
    WorkloadSpec,
)

# What a model that the simulator does not know by name must say.
_NEEDED: Final = ("size_gb", "load_s", "prefill_tokens_per_s", "decode_tokens_per_s")
_WORDS: Final = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text in quotes",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "literal_error": "must be one of {expected}",
    "tuple_type": "must be an array",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "model_type": "must be a table",
    "missing": "is missing",
    "value_error": "{error}",
}
_WITHOUT_VALUE: Final = frozenset({"missing", "too_short", "too_long", "model_type", "value_error"})


def wrong(error: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong, and where. An array whose entries are wrong counts as empty to the library."""
    faults = error.errors()
    paths = [each["loc"] for each in faults]
    for fault in faults:
        keys = fault["loc"]
        is_echo = fault["type"] == "too_short" and any(
            len(path) > len(keys) and path[: len(keys)] == keys for path in paths
        )
        if not is_echo:
            yield keys, _explained(fault)


def _explained(fault: ErrorDetails) -> str:
    kind = fault["type"]
    if kind == "extra_forbidden":
        return _unknown(fault)
    words = _WORDS.get(kind)
    text = fault["msg"] if words is None else words.format_map(fault.get("ctx", {}))
    return text if kind in _WITHOUT_VALUE else f"is {shown(fault['input'])}; {text}"


def _unknown(fault: ErrorDetails) -> str:
    sections: dict[str | int, type[BaseModel]] = {
        "models": ModelDraft,
        "backends": BackendDraft,
        "agents": AgentsDraft,
        "trace": TraceDraft,
    }
    *above, name = fault["loc"]
    known = list((sections[above[0]] if above else WorkloadSpec).model_fields)
    near = get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"is no setting; {hint}"


def contradictions(spec: WorkloadSpec) -> Iterator[tuple[KeyPath, str]]:
    """What no field alone can say."""
    bundled = default_catalogue()
    keys: set[str] = set()
    for i, model in enumerate(spec.models):
        parsed = parse_name(model.name)
        if parsed is None:
            yield ("models", i, "name"), f"is {shown(model.name)}; must be a model name"
            continue
        if parsed.key in keys:
            yield ("models", i, "name"), f"{model.name} is there twice"
        keys.add(parsed.key)
        absent = [name for name in _NEEDED if getattr(model, name) is None]
        if absent and bundled.find(model.name) is None:
            known = ", ".join(each.name for each in talking_models())
            yield (
                ("models", i),
                f"{', '.join(absent)} missing; only these may leave them out: {known}",
            )
    if not any(each.popularity for each in spec.models):
        yield ("models",), "none has any popularity"
    names = [each.name for each in spec.backends]
    for i, name in enumerate(names):
        if name in names[:i]:
            yield ("backends", i, "name"), f"{name} is there twice"
    yield from _contradictions_of_agents(spec, keys)


def _contradictions_of_agents(spec: WorkloadSpec, known: set[str]) -> Iterator[tuple[KeyPath, str]]:
    if not spec.agents and spec.trace is None:
        yield (), "nobody asks for anything: there must be [[agents]] or a [trace]"
    names = [each.name for each in spec.agents]
    for i, agents in enumerate(spec.agents):
        if agents.name in names[:i]:
            yield ("agents", i, "name"), f"{agents.name} is there twice"
        for field in ("models", "then_models", "fallback_models"):
            for model in getattr(agents, field):
                parsed = parse_name(model)
                if parsed is None or parsed.key not in known:
                    yield ("agents", i, field), f"{shown(model)} is not among [[models]]"
        if spec.trace is not None:
            continue
        if agents.loop == "trace":
            yield ("agents", i, "loop"), "needs a [trace]"
        for field in ("prompt_tokens", "output_tokens"):
            if getattr(agents, field) is None:
                yield ("agents", i), f"{field} is missing, and there is no [trace] to draw it from"


def talking_models() -> list[SimModel]:
    """The bundled models that answer, one for each file."""
    by_blob = {
        each.blob: each for each in reversed(list(default_catalogue())) if not each.is_embedding
    }
    return list(reversed(by_blob.values()))
