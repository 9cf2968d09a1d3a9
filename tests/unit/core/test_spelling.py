"""Models are compared by one spelling and told by their backend's own."""

from __future__ import annotations

import pytest

from broker.core.dispatch import changes_made
from broker.core.retries import view_of
from tests.unit.core.scene import arrived, model, serving


@pytest.mark.parametrize(
    ("loaded_as", "told"),
    [("M", "M"), ("library/m", "library/m"), ("another-name-of-its-file", "m:latest")],
)
def test_an_attempt_calls_its_model_as_its_backend_does(loaded_as: str, told: str) -> None:
    scene = serving(model("m"))
    scene.turn(arrived("r"))
    [attempt] = scene.engine.attempts.values()
    attempt.residency.model = loaded_as
    assert view_of(attempt, "", "").model == told
    attempt.record.instead = "n has left"
    assert changes_made(attempt)[0] == f"model is {told} instead of m: n has left"
