"""Chooses a model where nobody named one: a resident one, for it costs no load, else the smallest.
Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from broker_client import Model

# The state of a place whose backend does not answer.
UNKNOWN: Final = "unknown"


def is_resident(model: Model) -> bool:
    """Is it ready to answer somewhere?"""
    return any(each.state == "resident" for each in model.places)


def completion_models(models: Sequence[Model]) -> list[Model]:
    """Those that generate text, smallest first, and after them those of which that is not told."""
    able = [each for each in models if each.may_generate]
    return sorted(able, key=lambda each: (not each.capabilities, each.size_bytes, each.name))


def choose_model(models: Sequence[Model]) -> Model | None:
    """The first resident model that may generate text, else the first on a backend that answers,
    else the first; None: there is none."""
    able = completion_models(models)
    resident = [each for each in able if is_resident(each)]
    near = [each for each in able if any(place.state != UNKNOWN for place in each.places)]
    return next(iter(resident or near or able), None)
