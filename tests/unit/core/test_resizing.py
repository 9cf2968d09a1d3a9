"""What begins alike and waits runs next to what has read that, also where it came before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core import resizing
from broker.core.errors import BackendUnreachable
from broker.core.record import Record
from broker.core.stimuli import Arrived
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    model,
    nothing_remains,
    request,
    serving,
)

SIZE_BYTES = 5_000


def measured() -> Scene:
    """m reads a hundred bytes in a second, and is busy with "running" of agent x."""
    scene = serving(model("m"))
    scene.turn(arrived("sample"))
    scene.wait(2 * SECOND_NS)
    scene.ends("sample")
    scene.turn(arrived("running", agent="x"))
    return scene


def comes(
    scene: Scene,
    name: str,
    agent: str,
    *prefixes: int,
    size_bytes: int = SIZE_BYTES,
    priority: int = 5,
) -> None:
    spec = request(
        name,
        agent=agent,
        size_bytes=size_bytes,
        priority=priority,
        deadline_ns=scene.now_ns + 60 * MINUTE_NS,
    )
    scene.turn(Arrived(replace(spec, prefixes=prefixes)))


def burst(scene: Scene, begins: str) -> None:
    """One request for each letter, which says how it begins; all as long, of as many agents."""
    for number, letter in enumerate(begins):
        comes(scene, f"{letter}{number}", f"{letter}{number}", ord(letter), -ord(letter))


def record(scene: Scene, name: str, agent: str) -> Record:
    return scene.engine.records[agent, name]


def test_a_burst_of_two_beginnings_runs_one_after_the_other() -> None:
    scene = measured()
    burst(scene, "pqpqpqpq")
    assert scene.order() == "running p0 p2 p4 p6 q1 q3 q5 q7"
    assert nothing_remains(scene)
    assert scene.engine.backlog.sharers.check(())


def test_what_begins_like_nothing_else_is_left_as_it_is() -> None:
    scene = measured()
    for name in ("a", "b"):
        comes(scene, name, name)
    comes(scene, "c", "c", 1, 2)
    comes(scene, "d", "d", 3)
    before = [each.service_ns for each in scene.engine.records.values()]
    assert scene.end_one() == ("x", "running")
    assert scene.end_one() == ("a", "a")
    assert [each.service_ns for each in scene.engine.records.values()] == before[2:]


def test_it_keeps_its_place_and_age_and_less_work_waits() -> None:
    """Others go first when it is weighed anew."""
    scene = measured()
    burst(scene, "pp")
    late, backlog = record(scene, "p1", "p1"), scene.engine.backlog
    was_ns, place = late.service_ns, (late.entry, late.rank, scene.now_ns)
    scene.wait(SECOND_NS)
    scene.end_one()
    comes(scene, "urgent", "z", priority=1)
    work_ns = backlog.work.of("blob-m") - record(scene, "urgent", "z").service_ns
    assert (late.known_bytes, late.service_ns) == (0, was_ns)  # the first is only being read
    scene.ends("p0", agent="p0")
    assert scene.attempt("urgent", "z")
    assert (late.known_bytes, late.service_ns < was_ns) == (4_096, True)
    assert (late.entry, late.rank, scene.engine._queue.head_since(late.entry)) == place
    assert backlog.work.of("blob-m") == backlog.work.of_all == late.service_ns
    assert work_ns == was_ns


def test_only_the_first_reader_has_others_weighed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = measured()
    read = list[str]()
    weigh = resizing.Resizing.was_read

    def was_read(self: resizing.Resizing, record: Record) -> None:
        read.append(record.spec.key[1])
        weigh(self, record)

    monkeypatch.setattr(resizing.Resizing, "was_read", was_read)
    burst(scene, "pqpq")
    comes(scene, "longer", "z", ord("p"), -ord("p"), 7)
    scene.order()
    assert read == ["p0", "longer", "q1"]


def test_what_was_served_more_stands_back_all_the_same() -> None:
    """The window of fairness decides before sizes do."""
    scene = measured()
    for number in range(3):
        comes(scene, f"p{number}", "p", 1, 2)
    comes(scene, "q", "q", 3, 4)
    assert scene.end_one() == ("x", "running")
    scene.end_one(output_tokens=100_000)
    assert scene.order() == "q p1 p2"


def test_a_better_priority_goes_first_all_the_same() -> None:
    scene = measured()
    burst(scene, "pp")
    comes(scene, "urgent", "z", priority=1)
    comes(scene, "first", "y", ord("p"), -ord("p"), priority=1)
    assert scene.order() == "running urgent first p0 p1"


def test_nobody_is_taken_for_longer() -> None:
    """Its runner has become slower since it came: it keeps what it has."""
    scene = measured()
    burst(scene, "pp")
    was_ns = record(scene, "p1", "p1").service_ns
    scene.wait(9 * MINUTE_NS)
    scene.end_one()
    scene.end_one()
    late = record(scene, "p1", "p1")
    assert (late.known_bytes, late.service_ns) == (4_096, was_ns)


def test_a_prompt_that_was_never_read_weighs_nothing_anew() -> None:
    scene = measured()
    burst(scene, "pp")
    scene.end_one()
    was_ns = record(scene, "p1", "p1").service_ns
    scene.ends("p0", BackendUnreachable("refused"), agent="p0")
    assert record(scene, "p1", "p1").service_ns == was_ns


def test_a_few_at_a_time_are_weighed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "SHARERS_MAX", 2)
    scene = measured()
    burst(scene, "pqpppp")
    scene.end_one()
    scene.end_one()
    known = {name: each.known_bytes for (_, name), each in scene.engine.records.items()}
    assert known == {"q1": 0, "p2": 4_096, "p3": 4_096, "p4": 0, "p5": 0}
