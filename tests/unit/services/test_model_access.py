"""Which agents may change models."""

from __future__ import annotations

import pytest

from broker.core.errors import AgentUnknown, FieldProblem, ModelChangeDenied
from broker.services.model_access import ModelAccess, ModelChange


def type_of(agent_id: str) -> str:
    if agent_id == "stranger":
        raise AgentUnknown((FieldProblem(field="agent_id", problem="is of no type"),))
    return agent_id.partition("-")[0]


ACCESS = ModelAccess(
    {ModelChange.PULL: ("type:opus", "puller-*"), ModelChange.LOAD: ("*",)}, type_of
)


@pytest.mark.parametrize(
    ("agent", "change", "may"),
    [
        ("", ModelChange.DELETE, True),
        ("opus-1", ModelChange.PULL, True),
        ("puller-1", ModelChange.PULL, True),
        ("Puller-1", ModelChange.PULL, False),
        ("sonnet-1", ModelChange.PULL, False),
        ("stranger", ModelChange.PULL, False),
        ("stranger", ModelChange.LOAD, True),
        ("opus-1", ModelChange.DELETE, False),
        ("type:opus", ModelChange.PULL, False),
    ],
)
def test_who_may_what(agent: str, change: ModelChange, may: bool) -> None:
    if may:
        ACCESS.check(change, agent)
        return
    with pytest.raises(ModelChangeDenied, match=f"model_access.{change.value}"):
        ACCESS.check(change, agent)


def test_some_is_for_operators_alone() -> None:
    ACCESS.check_operator("do this", "")
    with pytest.raises(ModelChangeDenied, match="only operators may do this"):
        ACCESS.check_operator("do this", "opus-1")


def test_a_reload_changes_it() -> None:
    access = ModelAccess({}, type_of)
    with pytest.raises(ModelChangeDenied):
        access.check(ModelChange.UNLOAD, "opus-1")
    access.configure({ModelChange.UNLOAD: ("opus-?",)})
    access.check(ModelChange.UNLOAD, "opus-1")
