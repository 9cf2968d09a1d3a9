"""The rivals of the benchmark do what their names say, each on a case small enough to follow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest

from broker.core.engine import Engine
from broker.core.placement import BackendPolicy
from broker.core.placement_rule import PlacementRule
from broker.core.policy import EnginePolicy
from broker.core.requests import Outcome
from broker.core.stimuli import ModelSpec
from broker.sim.ollama_catalogue import Catalogue, SimModel, Speed
from broker.sim.ollama_log import LogKind
from broker.sim.ollama_machine import GIB, Quirks, ServerSettings
from broker.sim.ollama_model import OllamaModel
from broker.sim.rival_collation import Collation
from broker.sim.rival_direct import Direct
from broker.sim.rival_rules import Exhaustive, FixedPatience
from broker.sim.workload import Story, Task
from broker.sim.world import Site, World

SECOND_NS = 1_000_000_000
LOAD_S = 10
TOKENS_PER_S = 1  # an answer of n tokens takes n seconds, and reading the prompt next to nothing


def model(name: str) -> SimModel:
    return SimModel(
        name=f"{name}:latest",
        blob=f"{name}-file",
        digest=f"{name}-digest",
        size_bytes=1_000_000_000,
        parameter_count=1_000_000_000,
        architecture="llama",
        speed=Speed(
            prefill_tokens_per_s=1e9,
            decode_tokens_per_s=TOKENS_PER_S,
            load_bytes_per_s=1_000_000_000 / LOAD_S,
            load_cached_bytes_per_s=1_000_000_000 / LOAD_S,
            spawn_ms=0.0,
            is_apart=True,
        ),
    )


MODELS = tuple(model(name) for name in "abc")


def start(*, resident: int = 1, slots: int = 1) -> OllamaModel:
    settings = ServerSettings(
        num_parallel=slots,
        max_loaded_models=resident,
        memory_bytes=100 * GIB,
        gpu_query_ns=0,
        kill_ns=0,
        vram_recovery_ns=0,
        admission_ns=0,
        quirks=Quirks(slot_leak_chance=0.0),
    )
    return OllamaModel(Catalogue(MODELS), settings, tokens="first_and_last")


def task(name: str, at_s: float, *, seconds: int = 5, gives_up_s: int = 0) -> Task:
    """A request of the model that the name begins with."""
    return Task(
        at_ns=int(at_s * SECOND_NS),
        agent_id="agent",
        request_id=name,
        model=f"{name[0]}:latest",
        priority=5,
        prompt_tokens=1,
        output_tokens=seconds * TOKENS_PER_S,
        patience_ns=3600 * SECOND_NS,
        gives_up_after_ns=gives_up_s * SECOND_NS,
    )


def by_start(stories: Sequence[Story]) -> list[str]:
    """The names of those that started, in that order."""
    started = [each for each in stories if each.started_ns]
    return [each.task.request_id for each in sorted(started, key=lambda each: each.started_ns)]


def play(rival: Direct, *tasks: Task) -> dict[str, Story]:
    rival.add(tasks)
    rival.timeline.run(1000 * SECOND_NS)
    return {each.task.request_id: each for each in rival.stories}


def through_engine(rule: PlacementRule, *tasks: Task) -> tuple[list[str], int]:
    """(the order of the starts, how many loads)."""
    specs = tuple(
        ModelSpec(name=each.name, runner=each.blob, size_bytes=each.size_bytes) for each in MODELS
    )
    policy = EnginePolicy(backends=(BackendPolicy(name="gpu"),))
    world = World(Engine(policy, rule), {"gpu": Site(start=start, specs=specs)})
    world.add(tasks)
    world.timeline.run(1000 * SECOND_NS)
    assert all(each.outcome is Outcome.COMPLETED for each in world.stories.values())
    return by_start(list(world.stories.values())), world.servers["gpu"].model.runner_starts


def test_before_ollama_alone_the_first_come_has_its_model_loaded_first() -> None:
    rival = Direct(start)
    stories = play(rival, task("a1", 0), task("b1", 1), task("a2", 2), task("c1", 3))
    assert by_start(rival.stories) == ["a1", "b1", "a2", "c1"]
    assert rival.server.model.runner_starts == 4
    assert {each.outcome for each in stories.values()} == {Outcome.COMPLETED}


def test_before_ollama_alone_what_is_loaded_jumps_the_queue() -> None:
    rival = Direct(start)
    play(rival, task("a1", 0), task("b1", 11), task("a2", 12))
    assert by_start(rival.stories) == ["a1", "a2", "b1"]


def test_an_agent_that_gives_up_leaves_the_server_but_not_what_runs() -> None:
    rival = Direct(start)
    stories = play(rival, task("a1", 0, seconds=100, gives_up_s=60), task("a2", 20, gives_up_s=60))
    assert stories["a1"].outcome is Outcome.COMPLETED
    assert stories["a2"].outcome is Outcome.CANCELLED
    assert stories["a2"].ended_ns == 80 * SECOND_NS


@pytest.mark.parametrize(
    ("sees_loads", "outcome"), [(True, Outcome.COMPLETED), (False, Outcome.CANCELLED)]
)
def test_who_gives_up_while_its_model_is_loaded_ends_the_load_unless_it_sees_it(
    sees_loads: bool, outcome: Outcome
) -> None:
    rival = Direct(start, sees_loads=sees_loads)
    stories = play(rival, task("a1", 0, gives_up_s=5))
    assert stories["a1"].outcome is outcome
    aborted = rival.server.model.ledger.counts[LogKind.ABORTED]
    assert aborted == (0 if sees_loads else 1)


def test_collation_serves_the_ready_model_for_ever_and_swaps_in_order_of_request() -> None:
    rival = Collation(start, resident_max=1)
    stories = play(
        rival,
        task("a1", 0),
        task("c1", 1),
        task("b1", 2),
        task("c2", 3),
        task("a2", 12),  # a is ready: at once, though c and b wait
        task("a3", 17),
    )
    assert by_start(rival.stories) == ["a1", "a2", "a3", "c1", "c2", "b1"]
    assert rival.server.model.runner_starts == 3
    assert {each.outcome for each in stories.values()} == {Outcome.COMPLETED}


def test_collation_makes_room_by_what_is_idle_longest() -> None:
    rival = Collation(partial(start, resident=2), resident_max=2)
    play(rival, task("a1", 0), task("b1", 20), task("a2", 40), task("c1", 60), task("a3", 90))
    assert rival.server.model.ledger.loads_by_model == {"a:latest": 1, "b:latest": 1, "c:latest": 1}


def test_collation_forgets_who_gave_up_and_keeps_the_load_that_was_begun() -> None:
    rival = Collation(start, resident_max=1)
    stories = play(rival, task("a1", 0, gives_up_s=5), task("a2", 8), task("b1", 9, gives_up_s=2))
    assert stories["a1"].outcome is stories["b1"].outcome is Outcome.CANCELLED
    assert stories["a2"].started_ns == LOAD_S * SECOND_NS
    assert rival.server.model.runner_starts == 1


QUEUE = (
    *(task(f"a{number}", 1) for number in range(8)),
    task("b1", 12),
    task("b2", 13),
)


def test_exhaustive_leaves_no_backlog_however_long_others_wait() -> None:
    order, loads = through_engine(Exhaustive(), *QUEUE)
    assert [each[0] for each in order] == ["a"] * 8 + ["b"] * 2
    assert loads == 2


def test_fixed_patience_leaves_a_backlog_for_who_has_waited_longer() -> None:
    order, loads = through_engine(FixedPatience(15 * SECOND_NS), *QUEUE)
    # a's first four start at 11, 16, 21 and 26 s; b1 is overdue from 27 s on.
    # When it has loaded, a has waited for longer than that as well: a load for each of b.
    assert "".join(each[0] for each in order) == "aaaababaaa"
    assert loads == 5


def test_fixed_patience_exhausts_a_queue_while_nobody_is_overdue() -> None:
    order, loads = through_engine(FixedPatience(100 * SECOND_NS), *QUEUE)
    assert [each[0] for each in order] == ["a"] * 8 + ["b"] * 2
    assert loads == 2
