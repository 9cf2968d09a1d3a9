"""How fast work goes: which waits count, what streams, and who is named."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from broker.core.pace import (
    AGENTS_SHOWN_MAX,
    WAITS_AGE_NS_MAX,
    AgentWorkView,
    Pace,
    take_waits,
    take_work,
    wait_view,
)
from broker.core.stimuli import FirstToken
from broker.core.tally import FIRST_TOKENS_MAX, Tally
from broker.core.views import WaitView
from tests.unit.core.scene import SECOND_NS, Scene, arrived, cancel, model, resident, serving

NOTHING = WaitView(count=0, p50_ns=0, p99_ns=0)


@pytest.mark.parametrize(
    ("waits", "p50_ns", "p99_ns"),
    [
        ([7], 7, 7),
        ([9, 1], 1, 9),
        ([3, 1, 2], 2, 3),
        (range(1, 101), 50, 99),
        (range(200, 0, -1), 100, 198),
        ([5] * 99 + [1000], 5, 5),
        ([5] * 98 + [1000] * 2, 5, 1000),
    ],
)
def test_waits_are_ranked(waits: list[int], p50_ns: int, p99_ns: int) -> None:
    assert wait_view(waits) == WaitView(count=len(waits), p50_ns=p50_ns, p99_ns=p99_ns)


def test_no_waits_are_no_figures() -> None:
    assert wait_view([]) == NOTHING


def test_first_tokens_are_remembered_up_to_a_bound() -> None:
    tally = Tally()
    tally.first_tokens.extend(range(FIRST_TOKENS_MAX + 5))
    assert len(tally.first_tokens) == FIRST_TOKENS_MAX
    assert tally.first_tokens[0] == 5


def one_slot() -> Scene:
    scene = serving(model("m"))
    scene.seen("b1", resident("m"))
    return scene


def test_a_broker_at_rest_has_no_pace() -> None:
    waits, work = take_waits(Scene().engine), take_work(Scene().engine)
    assert (waits.queue_wait, waits.first_token) == (NOTHING, NOTHING)
    assert (waits.queue_wait_of, work.streaming_since_ns, work.agents) == ({}, {}, ())


def test_waits_count_from_arrival_to_start_by_priority() -> None:
    scene = one_slot()
    before = take_waits(scene.engine).queue_wait.count
    scene.turn(arrived("first", priority=2))
    scene.turn(arrived("second", priority=7))
    scene.now_ns += 3 * SECOND_NS
    scene.ends("first")
    pace = take_waits(scene.engine)
    assert pace.queue_wait_of[2].p99_ns == 0
    assert pace.queue_wait_of[7] == WaitView(count=1, p50_ns=3 * SECOND_NS, p99_ns=3 * SECOND_NS)
    assert pace.queue_wait.count == before + 2
    assert pace.queue_wait.p99_ns == 3 * SECOND_NS


def test_a_first_token_is_waited_for_since_arrival() -> None:
    scene = one_slot()
    scene.turn(arrived("runs"))
    arrived_ns = scene.now_ns
    assert take_work(scene.engine).streaming_since_ns == {}
    scene.now_ns += 2 * SECOND_NS
    scene.turn(FirstToken(scene.attempt("runs")))
    assert take_waits(scene.engine).first_token.p99_ns == 2 * SECOND_NS
    assert take_work(scene.engine).streaming_since_ns == {("a", "runs"): arrived_ns + 2 * SECOND_NS}
    scene.turn(cancel("runs"))
    assert take_work(scene.engine).streaming_since_ns == {}


def test_agents_with_most_work_come_first() -> None:
    scene = one_slot()
    for index in range(3):
        scene.turn(arrived(f"b{index}", agent="busy"))
    scene.turn(arrived("q", agent="quiet"))
    first, second = take_work(scene.engine).agents
    assert (first.agent_id, first.queued, first.running) == ("busy", 2, 1)
    assert (second.agent_id, second.queued, second.running) == ("quiet", 1, 0)


def test_whose_cancelled_work_may_still_run_is_at_work() -> None:
    scene = one_slot()
    scene.turn(arrived("r"))
    scene.turn(cancel("r"))
    (agent,) = take_work(scene.engine).agents
    assert (agent.agent_id, agent.queued, agent.running) == ("a", 0, 1)
    scene.ends("r")
    assert take_work(scene.engine).agents == ()


def lines_run(look: Callable[[], object]) -> int:
    """How many lines of Python a call runs: what it costs, without a clock. Not what garbage of
    other tests runs when it is collected meanwhile."""
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    gc.collect()
    gc.disable()
    sys.settrace(trace)
    try:
        look()
    finally:
        sys.settrace(before)
        gc.enable()
    return lines


def test_who_is_only_remembered_costs_nothing() -> None:
    scene = one_slot()
    scene.turn(arrived("r", agent="busy"))
    few = lines_run(lambda: take_work(scene.engine))
    for index in range(200):
        scene.turn(arrived("r", agent=f"gone{index}", deadline_ns=0))
    assert len(scene.engine.agents) > 200
    assert lines_run(lambda: take_work(scene.engine)) == few > 0


def test_only_so_many_agents_are_named() -> None:
    scene = one_slot()
    for index in range(AGENTS_SHOWN_MAX + 5):
        scene.turn(arrived("r", agent=f"a{index:03}"))
    agents = take_work(scene.engine).agents
    assert len(agents) == AGENTS_SHOWN_MAX
    assert agents[0] == AgentWorkView(
        agent_id="a000", agent_type=agents[0].agent_type, queued=0, running=1
    )


def test_waits_are_believed_for_a_while_and_work_never() -> None:
    scene = Scene()
    pace = Pace(scene.engine)
    assert pace.waits(5).first_token.count == 0
    scene.engine.tally.first_tokens.append(7)
    assert pace.waits(4 + WAITS_AGE_NS_MAX).first_token.count == 0
    assert pace.waits(5 + WAITS_AGE_NS_MAX).first_token == WaitView(count=1, p50_ns=7, p99_ns=7)
    busy = one_slot()
    pace = Pace(busy.engine)
    assert pace.work().agents == ()
    busy.turn(arrived("r"))
    assert len(pace.work().agents) == 1
