"""How many models are known and how old that is, as metrics."""

from __future__ import annotations

from broker.core.model_list import Freshness, ListState
from broker.observability.model_list_metrics import model_list_metrics


def samples(state: ListState) -> dict[tuple[str, str], float]:
    return {
        (each.name, next(iter(each.labels.values()), "")): each.value
        for metric in model_list_metrics(state)
        for each in metric.samples
    }


def test_what_is_known_and_how_old_it_is() -> None:
    state = ListState(
        downloaded=3,
        downloadable=200,
        freshness=Freshness.STALE,
        age_ms=7_200_500,
        refreshed=4,
        failed=1,
    )
    assert (
        samples(state).items()
        >= {
            ("broker_models_known", "downloaded"): 3,
            ("broker_models_known", "downloadable"): 200,
            ("broker_model_list_age_seconds", ""): 7_200.5,
            ("broker_library_refreshes_total", "answered"): 4,
            ("broker_library_refreshes_total", "failed"): 1,
        }.items()
    )


def test_of_an_unknown_age_there_is_no_sample() -> None:
    assert ("broker_model_list_age_seconds", "") not in samples(ListState())
