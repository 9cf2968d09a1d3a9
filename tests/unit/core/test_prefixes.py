"""What prompts have in common is read once, and remembered within bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core import prefixes
from broker.core.prefixes import Prefixes
from broker.core.requests import RequestSpec
from broker.core.sizes import Sizes
from broker.core.stimuli import Arrived
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, Scene, model, request, resident, serving


def begins(*hashes: int, size_bytes: int = 8_000) -> RequestSpec:
    return replace(request("r", size_bytes=size_bytes), prefixes=hashes)


def two_servers() -> Scene:
    scene = serving(model("m"))
    scene.seen("b", resident("m"))
    return scene


def test_what_was_read_before_takes_no_time() -> None:
    sizes = Sizes()
    sizes.served("m", begins(size_bytes=1_000), SECOND_NS, SECOND_NS, 0)
    sizes.served("m", begins(size_bytes=9_000), SECOND_NS, SECOND_NS, 0, 8_000)  # as long as that
    assert sizes.expected_ns("m", begins(size_bytes=5_000)) == 5 * SECOND_NS
    assert sizes.expected_ns("m", begins(size_bytes=5_000), 4_096) == 904_000_000


def test_a_request_that_begins_like_one_before_is_taken_for_shorter() -> None:
    """Its agent's other request, as long and as late, begins anew."""
    scene = serving(model("m"))
    first = replace(request("first", size_bytes=5_000), prefixes=(1, 2))
    scene.turn(Arrived(first))
    scene.wait(5 * SECOND_NS)
    scene.ends("first")
    scene.turn(Arrived(request("running", agent="x")))
    for name, agent, hashes in (("anew", "b", (7, 8)), ("alike", "c", (1, 2))):
        spec = request(name, agent=agent, size_bytes=5_000, deadline_ns=60 * MINUTE_NS)
        scene.turn(Arrived(replace(spec, prefixes=hashes)))
    known = {key[1]: each.known_bytes for key, each in scene.engine.records.items()}
    assert known == {"running": 0, "anew": 0, "alike": 4_096}
    assert scene.order() == "running alike anew"


def test_beginnings_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "PREFIXES_MAX", 2)
    scene = two_servers()
    known = Prefixes(scene.engine.backends)
    [(name, there)] = scene.engine.backends.items()
    residency = there.residents["blob-m"]
    for each in (1, 2, 1, 3):
        known.started("blob-m", begins(each), name, residency)
    assert len(known) == 2
    assert known.known_bytes("blob-m", begins(2)) == 0
    assert known.known_bytes("blob-m", begins(1)) == 1_024
    assert known.known_bytes("blob-m", begins(1), "another") == 0
    assert known.known_bytes("blob-n", begins(1)) == 0


def test_the_servers_that_read_the_same_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "READERS_MAX", 2)
    scene = two_servers()
    known = Prefixes(scene.engine.backends)
    residency = next(iter(scene.engine.backends.values())).residents["blob-m"]
    for name in ("x", "y", "x", "z"):
        known.started("blob-m", begins(1), name, residency)
    assert [name for _, name, _ in known.readers("blob-m", begins(1))] == ["z", "x"]
