"""The gates on the way in: their order, and that what one refuses leaves nothing behind."""

from __future__ import annotations

from broker.core.agent_policy import AgentsPolicy, BucketPolicy
from broker.core.effects import Admit, Refuse
from broker.core.queueing import QueuePolicy
from broker.core.requests import Outcome
from broker.core.stimuli import BlockAsked, CancelAsked, CancelCause, DrainAsked, ResumeAsked, Scope
from tests.unit.core.gate_words import is_let_in, kind, refused
from tests.unit.core.scene import (
    MINUTE_NS,
    SECOND_NS,
    Scene,
    arrived,
    model,
    nothing_remains,
    of,
    serving,
)


def strict() -> Scene:
    """Every gate has a reason to refuse "a": it is blocked and has used up its requests and its
    tokens, the queue is full, and answers take ten seconds."""
    tokens = BucketPolicy(per_minute=60, burst=100)
    types = (kind("a", "a", per_minute=6, burst=2, tokens=tokens), kind("any", "*"))
    scene = serving(
        model("m", num_ctx=4096),
        queue=QueuePolicy(queued_max=1, room_max=0),
        agents=AgentsPolicy(types=types),
        first_agent="x",
    )
    scene.measured(10 * SECOND_NS, agent="x", prompt_tokens=25, output_tokens=10)
    for name in ("r1", "r2"):
        scene.turn(arrived(name, agent="a", deadline_ns=scene.now_ns + MINUTE_NS))
    for name in ("r1", "r2"):
        scene.ends(name, agent="a", prompt_tokens=100, output_tokens=50)
    for name in ("running", "queued"):
        scene.turn(arrived(name, agent="x", deadline_ns=scene.now_ns + 60 * MINUTE_NS))
    scene.turn(BlockAsked(scope=Scope(agent_id="a")))
    return scene


def test_the_gates_stand_in_their_order() -> None:
    """A request that every gate would refuse hears the first, then the second, and so on."""
    scene = strict()

    def reason(left_ns: int, num_ctx_needed: int = 0) -> str:
        at_ns = scene.now_ns + left_ns
        word = arrived("r", agent="a", deadline_ns=at_ns, num_ctx_needed=num_ctx_needed)
        return refused(scene.turn(word)).reason

    heard = [reason(0, 99_999)]
    scene.turn(ResumeAsked(Scope(agent_id="a")))
    heard.append(reason(0, 99_999))
    heard.append(reason(SECOND_NS, 99_999))
    heard.append(reason(SECOND_NS))
    scene.wait(10 * SECOND_NS)  # one request has come back; the debt of tokens is paid later
    heard.append(reason(SECOND_NS))
    scene.wait(5 * MINUTE_NS)
    heard.append(reason(SECOND_NS))
    scene.turn(CancelAsked(("x", "queued"), CancelCause.BY_AGENT))
    heard.append(reason(SECOND_NS))
    assert heard == [
        "AGENT_BLOCKED",
        "DEADLINE_EXPIRED",
        "INVALID_FIELD",
        "RATE_LIMITED",
        "TOKENS_EXHAUSTED",
        "QUEUE_FULL",
        "DEADLINE_EXPIRED",  # by what was measured: it will
    ]


def test_an_id_in_use_is_told_before_anything_else_and_a_leaving_broker_next() -> None:
    scene = strict()
    scene.turn(DrainAsked(scene.now_ns + MINUTE_NS))
    other = arrived("queued", agent="x", content=b"other", deadline_ns=0)
    assert refused(scene.turn(other)).reason == "REQUEST_ID_IN_USE"
    assert refused(scene.turn(arrived("r", agent="a", deadline_ns=0))).reason == "DRAINING"


def test_a_refusal_is_the_only_effect_and_nothing_of_the_request_remains() -> None:
    scene = strict()
    scene.turn(ResumeAsked(Scope(agent_id="a")))
    scene.wait(6 * MINUTE_NS)
    before = (len(scene.engine.records), len(scene.engine.timers), len(scene.engine.agents))
    for number in range(50):
        at_ns = scene.now_ns + MINUTE_NS
        effects = scene.turn(arrived(f"r{number}", agent="a", deadline_ns=at_ns))
        assert [type(each) for each in effects] == [Refuse]
    after = (len(scene.engine.records), len(scene.engine.timers), len(scene.engine.agents))
    assert before == after
    assert scene.engine.tally.outcomes[Outcome.REFUSED] == 50


def test_every_refusal_that_may_pass_says_when_to_come_again() -> None:
    scene = strict()
    scene.turn(ResumeAsked(Scope(agent_id="a")))
    for minutes in (0, 1, 6):
        scene.wait(minutes * MINUTE_NS)
        at_ns = scene.now_ns + SECOND_NS
        error = refused(scene.turn(arrived("r", agent="a", deadline_ns=at_ns)))
        assert error.retryable
        assert error.retry_after_ns
        assert error.retry_after_ns > 0


def test_a_refused_id_may_be_used_again_with_whatever_content() -> None:
    scene = strict()
    refused(scene.turn(arrived("r", agent="y", deadline_ns=0)))
    scene.turn(CancelAsked(("x", "queued"), CancelCause.BY_AGENT))
    at_ns = scene.now_ns + MINUTE_NS
    effects = scene.turn(arrived("r", agent="y", content=b"other", deadline_ns=at_ns))
    assert is_let_in(effects)
    assert [each.key for each in of(effects, Admit)] == [("y", "r")]
    scene.order()
    assert nothing_remains(scene)
