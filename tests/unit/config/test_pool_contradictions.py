"""What the settings of one server may not say together."""

from __future__ import annotations

import pytest

from broker.config.contradictions import contradictions
from broker.config.schema import Config
from broker.config.serving import BackendConfig


def problems(backend: BackendConfig) -> list[str]:
    found = contradictions(Config(backends=(backend,)))
    return [f"{'.'.join(map(str, each.path))} {each.problem}" for each in found]


@pytest.mark.parametrize(
    "backend",
    [
        BackendConfig(),
        BackendConfig(resident_max=2, loaded_max=2),
        BackendConfig(resident_max=2, loaded_max=3, memory_gb=24),
    ],
)
def test_room_for_one_more_may_be_said_with_its_bytes(backend: BackendConfig) -> None:
    assert problems(backend) == []


def test_a_server_that_holds_fewer_than_are_planned_evicts_by_itself() -> None:
    [problem] = problems(BackendConfig(resident_max=3, loaded_max=2, memory_gb=24))
    assert problem.startswith("backends.0.loaded_max is 2; must be at least resident_max (3)")


def test_room_that_nobody_can_measure_is_no_room() -> None:
    [problem] = problems(BackendConfig(resident_max=2, loaded_max=3))
    assert problem.startswith("backends.0.loaded_max does nothing without memory_gb")
