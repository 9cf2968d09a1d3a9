"""Bulkheads: how many of a compartment run at once; what exceeds it waits, and others pass it."""

from __future__ import annotations

import pytest

from broker.core.agent_policy import BULKHEADS_MAX, COMPARTMENTS_MAX, AgentsPolicy
from broker.core.bulkheads import OPEN, Bulkheads
from broker.core.effects import TellQueued
from broker.core.errors import BackendRefused, BackendUnreachable
from broker.core.requests import Criticality
from broker.core.stimuli import CancelAsked, CancelCause
from tests.unit.core.gate_words import kind
from tests.unit.core.scene import (
    SECOND_NS,
    Scene,
    arrived,
    model,
    nothing_remains,
    of,
    serving,
    started,
    told,
)

BATCH, CRITICAL = Criticality.BATCH, Criticality.CRITICAL
SEED = {"opus": 10, "sonnet": 20, "critical": 5, "batch": 15}


def policy(**bulkheads: int) -> AgentsPolicy:
    types = (kind("opus", "opus*"), kind("sonnet", "sonnet*"), kind("free", "*"))
    return AgentsPolicy(types=types, bulkheads=bulkheads)


def house(slots: int = 9, **bulkheads: int) -> Scene:
    return serving(model("m", slots=slots), agents=policy(**bulkheads), first_agent="free")


def runs(
    scene: Scene, name: str, agent: str, criticality: Criticality = Criticality.NORMAL
) -> bool:
    """One more comes: does it run at once?"""
    return started(scene.turn(arrived(name, agent=agent, criticality=criticality))) == [name]


@pytest.mark.parametrize(
    ("agent", "criticality", "limit"),
    [
        ("opus", Criticality.NORMAL, 10),
        ("sonnet", Criticality.NORMAL, 20),
        ("opus", CRITICAL, 5),
        ("sonnet", BATCH, 15),
        ("free", Criticality.NORMAL, 60),
    ],
)
def test_with_the_seeds_limits_so_many_of_each_compartment_run_at_once(
    agent: str, criticality: Criticality, limit: int
) -> None:
    scene = house(slots=60, **SEED)
    assert sum(runs(scene, f"r{number}", agent, criticality) for number in range(70)) == limit


def test_what_exceeds_the_limit_waits_in_the_queue_and_hears_for_what() -> None:
    scene = house(opus=1)
    assert runs(scene, "r1", "opus")
    [word] = of(scene.turn(arrived("r2", agent="opus")), TellQueued)
    assert (word.reason.value, word.position) == ("BULKHEAD", 1)
    assert word.detail == "bulkhead opus, where 1 run of at most 1"


def test_others_pass_what_waits_before_a_full_compartment() -> None:
    scene = house(slots=3, opus=1)
    for number in range(4):
        scene.turn(arrived(f"o{number}", agent="opus", priority=1))
    assert runs(scene, "s1", "sonnet")
    assert runs(scene, "f1", "free")


def test_an_end_lets_the_next_of_the_compartment_in() -> None:
    scene = house(opus=2)
    assert [runs(scene, f"r{number}", "opus1") for number in range(4)] == [True, True, False, False]
    assert started(scene.ends("r0", agent="opus1")) == ["r2"]
    assert started(scene.ends("r1", BackendRefused("broke", status=400), agent="opus1")) == ["r3"]
    scene.order()
    assert nothing_remains(scene)


def test_a_compartment_is_of_all_agents_of_its_type_together() -> None:
    scene = house(opus=2)
    assert [runs(scene, "r", f"opus{number}") for number in range(3)] == [True, True, False]


def test_critical_work_does_not_wait_for_the_ordinary_work_of_its_type() -> None:
    scene = house(opus=1, critical=1)
    assert runs(scene, "r1", "opus")
    assert not runs(scene, "r2", "opus")
    assert runs(scene, "r3", "opus", CRITICAL)
    assert not runs(scene, "r4", "opus", CRITICAL)


def test_a_compartment_counts_over_all_models_and_backends() -> None:
    scene = house(opus=1)
    scene.open("b1", model("m", slots=9), model("n"))
    assert runs(scene, "r1", "opus")
    [word] = of(scene.turn(arrived("r2", agent="opus", model="n")), TellQueued)
    assert word.reason.value == "BULKHEAD"


