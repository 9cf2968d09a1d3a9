"""Agent ids and their types: the first glob that fits, a default or a refusal, a bounded memory."""

from __future__ import annotations

import pytest

from broker.core.errors import AgentUnknown
from broker.services.agents import AgentType, AgentTypes

TYPES = (
    AgentType(name="opus", match=("opus-*", "lead")),
    AgentType(name="sonnet", match=("sonnet-?",)),
    AgentType(name="late", match=("opus-9",)),
)


@pytest.mark.parametrize(
    ("agent_id", "name"),
    [
        ("opus-1", "opus"),
        ("opus-9", "opus"),  # the first type that fits, not the closest
        ("lead", "opus"),
        ("sonnet-1", "sonnet"),
        ("sonnet-12", "system"),
        ("OPUS-1", "system"),  # ids have case
        ("an-opus-1", "system"),
    ],
)
def test_the_first_glob_that_fits_names_the_type(agent_id: str, name: str) -> None:
    agents = AgentTypes(TYPES, "system")
    assert agents.type_of(agent_id) == name
    assert agents.type_of(agent_id) == name  # and so from memory


def test_an_id_of_no_type_is_refused_with_the_globs_there_are() -> None:
    with pytest.raises(AgentUnknown) as refusal:
        AgentTypes(TYPES, None).type_of("robot")
    (problem,) = refusal.value.problems
    assert problem.field == "agent_id"
    assert "known: opus-*, lead, sonnet-?, opus-9" in problem.problem
    with pytest.raises(AgentUnknown, match="known: none"):
        AgentTypes((), None).type_of("robot")


def test_ids_without_end_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AgentTypes, "REMEMBERED_MAX", 3)
    agents = AgentTypes(TYPES, "system")
    for number in range(20):
        assert agents.type_of(f"opus-{number}") == "opus"
        assert len(agents._remembered) <= 3
