"""Requests that a loaded model shall answer rather than wait for a load (`prefer_loaded`)."""

from __future__ import annotations

from dataclasses import replace

from broker.core.effects import Effect, StartAttempt, WaitReason
from broker.core.errors import BackendFailed, BackendUnreachable, LoadFailed
from broker.core.level import Level
from broker.core.placement import BackendPolicy
from broker.core.record import Record
from broker.core.requests import RequestKind, Substitution
from broker.core.residency import ResidencyState
from broker.core.stimuli import Arrived, LevelAsked, PauseAsked, Scope
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    cancel,
    finished,
    model,
    nothing_remains,
    of,
    serving,
    started,
    switches,
    told,
)

BROKEN = LoadFailed("out of memory")


def flexible(
    name: str, *others: str, own: str = "n", agent: str = "a", **fields: object
) -> Arrived:
    """A request for a model that accepts these others, where they are loaded."""
    spec = arrived(name, model=own, agent=agent, fallback_models=others).spec
    return Arrived(replace(spec, prefer_loaded=True, **fields))  # type: ignore[arg-type]


def record(scene: Scene, name: str, agent: str = "a") -> Record:
    return scene.engine.records[agent, name]


def waits_for(scene: Scene, name: str, agent: str = "a") -> str:
    return record(scene, name, agent).model.removesuffix(":latest")


def models(effects: list[Effect]) -> list[str]:
    return [each.model for each in of(effects, StartAttempt)]


# Who comes


def test_one_that_is_loaded_answers_rather_than_wait_for_a_load() -> None:
    scene = serving(model("m"), model("n"))
    effects = scene.turn(flexible("x", "m"))
    [start] = of(effects, StartAttempt)
    assert (start.model, start.substituted_for) == ("m:latest", "n")
    assert start.changes == ("model is m:latest instead of n: m:latest is loaded and n is not",)
    assert switches(effects) == []


def test_the_model_that_was_asked_for_goes_first_where_it_is_loaded() -> None:
    scene = serving(model("m"), model("n"))
    [start] = of(scene.turn(flexible("x", "n", own="m")), StartAttempt)
    assert (start.model, start.substituted_for, start.changes) == ("m:latest", "", ())


def test_of_two_fallbacks_the_first_that_is_loaded_answers() -> None:
    scene = serving(model("m"), model("n"), model("o"))
    assert models(scene.turn(flexible("x", "o", "m"))) == ["m:latest"]


def test_without_the_flag_a_fallback_waits_for_what_was_asked_for() -> None:
    scene = serving(model("m"), model("n"))
    effects = scene.turn(arrived("x", model="n", fallback_models=("m",)))
    assert (started(effects), switches(effects)) == ([], ["unload m on b1"])


def test_vectors_of_another_model_mean_nothing() -> None:
    scene = serving(model("m"), model("n"))
    assert started(scene.turn(flexible("x", "m", kind=RequestKind.EMBED))) == []


def test_who_forbids_substitution_accepts_nothing() -> None:
    scene = serving(model("m"), model("n"))
    assert started(scene.turn(flexible("x", "m", substitution=Substitution.NEVER))) == []


def test_what_cannot_do_it_is_not_accepted() -> None:
    scene = serving(model("m", capabilities=frozenset({"completion"})), model("n"))
    effects = scene.turn(flexible("x", "m", needs=frozenset({"tools"})))
    assert started(effects) == []
    assert record(scene, "x").accepts == ()


def test_one_whose_context_is_too_small_as_it_is_loaded_does_not_answer() -> None:
    scene = serving(model("m", num_ctx_max=16384), model("n", num_ctx_max=16384))
    assert started(scene.turn(flexible("x", "m", num_ctx_needed=8192))) == []
    assert waits_for(scene, "x") == "n"


# Who waits


def busy(*names: str, slots: int = 1) -> Scene:
    """m is loaded and works in all its slots."""
    scene = serving(*(model(name, slots=slots) for name in ("m", *names)))
    for number in range(slots):
        scene.turn(arrived(f"m{number}"))
    return scene


def test_it_waits_for_a_slot_of_what_is_loaded_and_is_told_so() -> None:
    scene = busy("n")
    effects = scene.turn(flexible("x", "m"))
    assert (waits_for(scene, "x"), switches(effects)) == ("m", [])
    assert [each[2] for each in told(effects)] == [WaitReason.SLOT.value]
    assert started(scene.ends("m0")) == ["x"]


def gated() -> Scene:
    """m, which is loaded and works, is told to leave for n; x waits that accepts m and o."""
    scene = busy("n", "o")
    scene.turn(arrived("n1", model="n"))
    assert scene.state("m") is ResidencyState.DRAINING
    scene.turn(flexible("x", "m", own="o"))
    return scene


