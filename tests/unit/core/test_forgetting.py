"""What the journal forgets is gone at once: nothing of it waits for the collector of cycles."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator

import pytest

from broker.core import journal
from broker.core.errors import BackendFailed, BackendRefused, Cancelled
from broker.core.record import Attempt, Passage, Record
from broker.core.requests import RequestSpec
from broker.core.stimuli import FirstToken
from broker.core.views import AttemptView
from tests.unit.core.scene import SECOND_NS, Scene, arrived, busy, cancel

KEPT = 4
ROUNDS = 3
OF_A_REQUEST = (Attempt, AttemptView, Passage, Record, RequestSpec)


@pytest.fixture(autouse=True)
def _uncollected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(journal, "ENDED_MAX", KEPT)
    monkeypatch.setattr(journal, "REFUSED_MAX", KEPT)
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held() -> Counter[str]:
    """Of what requests are made of, how much there is."""
    kinds = (type(each) for each in gc.get_objects())
    return Counter(each.__name__ for each in kinds if each in OF_A_REQUEST)


def ends_in_every_way(scene: Scene, name: str) -> None:
    """KEPT requests, one after the other, on the only slot."""
    scene.turn(arrived(f"{name}-complete"))
    scene.turn(FirstToken(scene.attempt(f"{name}-complete")))
    scene.turn(arrived(f"{name}-waited"))
    scene.turn(cancel(f"{name}-waited"))
    scene.ends(f"{name}-complete")
    scene.turn(arrived(f"{name}-failed"))
    scene.ends(f"{name}-failed", BackendFailed("broken"))
    scene.wait(SECOND_NS)  # the longest backoff before its second attempt
    scene.ends(f"{name}-failed", BackendRefused("broken", status=400))
    scene.turn(arrived(f"{name}-aborted"))
    scene.turn(cancel(f"{name}-aborted"))
    scene.ends(f"{name}-aborted", Cancelled("aborted"))
    scene.wait(SECOND_NS)  # its slot is free after the grace


def test_requests_that_ended_are_remembered_by_so_many_and_no_more() -> None:
    of_others = held()  # of tests before this one
    scene = busy()
    scene.ends("running")
    ends_in_every_way(scene, "first")
    once = held()
    assert once["Record"] - of_others["Record"] == KEPT
    for number in range(ROUNDS):
        ends_in_every_way(scene, f"again{number}")
    assert held() == once
