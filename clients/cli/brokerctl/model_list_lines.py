"""How well it is known which models there are, in words: for the status and for doctor. Pure."""

from __future__ import annotations

from typing import Final

from rich.text import Text

from broker_client import ModelListStatus
from brokerctl.figures import counted, duration_text
from brokerctl.finding import Finding, good, odd
from brokerctl.one_line import one_line

_TOO_OLD: Final = ("expired", "empty")


def model_list_lines(known: ModelListStatus) -> list[Text]:
    """One line; none of a broker that does not tell."""
    if not known.freshness:
        return []
    text = f"models: {known.downloaded} downloaded"
    if known.downloadable:
        text += f", {known.downloadable} more to download"
    if known.freshness == "empty":
        text = "models: none known yet"
    parts = [text, *_age(known)]
    if known.refreshing:
        parts.append("being refreshed")
    if known.problem:
        parts.append(known.problem)
    is_odd = known.freshness in _TOO_OLD or known.problem
    return [Text(one_line("; ".join(parts)), style="yellow" if is_odd else "")]


def _age(known: ModelListStatus) -> list[str]:
    if known.freshness == "empty" or (known.freshness == "fresh" and not known.problem):
        return []
    if known.age_ms is None:
        return ["nobody knows how old that is"]
    return [f"{duration_text(known.age_ms)} old"]


def model_list_findings(known: ModelListStatus) -> list[Finding]:
    """Is what the broker knows of models worth going by?"""
    if not known.freshness or known.freshness == "empty":
        return []  # that no backend lists any model is a finding of its own
    if known.freshness == "expired" and not known.refreshing:
        age = "of unknown age" if known.age_ms is None else f"{duration_text(known.age_ms)} old"
        why = f" ({known.problem})" if known.problem else ""
        return [
            odd(
                f"the list of models is {age}: its sources have not answered since{why}",
                "see the broker's log on the library and on backends; [library] and [model_list] "
                "in its configuration say where it is asked and how often",
            )
        ]
    count = counted(known.downloaded + known.downloadable, "model")
    return [good(f"the list of {count} is {known.freshness}")]
