"""How old what is shown of models is, in words."""

from __future__ import annotations

import pytest

from broker_client import ModelList, ModelSource
from brokerctl.models_sources import source_lines


def listed(source: ModelSource) -> ModelList:
    return ModelList(models=(), total=0, changed_unix_ms=0, sources=(source,), loading=False)


@pytest.mark.parametrize(
    ("age_ms", "freshness", "words"),
    [
        (None, "empty", "gpu does not answer (refused); what it has is not known yet"),
        (None, "expired", "gpu does not answer (refused); nobody knows how old what it has is"),
        (60_000, "fresh", "the list is 1 min 0 s old: gpu does not answer (refused)"),
    ],
)
def test_what_is_known_of_a_backend_that_is_down(
    age_ms: int | None, freshness: str, words: str
) -> None:
    source = ModelSource(
        name="gpu", up=False, age_ms=age_ms, freshness=freshness, problem="refused"
    )
    assert source_lines(listed(source)) == [words]
