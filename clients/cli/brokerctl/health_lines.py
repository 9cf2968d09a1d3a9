"""What ails the backends, for people: health, drains, breakers, models that cannot be loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from broker_client import BackendStatus, BreakerStatus, SickModel
from brokerctl.figures import counted, duration_text
from brokerctl.one_line import one_line

# A broker that is older than these words says none.
WELL: Final = ("", "well")
HEALTH_STYLES: Final = {"suspect": "yellow", "wedged": "bold red", "restarting": "bold yellow"}


def is_well(backend: BackendStatus) -> bool:
    """Has nothing been found against it?"""
    return backend.health in WELL


def backend_state(backend: BackendStatus) -> Text:
    """Up, or why not; what keeps work from it."""
    if not backend.up:
        return Text(one_line(down_state_text(backend)), style="red")
    state = Text("up", style="green")
    if not is_well(backend):
        why = f": {backend.evidence}" if backend.evidence else ""
        state = Text(
            one_line(f"{backend.health}{why}"), style=HEALTH_STYLES.get(backend.health, "yellow")
        )
    if backend.draining:
        state.append(", draining: no new work", style="bold yellow")
    return state


def down_state_text(backend: BackendStatus) -> str:
    """Since when it does not answer, and why."""
    since = "" if backend.down_ms is None else f" for {duration_text(backend.down_ms)}"
    problem = backend.problem.removeprefix(f"{backend.url} ")  # which has a column of its own
    why = f": {problem}" if problem else ""
    return f"down{since}{why}"


def down_line(backends: Sequence[BackendStatus]) -> Text | None:
    """How many do not answer, and which; None where all do."""
    down = [each.name for each in backends if not each.up]
    if not down:
        return None
    do = "does" if len(down) == 1 else "do"
    words = f"{len(down)} of {counted(len(backends), 'backend')} {do} not answer"
    return Text(f"{words}: {', '.join(down)}", style="bold red")


def breaker_text(backend: BackendStatus, breaker: BreakerStatus) -> str:
    """One that is not closed, and what comes next."""
    name = f"breaker of {breaker.model} on {backend.name}"
    why = f": {breaker.why}" if breaker.why else ""
    if breaker.state == "half_open":
        return f"{name} lets one probe pass{why}"
    if breaker.until_ms is None:
        return f"{name} is {breaker.state}{why}"
    return f"{name} is {breaker.state}, a probe in {duration_text(breaker.until_ms)}{why}"


def breaker_texts(backends: Sequence[BackendStatus]) -> list[str]:
    """All that are not closed."""
    return [
        breaker_text(backend, each)
        for backend in backends
        for each in backend.breakers
        if each.state != "closed"
    ]


def sick_texts(backends: Sequence[BackendStatus]) -> list[str]:
    """Models that could not be loaded, and when they are tried again."""
    return [sick_text(backend, each) for backend in backends for each in backend.sick_models]


def sick_text(backend: BackendStatus, sick: SickModel) -> str:
    """One of them."""
    again = f"tried again in {duration_text(sick.retry_ms)}"
    why = f": {sick.why}" if sick.why else ""
    return f"{sick.model} cannot be loaded on {backend.name}, {again}{why}"


def ailment_lines(backends: Sequence[BackendStatus]) -> list[Text]:
    """Below the table of the backends."""
    texts = breaker_texts(backends) + sick_texts(backends)
    return [Text(one_line(each), style="bold yellow") for each in texts]


def ailment_texts(backends: Sequence[BackendStatus]) -> list[str]:
    """The same for a summary without such a table, with the health of each."""
    texts = []
    down = [each.name for each in backends if not each.up]
    if down:
        texts.append(f"down: {', '.join(down)}")
    for each in backends:
        if each.up and not is_well(each):
            texts.append(f"{each.name} is {each.health}: {each.evidence}".rstrip(": "))
    draining = [each.name for each in backends if each.draining]
    if draining:
        texts.append(f"draining: {', '.join(draining)}")
    return list(map(one_line, texts + breaker_texts(backends) + sick_texts(backends)))
