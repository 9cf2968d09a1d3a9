"""Buckets of model tokens: reserved by estimate, settled by what was counted, in debt at worst."""

from __future__ import annotations

import pytest

from broker.core.agent_policy import AgentsPolicy, AgentTypePolicy, BucketPolicy
from broker.core.errors import BackendRefused, BackendUnreachable, BrokerError, TokenQuotaExceeded
from broker.core.queueing import QueuePolicy
from broker.core.stimuli import BoostAsked, CancelAsked, CancelCause, Scope
from tests.unit.core.gate_words import is_let_in, kind, refused
from tests.unit.core.scene import MINUTE_NS, SECOND_NS, Scene, arrived, model, serving

HUNDRED = BucketPolicy(per_minute=60, burst=100)  # one a second


def house(
    *types: AgentTypePolicy,
    tokens: BucketPolicy | None = None,
    queue: QueuePolicy | None = None,
) -> Scene:
    """A broker that has m loaded and these types; "free" agents have no buckets of their own."""
    policy = AgentsPolicy(types=(*types, kind("free", "free*")), tokens=tokens)
    return serving(model("m"), agents=policy, queue=queue, first_agent="free")


def knowing() -> Scene:
    """It was measured that a request of 100 bytes needs 30 tokens, 10 of them for its prompt."""
    scene = house(kind("metered", "metered*", tokens=HUNDRED))
    scene.measured(agent="free", samples=100, prompt_tokens=10, output_tokens=21)
    return scene


def left(scene: Scene, agent: str = "metered", bucket: str = "tokens") -> float:
    quota = scene.engine.agents.quota(agent, 0, scene.now_ns)
    return next(each.left for each in quota.buckets if each.name == bucket)


def asks(scene: Scene, name: str, agent: str = "metered", size_bytes: int = 100) -> bool:
    later_ns = scene.now_ns + 60 * MINUTE_NS
    word = arrived(name, agent=agent, deadline_ns=later_ns, size_bytes=size_bytes)
    return is_let_in(scene.turn(word))


def uses(scene: Scene, name: str, tokens: int, agent: str = "metered") -> None:
    """The request completes, and so many tokens were counted."""
    scene.ends(name, agent=agent, prompt_tokens=1, output_tokens=tokens - 1)


def refusal(scene: Scene, name: str, agent: str = "metered") -> TokenQuotaExceeded:
    later_ns = scene.now_ns + 60 * MINUTE_NS
    error = refused(scene.turn(arrived(name, agent=agent, deadline_ns=later_ns)))
    assert isinstance(error, TokenQuotaExceeded)
    return error


def test_what_a_request_will_use_is_reserved_when_it_is_let_in() -> None:
    scene = knowing()
    assert asks(scene, "r1")
    assert left(scene) == 70
    assert asks(scene, "r2", size_bytes=300)  # three times the prompt
    assert left(scene) == 20


def test_before_twenty_samples_next_to_nothing_is_reserved_and_the_use_is_settled_after() -> None:
    scene = house(kind("metered", "metered", tokens=HUNDRED))
    assert asks(scene, "r")
    assert left(scene) == 99
    scene.ends("r", agent="metered", prompt_tokens=11, output_tokens=22)
    assert left(scene) == 67


def test_what_was_not_used_comes_back_at_the_end() -> None:
    scene = knowing()
    asks(scene, "r")
    scene.ends("r", agent="metered", prompt_tokens=4, output_tokens=1)
    assert left(scene) == 95


def test_what_was_used_beyond_the_estimate_is_a_debt_in_which_nothing_is_let_in() -> None:
    scene = knowing()
    asks(scene, "r")
    error: BrokerError = BackendRefused("broke", status=400)  # of which no estimate is made
    scene.ends("r", error, agent="metered", prompt_tokens=100, output_tokens=60)
    assert left(scene) == -60
    error = refusal(scene, "r2")
    assert error.message.startswith("this needs about 30 tokens, of 60 a minute, 100 at once")
    assert error.retry_after_ns == 90 * SECOND_NS


def test_who_comes_back_when_it_was_told_finds_its_debt_paid() -> None:
    scene = knowing()
    asks(scene, "r")
    uses(scene, "r", 160)
    retry_after_ns = refusal(scene, "r2").retry_after_ns
    assert retry_after_ns
    scene.wait(retry_after_ns - 1)
    assert refusal(scene, "r2").retry_after_ns == 1
    scene.wait(1)
    assert asks(scene, "r2")


def test_in_debt_nothing_is_let_in_though_nothing_is_known_of_what_it_needs() -> None:
    scene = house(kind("metered", "metered", tokens=HUNDRED))
    asks(scene, "r")
    uses(scene, "r", 150)
    assert refusal(scene, "r2").retry_after_ns == 51 * SECOND_NS


