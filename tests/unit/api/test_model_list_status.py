"""How old the list of models is, from the broker to the client."""

from __future__ import annotations

from broker.api.grpc.status_codec import encode_status
from broker.core.model_list import Freshness, ListState
from broker_client import ModelListStatus
from broker_client.status import status_of
from tests.unit.api.test_status_codec import status

LIST_STATE = ListState(
    downloaded=3,
    downloadable=200,
    freshness=Freshness.STALE,
    age_ms=7 * 3_600_000,
    is_refreshing=True,
    problem="away",
    bytes_per_s=2e6,
    file="/cache/model_cache.json",
)


def test_how_old_the_list_of_models_is() -> None:
    encoded = encode_status(status(model_list=LIST_STATE))
    read = status_of(encoded).model_list
    assert (read.downloaded, read.downloadable, read.freshness) == (3, 200, "stale")
    assert (read.age_ms, read.next_ms, read.bytes_per_s) == (7 * 3_600_000, None, 2e6)
    assert (read.refreshing, read.problem, read.file) == (True, "away", "/cache/model_cache.json")
    unknown = encode_status(status(model_list=ListState()))
    assert status_of(unknown).model_list == ModelListStatus(
        downloaded=0,
        downloadable=0,
        freshness="empty",
        age_ms=None,
        refreshing=False,
        problem="",
        next_ms=None,
        bytes_per_s=0,
        file="",
    )
