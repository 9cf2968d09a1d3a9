"""How old what is shown of models is, and what does not answer, in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from broker_client import ModelList, ModelSource
from brokerctl.figures import duration_text
from brokerctl.one_line import one_line

LIBRARY: Final = "library"


def source_lines(found: ModelList, later_ms: int = 0) -> list[str]:
    """What one must know of a list to go by it; none where all of it is fresh. `later_ms`: so long
    ago it was told."""
    backends = [each for each in found.sources if each.name != LIBRARY]
    lines = [_loading_text(found)] if found.loading else []
    for each in found.sources:
        if each.name == LIBRARY:
            line = _library_text(each, later_ms)
        else:
            line = _backend_text(each, later_ms, is_only=len(backends) == 1)
        if line:
            lines.append(line)
    return [one_line(each) for each in lines]


def _loading_text(found: ModelList) -> str:
    if found.models:
        return "the list is being refreshed"
    return "nothing is known yet: the list is being loaded"


def _backend_text(source: ModelSource, later_ms: int, *, is_only: bool) -> str:
    """'the list is 3 h 0 min old: ollama does not answer (connection refused)'."""
    if source.up:
        return ""
    silent = f"{source.name} does not answer{_why(source)}"
    if source.age_ms is None:
        if source.freshness != "empty":
            return f"{silent}; nobody knows how old what it has is"
        return f"{silent}; what it has is not known yet"
    what = "the list" if is_only else "what it has"
    age = duration_text(source.age_ms + later_ms)
    return f"the list is {age} old: {silent}" if is_only else f"{silent}; {what} is {age} old"


def _library_text(source: ModelSource, later_ms: int) -> str:
    what = "what could be downloaded"
    if source.age_ms is None:
        return "" if source.up else f"the library does not answer{_why(source)}"
    age = duration_text(source.age_ms + later_ms)
    if not source.up:
        return f"{what} is {age} old: the library does not answer{_why(source)}"
    return "" if source.freshness == "fresh" else f"{what} is {age} old"


def _why(source: ModelSource) -> str:
    return f" ({source.problem})" if source.problem else ""


def down_names(sources: Sequence[ModelSource]) -> frozenset[str]:
    """Those that did not answer when they were last asked."""
    return frozenset(each.name for each in sources if not each.up)
