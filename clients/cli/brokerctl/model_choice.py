"""Chooses a model where nobody named one: a resident one, for it costs no load, else the smallest.
Pure."""

from __future__ import annotations

from collections.abc import Sequence

from broker_client import Model


def is_resident(model: Model) -> bool:
    """Is it ready to answer somewhere?"""
    return any(each.state == "resident" for each in model.places)


def completion_models(models: Sequence[Model]) -> list[Model]:
    """Those that generate text, smallest first."""
    able = [each for each in models if "completion" in each.capabilities]
    return sorted(able, key=lambda each: (each.size_bytes, each.name))


def choose_model(models: Sequence[Model]) -> Model | None:
    """The smallest resident model that generates text, else the smallest; None: there is none."""
    able = completion_models(models)
    resident = [each for each in able if is_resident(each)]
    return next(iter(resident or able), None)