def test_what_is_to_leave_is_not_at_hand() -> None:
    scene = busy("n", "o")
    scene.turn(arrived("n1", model="n"))
    assert scene.state("m") is ResidencyState.DRAINING
    scene.turn(flexible("x", "m", own="o"))
    assert waits_for(scene, "x") == "o"


def test_what_is_being_loaded_is_at_hand_where_nothing_is_there() -> None:
    scene = serving(model("m"), model("n"), model("o"))
    scene.turn(arrived("n1", model="n"))
    effects = scene.unloaded("m")
    assert switches(effects) == ["load n on b1"]
    scene.turn(flexible("x", "n", own="o"))
    assert waits_for(scene, "x") == "n"
    scene.turn(arrived("y", model="o"))
    assert started(scene.loaded("n")) == ["n1"]
    assert started(scene.ends("n1")) == ["x"]


def n_is_next() -> Scene:
    """m works; n1 of another agent waits for n, and x for o, that accepts n."""
    scene = busy("n", "o")
    scene.turn(arrived("n1", model="n", agent="b"))
    scene.wait(SECOND_NS)
    scene.turn(flexible("x", "n", own="o"))
    scene.ends("m0")
    assert waits_for(scene, "x") == "o"
    assert switches(scene.unloaded("m")) == ["load n on b1"]
    return scene


def test_it_moves_to_what_is_loaded_and_back_to_its_own_when_that_leaves() -> None:
    scene = n_is_next()
    assert waits_for(scene, "x") == "n"
    assert started(scene.loaded("n")) == ["n1"]
    scene.turn(PauseAsked(scope=Scope(agent_id="a")))
    assert started(scene.ends("n1", agent="b")) == []
    scene.seen("b1")  # it vanished
    found = record(scene, "x")
    assert (found.model, found.substituted_for, found.is_at_hand) == ("o:latest", "", False)
    assert found.line == ("blob-o", 0)


def test_when_the_load_of_what_it_waits_for_fails_it_waits_for_its_own_again() -> None:
    scene = serving(model("m"), model("n"), model("o"))
    scene.turn(arrived("n1", model="n"))
    scene.unloaded("m")
    scene.turn(flexible("x", "n", own="o"))
    assert waits_for(scene, "x") == "n"
    scene.loaded("n", error=BROKEN)
    found = record(scene, "x")
    assert (found.model, found.substituted_for, found.is_at_hand) == ("o:latest", "", False)


def test_when_its_own_is_loaded_as_well_that_answers() -> None:
    scene = Scene(BackendPolicy(name="b1", resident_max=2))
    scene.open("b1", model("m"), model("n"))
    scene.turn(arrived("first"))
    scene.loaded("m")
    scene.ends("first")
    scene.turn(arrived("m1"))
    scene.turn(flexible("x", "m"))
    assert waits_for(scene, "x") == "m"
    scene.turn(arrived("n1", model="n"))
    effects = scene.loaded("n")
    assert models(effects) == ["n:latest"]
    assert started(effects) == ["x"]  # which is older than n1
    assert record(scene, "x").instead == ""


def test_a_lost_backend_loses_nobody() -> None:
    scene = busy("n")
    scene.turn(flexible("x", "m"))
    scene.down("b1")
    assert waits_for(scene, "x") == "n"
    scene.up("b1")
    assert waits_for(scene, "x") == "m"  # as far as is known it holds that still
    assert started(scene.ends("m0")) == ["x"]


def nothing_is_lost(scene: Scene, name: str) -> bool:
    return ("a", name) in scene.engine.records


# Its place


def test_a_move_costs_no_age() -> None:
    """y came to n after x, and before x did."""
    scene = busy("n", "o")
    scene.turn(arrived("n1", model="n", agent="b"))
    scene.wait(SECOND_NS)
    scene.turn(flexible("x", "n", own="o"))
    scene.wait(SECOND_NS)
    scene.turn(arrived("y", model="n", agent="c"))
    scene.ends("m0")
    scene.unloaded("m")
    assert waits_for(scene, "x") == "n"
    assert started(scene.loaded("n")) == ["n1"]
    assert scene.end_one() == ("b", "n1")
    assert [each.record.spec.key for each in scene.engine.attempts.values()] == [("a", "x")]


