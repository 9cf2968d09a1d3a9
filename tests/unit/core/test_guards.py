"""Models that judge texts are told by their names."""

from __future__ import annotations

import pytest

from broker.core.guards import GUARD_FAMILIES, is_guard


@pytest.mark.parametrize("family", GUARD_FAMILIES)
def test_every_family_is_known_by_any_of_its_names(family: str) -> None:
    assert is_guard(family)
    assert is_guard(f"{family}3:8b")
    assert is_guard(f"someone/{family.upper()}:latest")


@pytest.mark.parametrize(
    "name",
    [
        "bielik-guard:1b",
        "lab/safety-guardian",
        "my_guard",
        "text.guard2:q4",
        "someone/Llama-Guard-4",
    ],
)
def test_what_is_called_a_guard_is_one(name: str) -> None:
    assert is_guard(name)


@pytest.mark.parametrize(
    "name",
    [
        "llama3:8b",
        "guardrails-chat:7b",
        "vanguard:1b",
        "guard.example.com/lab/llama3:8b",
        "vanguards-tale/llama3",
        "",
        "x",
    ],
)
def test_what_answers_is_none(name: str) -> None:
    assert not is_guard(name)


def test_the_family_of_its_file_tells_as_well() -> None:
    assert is_guard("safety:2b", "shieldgemma")
    assert not is_guard("safety:2b", "gemma2")