def test_a_full_compartment_loads_no_model_for_what_it_holds_back() -> None:
    """It would push another's model out, for work that may not run."""
    scene = house(opus=1)
    scene.open("b1", model("m", slots=9), model("n"))
    runs(scene, "r1", "opus")
    effects = scene.turn(arrived("r2", agent="opus", model="n"))
    assert not [each for each in effects if type(each).__name__ in ("Load", "Unload")]
    assert runs(scene, "s1", "sonnet")
    scene.ends("s1", agent="sonnet")
    assert [type(each).__name__ for each in scene.ends("r1", agent="opus")][-1] == "Unload"


def test_cancelled_work_holds_its_place_until_it_is_proven_to_have_ended() -> None:
    scene = house(opus=1)
    runs(scene, "r1", "opus")
    scene.turn(arrived("r2", agent="opus"))
    assert started(scene.turn(CancelAsked(("opus", "r1"), CancelCause.BY_AGENT))) == []
    assert started(scene.ends("r1", agent="opus")) == ["r2"]


def test_what_comes_back_leaves_its_compartment_meanwhile() -> None:
    scene = house(opus=1)
    runs(scene, "r1", "opus")
    scene.ends("r1", BackendUnreachable("refused"), agent="opus")
    bit = scene.engine.records["opus", "r1"].compartment
    assert scene.engine.bulkheads.running(bit) == 0
    assert started(scene.up("b1")) == ["r1"]


def test_everybody_hears_in_time_that_the_compartment_is_open_again() -> None:
    scene = house(slots=1, opus=1)
    runs(scene, "r1", "opus")
    scene.turn(arrived("r2", agent="opus"))
    scene.turn(arrived("s1", agent="sonnet"))
    scene.wait(2 * SECOND_NS)
    assert started(scene.ends("r1", agent="opus")) != []
    reasons = {name: reason for name, _, reason in told(scene.wait(SECOND_NS))}
    assert set(reasons.values()) <= {"SLOT", "BULKHEAD"}


# Reload


def test_a_limit_lowered_below_what_runs_ends_nothing_and_starts_nothing_until_below() -> None:
    scene = house(opus=3)
    for number in range(5):
        scene.turn(arrived(f"r{number}", agent="opus"))
    scene.reload(agents=policy(opus=1))
    assert started(scene.ends("r0", agent="opus")) == []
    assert started(scene.ends("r1", agent="opus")) == []
    assert started(scene.ends("r2", agent="opus")) == ["r3"]


def test_a_raised_limit_starts_what_waits_at_once() -> None:
    scene = house(opus=1)
    for number in range(4):
        scene.turn(arrived(f"r{number}", agent="opus"))
    assert started(scene.reload(agents=policy(opus=3))) == ["r1", "r2"]


def test_a_limit_that_is_taken_away_lets_everything_run() -> None:
    scene = house(opus=1)
    for number in range(4):
        scene.turn(arrived(f"r{number}", agent="opus"))
    assert started(scene.reload(agents=policy())) == ["r1", "r2", "r3"]
    assert runs(scene, "r4", "opus")
    scene.order()
    assert nothing_remains(scene)


def test_a_limit_that_a_reload_adds_counts_what_runs_and_holds_what_waits() -> None:
    scene = house(slots=3)
    for number in range(5):
        scene.turn(arrived(f"r{number}", agent="opus"))
    scene.turn(CancelAsked(("opus", "r0"), CancelCause.BY_AGENT))  # its call has not ended yet
    scene.reload(agents=policy(opus=2))
    quota = scene.engine.agents.quota("opus", 1_000, scene.now_ns)
    assert (quota.compartment_running, quota.compartment_max) == (3, 2)
    assert started(scene.ends("r0", agent="opus")) == []
    assert runs(scene, "s", "sonnet")
    assert started(scene.ends("r1", agent="opus")) == ["r3"]
    assert started(scene.ends("r2", agent="opus")) == ["r4"]
    scene.ends("s", agent="sonnet")
    for name in ("r3", "r4"):
        scene.ends(name, agent="opus")
    assert nothing_remains(scene)
    assert scene.engine.bulkheads.closed == 0


