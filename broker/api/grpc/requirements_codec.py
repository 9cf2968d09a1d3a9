"""What a request wants of a model that it does not name: checked, and in the words of the core."""

from __future__ import annotations

from typing import Final

from broker.api.grpc.model_validation import check_at_least_0, check_capabilities
from broker.api.grpc.validation import Problems
from broker.core.requirements import Preference, Requirements
from broker_client.pb.broker.v1 import models_pb2 as pb

CONTEXT_MAX: Final = 16_777_216  # that any configuration may give a model
_PREFERENCES: Final = {"": None, **{each.value: each for each in Preference}}
_SHOWN_MAX: Final = 40


def check_requirements(wanted: pb.ModelRequirements, problems: Problems) -> None:
    """Every field; one that is not set asks nothing."""
    check_capabilities(wanted.capabilities, "requirements.capabilities", problems)
    for name in ("context_min", "size_bytes_max", "memory_bytes_max"):
        check_at_least_0(getattr(wanted, name), f"requirements.{name}", problems)
    if wanted.context_min > CONTEXT_MAX:
        problems.add("requirements.context_min", f"is {wanted.context_min}; at most {CONTEXT_MAX}")
    if wanted.prefer not in _PREFERENCES:
        known = ", ".join(each for each in _PREFERENCES if each)
        shown = repr(wanted.prefer[:_SHOWN_MAX])
        problems.add("requirements.prefer", f"is {shown}; one of {known}")


def decode_requirements(wanted: pb.ModelRequirements) -> Requirements:
    """Requirements whose fields are valid."""
    return Requirements(
        capabilities=frozenset(wanted.capabilities),
        context_min=wanted.context_min,
        size_bytes_max=wanted.size_bytes_max,
        memory_bytes_max=wanted.memory_bytes_max,
        prefer=_PREFERENCES[wanted.prefer],
    )