def test_a_request_larger_than_the_burst_needs_a_full_bucket_and_leaves_a_debt() -> None:
    scene = knowing()
    assert asks(scene, "huge", size_bytes=10_000)
    assert left(scene) == -920
    assert not asks(scene, "r")
    scene.ends("huge", agent="metered", prompt_tokens=1000, output_tokens=20)
    assert left(scene) == -920


def test_the_token_bucket_of_a_type_bounds_its_agents_together() -> None:
    scene = house(kind("metered", "metered-*", all_tokens=HUNDRED))
    asks(scene, "r", agent="metered-1")
    uses(scene, "r", 130, agent="metered-1")
    assert refusal(scene, "r", agent="metered-2").retry_after_ns == 31 * SECOND_NS
    assert asks(scene, "r", agent="free")


def test_the_token_bucket_of_everybody_bounds_all_types_together() -> None:
    scene = house(kind("metered", "metered"), tokens=HUNDRED)
    asks(scene, "r")
    uses(scene, "r", 75)  # the first request had used 25, by its size
    assert refusal(scene, "r", agent="free").retry_after_ns == SECOND_NS


def test_what_a_shared_bucket_of_tokens_refuses_is_not_taken_from_the_agents_own() -> None:
    policy = kind("metered", "metered-*", per_minute=9, tokens=HUNDRED, all_tokens=HUNDRED)
    scene = house(policy)
    asks(scene, "r", agent="metered-1")
    uses(scene, "r", 150, agent="metered-1")
    scene.turn(arrived("r", agent="metered-2"))
    assert left(scene, "metered-2") == 100
    assert left(scene, "metered-2", "requests") == 9
    assert left(scene, "metered-2", "type_tokens") == -50


def test_the_time_told_is_that_of_the_slowest_of_all_token_buckets() -> None:
    slow = BucketPolicy(per_minute=1, burst=100)
    scene = house(kind("metered", "metered", tokens=HUNDRED, all_tokens=slow))
    asks(scene, "r")
    uses(scene, "r", 110)
    retry_after_ns = refusal(scene, "r2").retry_after_ns
    assert retry_after_ns == 11 * MINUTE_NS
    scene.wait(retry_after_ns)
    assert asks(scene, "r2")


def test_a_cancelled_request_that_never_ran_has_used_no_tokens() -> None:
    scene = knowing()
    asks(scene, "running", agent="free")
    asks(scene, "r")
    scene.turn(CancelAsked(("metered", "r"), CancelCause.BY_AGENT))
    assert left(scene) == 100


def test_a_cancelled_request_pays_for_what_it_used_once_its_call_has_ended() -> None:
    scene = knowing()
    asks(scene, "r")
    scene.turn(CancelAsked(("metered", "r"), CancelCause.BY_AGENT))
    assert left(scene) == 70
    scene.ends("r", agent="metered", prompt_tokens=10, output_tokens=5)
    assert left(scene) == 85


def test_a_failed_request_pays_for_what_it_used() -> None:
    scene = knowing()
    asks(scene, "r")
    error = BackendRefused("broke", status=400)
    scene.ends("r", error, agent="metered", prompt_tokens=10, output_tokens=2)
    assert left(scene) == 88


def test_a_request_that_comes_back_keeps_its_reservation_and_pays_once() -> None:
    scene = knowing()
    asks(scene, "r")
    scene.ends("r", BackendUnreachable("refused"), agent="metered")
    assert left(scene) == 70
    scene.up("b1")
    scene.ends("r", agent="metered", prompt_tokens=10, output_tokens=20)
    assert left(scene) == 70


def test_what_a_full_queue_refuses_gets_its_tokens_back() -> None:
    scene = house(kind("metered", "metered", tokens=HUNDRED), queue=QueuePolicy(queued_max=1))
    for name in ("running", "waiting"):
        asks(scene, name, agent="free")
    assert not asks(scene, "r")
    assert left(scene) == 100


def test_however_far_an_operator_lowers_a_rate_the_bucket_lets_somebody_in_one_day() -> None:
    scene = house(kind("metered", "metered", tokens=HUNDRED))
    asks(scene, "r")
    uses(scene, "r", 100)
    scene.turn(BoostAsked(scope=Scope(agent_id="metered"), rate_factor=0.001))
    retry_after_ns = refusal(scene, "r2").retry_after_ns
    assert retry_after_ns == 1000 * SECOND_NS
    scene.wait(retry_after_ns)
    assert asks(scene, "r2")


@pytest.mark.parametrize("factor", [0.1, 100.0])
def test_a_burst_that_changes_meanwhile_neither_gives_nor_takes_tokens(factor: float) -> None:
    scene = knowing()
    asks(scene, "r", size_bytes=2_000)
    assert left(scene) == -120
    scene.turn(BoostAsked(scope=Scope(agent_id="metered"), rate_factor=factor))
    scene.ends("r", agent="metered", prompt_tokens=200, output_tokens=30)
    assert left(scene) == -130