def test_a_limit_that_comes_back_finds_what_ran_meanwhile() -> None:
    scene = house(opus=2)
    for number in range(2):
        scene.turn(arrived(f"r{number}", agent="opus"))
    scene.reload(agents=policy())
    scene.reload(agents=policy(opus=2))
    assert not runs(scene, "r2", "opus")


def test_a_new_bulkhead_does_not_count_what_another_still_runs() -> None:
    """Nothing of a compartment is under way for a client any more, but its work may still run."""
    scene = house(opus=1)
    runs(scene, "r1", "opus")
    scene.turn(CancelAsked(("opus", "r1"), CancelCause.BY_AGENT))
    scene.reload(agents=policy(sonnet=1))
    assert runs(scene, "s1", "sonnet")
    scene.ends("r1", agent="opus")
    assert not runs(scene, "s2", "sonnet")


def test_a_bulkhead_that_was_renamed_is_known_while_something_of_it_is_under_way() -> None:
    """So many may be known at once; the one who reloads asks before."""
    bulkheads = Bulkheads({"old": 1})
    bulkheads.hold(bulkheads.bit("old"), 1)
    many = {f"c{number}": 1 for number in range(BULKHEADS_MAX)}
    assert not bulkheads.fits(many)
    with pytest.raises(ValueError):
        bulkheads.configure(many)
    assert bulkheads.limit(bulkheads.bit("old")) == 1
    bulkheads.hold(bulkheads.bit("old"), -1)
    assert bulkheads.fits(many)
    bulkheads.configure(many)
    known = (*many, "batch")
    assert sorted(bulkheads.bit(name) for name in known) == list(range(1, COMPARTMENTS_MAX + 1))


def test_bulkheads_may_be_renamed_for_ever_where_nothing_of_the_old_ones_is_left() -> None:
    scene = serving(model("m"), agents=policy(opus=1), first_agent="free")
    for number in range(3 * COMPARTMENTS_MAX):
        types = (kind("own", "own*", compartment=f"c{number}"), kind("free", "*"))
        scene.reload(agents=AgentsPolicy(types=types, bulkheads={f"c{number}": 1}))
        scene.turn(arrived("r", agent="own"))
        scene.ends("r", agent="own")
    bulkheads = scene.engine.bulkheads
    assert bulkheads.bit("c0") == OPEN
    assert bulkheads.bit(f"c{3 * COMPARTMENTS_MAX - 1}") != OPEN


# The mask


def test_batch_work_has_a_compartment_also_where_nothing_limits_it() -> None:
    bulkheads = Bulkheads({})
    bit = bulkheads.bit("batch")
    assert bit != OPEN
    assert bulkheads.limit(bit) is None
    assert bulkheads.limited() == []
    bulkheads.configure({"batch": 1})
    assert (bulkheads.bit("batch"), bulkheads.limit(bit)) == (bit, 1)
    bulkheads.configure({})
    assert (bulkheads.bit("batch"), bulkheads.limit(bit)) == (bit, None)


def test_a_compartment_that_is_not_named_is_open() -> None:
    bulkheads = Bulkheads({"opus": 1})
    assert bulkheads.bit("unheard of") == OPEN
    assert bulkheads.limit(OPEN) is None
    bulkheads.run(OPEN, 100)
    assert bulkheads.closed == 0


def test_it_says_when_it_has_closed_or_opened_and_only_then() -> None:
    bulkheads = Bulkheads({"opus": 2})
    bit = bulkheads.bit("opus")
    changes = [bulkheads.run(bit, step) for step in (1, 1, 1, -1, -1, -1)]
    assert changes == [False, True, False, False, True, False]
    assert bulkheads.closed == 0


def test_as_many_bulkheads_as_a_mask_has_bits_are_told_apart() -> None:
    bulkheads = Bulkheads({f"c{number}": 1 for number in range(BULKHEADS_MAX)})
    for number in range(0, BULKHEADS_MAX, 2):
        bulkheads.run(bulkheads.bit(f"c{number}"), 1)
    closed = [bulkheads.is_closed(bulkheads.bit(f"c{n}")) for n in range(BULKHEADS_MAX)]
    assert closed == [number % 2 == 0 for number in range(BULKHEADS_MAX)]
