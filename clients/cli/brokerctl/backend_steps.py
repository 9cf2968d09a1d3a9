"""What an operator does about a backend that does not answer, or that has no model: this depends
on its kind. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from broker_client import BackendStatus

# The kind of backend that has its models for good: nobody loads, pulls or stops any there.
KEEPS_MODELS: Final = "openai"


def start_step(backend: BackendStatus) -> str:
    """For one that does not answer."""
    server = "its server" if backend.kind == KEEPS_MODELS else "Ollama"
    how = "" if backend.kind == KEEPS_MODELS else " (`ollama serve`)"
    return (
        f"start {server} there{how}, or correct the url under [[backends]]; the broker takes it up "
        "by itself as soon as it answers"
    )


def get_model_step(backends: Sequence[BackendStatus]) -> str:
    """For those that answer and have no model."""
    if backends and all(each.kind == KEEPS_MODELS for each in backends):
        return "have one of the servers serve one"
    return "get one with `ollama pull NAME` on its host"


def down_text(backend: BackendStatus) -> str:
    """That it does not answer, and why; the url once, which problems of a connection begin with."""
    if backend.problem.startswith(f"{backend.url} "):
        return f"backend {backend.name} at {backend.problem}"
    why = f": {backend.problem}" if backend.problem else ""
    return f"backend {backend.name} at {backend.url} does not answer{why}"


def no_model_text(backends: Sequence[BackendStatus], *, lists_any: bool) -> str:
    """Why there is no model to use, and the next step: a backend that does not answer comes first,
    for it may have one. `lists_any`: there are models, but none that generates text."""
    down = [each for each in backends if not each.up]
    if down:
        whole = "; ".join(down_text(each) for each in down)
        found = "no model that generates text is known" if lists_any else "no model is known"
        return f"{found}: {whole}; {start_step(down[0])}"
    if not backends:
        return "the broker has no backend; add [[backends]] to its configuration, restart it"
    missing = "a model that generates text" if lists_any else "any model"
    return f"no backend lists {missing}; {get_model_step(backends)}"