def test_back_in_its_own_line_it_is_as_old_as_if_it_had_stayed() -> None:
    scene = busy("n", "o")
    scene.turn(arrived("before", model="n"))
    scene.wait(SECOND_NS)
    came_ns = scene.now_ns
    scene.turn(flexible("x", "n", own="o"))
    scene.wait(SECOND_NS)
    scene.ends("m0")
    scene.unloaded("m")
    scene.turn(PauseAsked(scope=Scope(agent_id="a")))
    queue = scene.engine._queue
    assert waits_for(scene, "x") == "n"
    assert queue.head_since(record(scene, "x").entry) == -1  # behind one of its agent
    scene.loaded("n", error=BROKEN)
    assert waits_for(scene, "x") == "o"
    assert queue.head_since(record(scene, "x").entry) == came_ns


def test_a_move_gives_no_turn_before_those_that_were_served_less() -> None:
    """As whoever comes: the agent of x begins where those are that wait there."""
    scene = n_is_next()
    scene.turn(arrived("y", model="n", agent="c"))
    scene.loaded("n")
    scene.ends("n1", agent="b")
    queue, line, found = (
        scene.engine._queue,
        scene.engine.lines["blob-n", 0],
        record(scene, "y", "c"),
    )
    rest = line.group, found.priority, found.compartment
    mine = queue.counter_of(*rest, scene.engine.agents.meet("a", scene.now_ns).handle)
    others = queue.counter_of(*rest, found.agent.handle)
    assert mine is not None
    assert others is not None
    assert mine >= others


# Its end


def test_a_cancelled_one_is_gone_from_wherever_it_waits() -> None:
    scene = busy("n")
    scene.turn(flexible("x", "m"))
    assert [name for name, _ in finished(scene.turn(cancel("x")))] == ["x"]
    assert not scene.engine.backlog.accepting
    scene.turn(cancel("m0"))
    scene.ends("m0", BackendFailed("cut"))
    scene.wait(MINUTE_NS)
    assert nothing_remains(scene)


def test_its_deadline_counts_from_when_it_came() -> None:
    scene = busy("n")
    scene.turn(flexible("x", "m", deadline_ns=scene.now_ns + 10 * SECOND_NS))
    scene.wait(9 * SECOND_NS)
    assert nothing_is_lost(scene, "x")
    assert [name for name, _ in finished(scene.wait(SECOND_NS))] == ["x"]


def test_a_reload_of_the_policy_leaves_it_where_it_is() -> None:
    scene = busy("n")
    scene.turn(flexible("x", "m"))
    scene.reload()
    assert waits_for(scene, "x") == "m"
    assert started(scene.ends("m0")) == ["x"]


def test_what_a_backend_no_longer_has_is_not_accepted() -> None:
    scene = busy("n", "o")
    scene.turn(flexible("x", "m", "o"))
    scene.open("b1", model("m"), model("n"))
    assert [each.model for each in record(scene, "x").accepts] == ["n:latest", "m:latest"]
    scene.open("b1", model("n"))
    assert record(scene, "x").accepts == ()
    assert waits_for(scene, "x") == "n"


# The level


def test_where_only_small_models_run_a_large_one_is_not_at_hand() -> None:
    gigabyte = 10**9
    scene = serving(model("m", size_bytes=60 * gigabyte), model("n", size_bytes=gigabyte))
    scene.turn(arrived("m0"))
    scene.turn(flexible("x", "m"))
    assert waits_for(scene, "x") == "m"
    scene.turn(LevelAsked(level=Level.LEVEL_2))
    found = record(scene, "x")
    assert (found.model, found.is_at_hand) == ("n:latest", False)


# What is loaded next


def test_those_that_would_come_count_for_what_is_loaded_next() -> None:
    """Of o and p each has as much of its own; three more accept p."""
    scene = busy("o", "p", "q")
    scene.turn(arrived("o1", model="o", agent="b"))
    scene.turn(arrived("p1", model="p", agent="c"))
    for number in range(3):
        scene.turn(flexible(f"x{number}", "p", own="q", agent=f"d{number}"))
    assert switches(scene.ends("m0")) == ["unload m on b1"]
    effects = scene.unloaded("m")
    assert switches(effects) == ["load p on b1"]
    assert all(waits_for(scene, f"x{number}", f"d{number}") == "p" for number in range(3))


def test_what_was_deleted_while_another_answered_for_it_is_waited_for_no_more() -> None:
    """Nothing is left to choose from when its call is lost with the server."""
    scene = serving(model("m"), model("n"))
    assert models(scene.turn(flexible("x", "m"))) == ["m:latest"]
    scene.open("b1", model("m"))
    scene.ends("x", BackendUnreachable("refused"))
    assert waits_for(scene, "x") == "m"
    scene.up("b1")
    assert scene.engine.attempts
    assert finished(scene.ends("x"))
    assert nothing_remains(scene)
