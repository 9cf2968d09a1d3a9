"""One thing that `brokerctl doctor` finds, and how much it matters. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """GOOD is as it should be, ODD works but deserves a look, BAD keeps work from being done."""

    GOOD = "good"
    ODD = "odd"
    BAD = "bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing found. `next_step` is empty where there is nothing to do."""

    severity: Severity
    text: str
    next_step: str = ""


def good(text: str) -> Finding:
    """A finding that asks for nothing."""
    return Finding(severity=Severity.GOOD, text=text)


def odd(text: str, next_step: str) -> Finding:
    """A finding that deserves a look."""
    return Finding(severity=Severity.ODD, text=text, next_step=next_step)


def bad(text: str, next_step: str) -> Finding:
    """A finding that keeps work from being done."""
    return Finding(severity=Severity.BAD, text=text, next_step=next_step)
