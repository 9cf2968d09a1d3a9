"""Feasibility: what will surely miss its deadline is refused at once, on measurements only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.core.admission import GateName
from broker.core.backpressure import RETRY_AFTER_NS_MAX, RETRY_AFTER_NS_MIN
from broker.core.errors import BackendRefused, DeadlineExpired, DeadlineInfeasible
from broker.core.estimates import SAMPLES_MIN
from broker.core.queueing import AgentOrder, QueuePolicy
from broker.core.requests import RequestKind
from broker.core.stimuli import Arrived, ModelsListed, PolicyChanged
from broker.core.story import explain
from broker.core.time_outs import NO_TIME_OUTS, TimeOutPolicy, TimeOuts
from tests.unit.core.gate_words import is_let_in, refused
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    busy,
    model,
    request,
    serving,
)

SERVICE_NS = 10 * SECOND_NS


def measured(*, slots: int = 1, queue: QueuePolicy | None = None) -> Scene:
    """A request of m takes ten seconds, as was measured; of n nothing is known."""
    scene = Scene(queue=queue)
    scene.open("b1", model("m", slots=slots), model("n"))
    scene.turn(arrived("first"))
    scene.loaded("m")
    scene.wait(SERVICE_NS)
    scene.ends("first")
    scene.measured(SERVICE_NS)
    return scene


def within(scene: Scene, name: str, left_ns: int, agent: str = "a", of_model: str = "m") -> bool:
    """A request with so much time left: is it let in?"""
    at_ns = scene.now_ns + left_ns
    return is_let_in(scene.turn(arrived(name, agent=agent, model=of_model, deadline_ns=at_ns)))


def refusal(scene: Scene, name: str, left_ns: int, agent: str = "a") -> DeadlineInfeasible:
    error = refused(scene.turn(arrived(name, agent=agent, deadline_ns=scene.now_ns + left_ns)))
    assert isinstance(error, DeadlineInfeasible)
    return error


@pytest.mark.parametrize("late_ns", [0, 1])
def test_a_deadline_that_has_passed_is_refused(late_ns: int) -> None:
    scene = busy()
    scene.wait(MINUTE_NS)
    error = refused(scene.turn(arrived("r", deadline_ns=scene.now_ns - late_ns)))
    assert isinstance(error, DeadlineExpired)
    assert not error.retryable


def test_before_twenty_samples_nothing_is_judged() -> None:
    scene = serving(model("m"))  # which was the first sample
    scene.measured(SERVICE_NS, samples=SAMPLES_MIN - 2)
    assert within(scene, "r1", 1)
    scene.ends("r1")
    assert not within(scene, "r2", 1)


def test_what_is_known_of_one_model_says_nothing_of_another() -> None:
    assert within(measured(), "r", 1, of_model="n")


def test_only_what_would_be_late_at_twice_the_measured_speed_is_refused() -> None:
    scene = measured()
    assert not within(scene, "r1", SERVICE_NS // 2 - SECOND_NS)
    assert within(scene, "r2", SERVICE_NS // 2 + SECOND_NS)


def test_the_margin_is_the_operators() -> None:
    assert not within(measured(queue=QueuePolicy(deadline_margin=1)), "r", 9 * SECOND_NS)
    assert within(measured(queue=QueuePolicy(deadline_margin=100)), "r", SECOND_NS)


def test_the_refusal_says_what_is_left_what_it_takes_and_when_to_come_again() -> None:
    scene = measured()
    for name in ("running", "r1", "r2"):
        assert within(scene, name, 10 * MINUTE_NS)
    error = refusal(scene, "r", 9 * SECOND_NS)
    assert error.message == (
        "9.0 s are left, and by what was measured an answer takes 30.0 s "
        "(2 requests of this agent are before it)"
    )
    assert error.retryable
    assert error.retry_after_ns == pytest.approx(30 / 2 * SECOND_NS - 9 * SECOND_NS)


def test_the_time_told_is_within_bounds() -> None:
    scene = measured()
    for number in range(40):
        within(scene, f"r{number}", 20 * MINUTE_NS)
    assert refusal(scene, "r", SERVICE_NS).retry_after_ns == RETRY_AFTER_NS_MAX
    scene = measured()
    for name in ("running", "r1"):
        within(scene, name, 20 * MINUTE_NS)
    assert refusal(scene, "r", SERVICE_NS - 1000).retry_after_ns == RETRY_AFTER_NS_MIN


def test_what_takes_longer_than_is_left_when_alone_is_told_so_for_good() -> None:
    """Whoever came again later would have less time left."""
    scene = measured()
    for name in ("running", "r1", "r2"):
        assert within(scene, name, 20 * MINUTE_NS)
    error = refused(scene.turn(arrived("r", deadline_ns=scene.now_ns + SECOND_NS)))
    assert isinstance(error, DeadlineExpired)
    assert not error.retryable
    assert error.retry_after_ns is None
    assert error.message == ("1.0 s are left, and by what was measured an answer takes 10.0 s")


@pytest.mark.parametrize("whose", ["the house's", "the model's", "its own"])
def test_a_time_out_for_the_whole_is_a_deadline_as_well(whose: str) -> None:
    """What would surely run into it takes no slot from others."""
    scene, tight = measured(), TimeOuts(total_ns=SECOND_NS)
    if whose != "its own":
        of_all = tight if whose == "the house's" else NO_TIME_OUTS
        by_model = {"m:latest": tight} if whose == "the model's" else {}
        time_outs = TimeOutPolicy(of_all=of_all, by_model=by_model)
        scene.turn(PolicyChanged(replace(scene.engine.policy, time_outs=time_outs)))
    spec = request("r", deadline_ns=scene.now_ns + 20 * MINUTE_NS)
    own = tight if whose == "its own" else NO_TIME_OUTS
    error = refused(scene.turn(Arrived(replace(spec, time_outs=own))))
    assert error.message == "1.0 s are left, and by what was measured an answer takes 10.0 s"


def test_only_the_agents_own_earlier_requests_are_surely_before_it() -> None:
    scene = measured()
    for number in range(20):
        assert within(scene, f"r{number}", 20 * MINUTE_NS)
    assert not within(scene, "mine", 30 * SECOND_NS)
    assert within(scene, "anothers", 30 * SECOND_NS, agent="b")


def test_of_the_agents_own_only_those_of_the_same_priority_are_surely_before_it() -> None:
    scene = measured()
    for number in range(20):
        assert within(scene, f"r{number}", 20 * MINUTE_NS)
    at_ns = scene.now_ns + 30 * SECOND_NS
    assert is_let_in(scene.turn(arrived("urgent", priority=1, deadline_ns=at_ns)))


def test_of_the_agents_own_only_those_as_short_are_surely_before_it() -> None:
    """What is longer is passed by what comes soon after it; in order of arrival it is not."""
    for order, is_in_time in ((AgentOrder.SIZE, True), (AgentOrder.ARRIVAL, False)):
        scene = measured(queue=QueuePolicy(agent_order=order))
        for number in range(20):
            assert asks(scene, f"r{number}", 60 * MINUTE_NS, size_bytes=3_000)
        assert asks(scene, "short", 30 * SECOND_NS, size_bytes=10) is is_in_time


def test_by_deadline_no_earlier_request_is_surely_before_it() -> None:
    """The one that has least time goes first, so those with more do not count."""
    scene = measured(queue=QueuePolicy(agent_order=AgentOrder.DEADLINE))
    for number in range(20):
        assert within(scene, f"r{number}", 20 * MINUTE_NS)
    assert within(scene, "r", 30 * SECOND_NS)
    scene.end_one()
    assert scene.attempt("r")


def test_several_slots_work_at_once() -> None:
    scene = measured(slots=4)
    for number in range(4 + 8):
        assert within(scene, f"r{number}", 20 * MINUTE_NS)
    assert within(scene, "feasible", 16 * SECOND_NS)
    assert not within(scene, "late", 14 * SECOND_NS)


def test_what_was_measured_is_forgotten_with_its_model() -> None:
    scene = measured()
    scene.turn(ModelsListed("b1", (model("m", runner="newer"),)))
    assert within(scene, "r", 1)


def asks(scene: Scene, name: str, left_ns: int, **changes: Any) -> bool:
    """A request that is like the usual ones but for this: is it let in?"""
    spec = request(name, deadline_ns=scene.now_ns + left_ns)
    return is_let_in(scene.turn(Arrived(replace(spec, **changes))))


def test_what_every_call_costs_is_not_multiplied_by_the_length_of_a_prompt() -> None:
    """Measured were prompts of 12 tokens, whose 60 ms are all overhead."""
    scene = serving(model("m"))
    scene.measured(SECOND_NS, samples=30, prompt_tokens=12, output_tokens=20)
    assert asks(scene, "long", 20 * SECOND_NS, size_bytes=100_000)


def test_of_a_short_prompt_less_is_expected() -> None:
    scene = serving(model("m"))
    scene.measured(SERVICE_NS, samples=40, prompt_tokens=25, output_tokens=11)
    assert not asks(scene, "usual", 4 * SECOND_NS)
    assert asks(scene, "short", 4 * SECOND_NS, size_bytes=10)


def test_what_asks_for_few_tokens_is_expected_to_be_short() -> None:
    scene = serving(model("m"))
    scene.measured(MINUTE_NS, samples=25, prompt_tokens=1, output_tokens=101)
    assert not asks(scene, "usual", 20 * SECOND_NS)
    assert not asks(scene, "no less than usual", 20 * SECOND_NS, output_tokens_max=1000)
    assert asks(scene, "r", 20 * SECOND_NS, output_tokens_max=1)


def test_few_tokens_are_not_judged_by_whole_answers_where_rates_are_unknown() -> None:
    scene = serving(model("m"))
    scene.measured(MINUTE_NS, samples=25, output_tokens=101)
    assert not asks(scene, "usual", 20 * SECOND_NS)
    assert asks(scene, "r", 20 * SECOND_NS, output_tokens_max=1)
    gates = {each.name: each for each in explain(scene.engine, ("a", "r"), scene.now_ns).gates}
    words = "not judged: nothing was measured that tells of so short an answer"
    assert gates[GateName.FEASIBILITY].detail == words


def test_what_is_known_of_answers_says_nothing_of_embeddings() -> None:
    scene = measured()
    assert asks(scene, "r", SECOND_NS, kind=RequestKind.EMBED)
    assert not asks(scene, "usual", SECOND_NS)


def test_bytes_that_are_no_text_are_no_tokens() -> None:
    scene = serving(model("m"))
    scene.measured(SERVICE_NS, samples=40, prompt_tokens=25, output_tokens=11)
    picture = replace(request("r"), size_bytes=1_000_000, text_bytes=100, output_tokens_max=5)
    assert scene.engine.estimates.tokens("blob-m", picture) == 25 + 5
    assert scene.engine.estimates.tokens("blob-m", request("r")) > 25 + 5


def test_a_picture_whose_call_was_cut_off_is_charged_for_its_text() -> None:
    scene = serving(model("m"))
    assert asks(scene, "r", MINUTE_NS, size_bytes=1_000_000, text_bytes=100)
    scene.ends("r", BackendRefused("broke", status=400))
    agent = scene.engine.agents.find("a")
    assert agent is not None
    assert agent.served_cost == 25 + 25  # with the first, which nobody counted either


@pytest.mark.parametrize("count", [-5, 10**400])
def test_a_count_that_cannot_be_harms_no_estimate(count: int) -> None:
    scene = serving(model("m"))
    scene.measured(SERVICE_NS, samples=40, prompt_tokens=count, output_tokens=count)
    assert asks(scene, "r", MINUTE_NS)
    assert scene.engine.estimates.tokens("blob-m", request("r")) >= 0
