"""A phase that takes too long: what its client hears on the wire, or gets instead."""

from __future__ import annotations

import grpc
import pytest

from broker.config.machine import DegradationConfig
from broker.config.resilience import RetriesConfig, TimeoutsConfig
from broker.config.schema import Config
from broker_client.pb.broker.v1 import inference_pb2 as pb
from tests.integration.daemon import (
    BACKEND,
    FREE_PORTS,
    QUICK,
    read_until,
    refused,
    running_daemon,
    text_of,
)
from tests.integration.wire_requests import embed, generate

CONFIG = Config(
    server=FREE_PORTS,
    backends=(BACKEND,),
    retries=RetriesConfig(tries_max=1),
    degradation=DegradationConfig(
        automatic=False,
        default_answer="later, please",
        default_answers={"summary": "There is no summary at the moment."},
    ),
    **QUICK,
)
SOON = pb.Timeouts(first_token_ms=50)


async def test_a_phase_that_took_too_long_is_named() -> None:
    async with running_daemon(CONFIG) as daemon:
        refusal = await refused(daemon.inference.Generate(generate(timeouts=SOON)))
        assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (refusal.reason, refusal.about["phase"]) == ("TIMED_OUT", "first_token")
        assert refusal.about["sent_pieces"] == "0"
        assert (await daemon.backend.calls.get()).aborted


async def test_a_gap_that_is_too_long_says_how_much_was_sent() -> None:
    async with running_daemon(CONFIG) as daemon:
        timeouts = pb.Timeouts(token_gap_ms=50)
        stream = daemon.inference.Generate(generate(timeouts=timeouts))
        await read_until(stream, "started")
        (await daemon.backend.calls.get()).say("one, ")
        refusal = await refused(stream)
        assert (refusal.reason, refusal.about["phase"]) == ("TIMED_OUT", "token_gap")
        assert refusal.about["sent_pieces"] == "1"


async def test_the_operators_own_limit_holds_where_the_caller_says_nothing() -> None:
    config = CONFIG.model_copy(update={"timeouts": TimeoutsConfig(first_token_s=0.05)})
    async with running_daemon(config) as daemon:
        refusal = await refused(daemon.inference.Generate(generate()))
        assert (refusal.reason, refusal.about["phase"]) == ("TIMED_OUT", "first_token")


async def test_an_embedding_has_time_outs_of_its_own() -> None:
    async with running_daemon(CONFIG) as daemon:
        daemon.backend.may_embed.clear()
        refusal = await refused(daemon.inference.Embed(embed(timeouts=SOON)))
        assert (refusal.reason, refusal.about["phase"]) == ("TIMED_OUT", "first_token")


@pytest.mark.parametrize(
    ("prompt_type", "answer"),
    [
        ("summary", "There is no summary at the moment."),
        ("", "later, please"),
        ("something/else", "later, please"),
    ],
)
async def test_who_takes_a_default_answer_gets_the_one_for_its_kind_of_prompt(
    prompt_type: str, answer: str
) -> None:
    async with running_daemon(CONFIG) as daemon:
        request = generate(timeouts=SOON, accept_default=True, prompt_type=prompt_type)
        events = await read_until(daemon.inference.Generate(request), "done")
        assert text_of(events) == answer
        started = [each.started for each in events if each.WhichOneof("event") == "started"][-1]
        assert (started.model, started.backend) == ("", "")
        assert any("default answer" in each for each in started.changes)
        assert events[-1].done.cached
