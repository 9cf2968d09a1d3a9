"""Calls become requests of the engine: their ids and their deadlines."""

from __future__ import annotations

import pytest

from broker.core.content import EmbedContent, GenerateContent, Prompt
from broker.core.errors import DeadlineExpired, RequestUnknown
from broker.core.requests import Criticality, RequestKind, RequestSpec
from broker.services.inference import DeadlinePolicy, InferenceService, Submission
from tests.integration.shell import Shell, running_shell

S = 1_000_000_000
POLICY = DeadlinePolicy(default_ns=600 * S, max_ns=1000 * S)


def call(
    request_id: str = "", remaining_s: float | None = None, *, embeds: bool = False
) -> Submission:
    content = EmbedContent(inputs=("x",)) if embeds else GenerateContent(input=Prompt(text="x"))
    return Submission(
        request_id=request_id,
        agent_id="opus-1",
        model="m",
        fallback_models=(),
        content=content,
        priority=5,
        criticality=Criticality.NORMAL,
        preemptible=False,
        fingerprint=b"f",
        size_bytes=1000,
        text_bytes=1,
        num_ctx_needed=0,
        needs=frozenset(),
        remaining_s=remaining_s,
        output_tokens_max=7,
    )


def service(shell: Shell) -> InferenceService:
    return InferenceService(shell.driver, POLICY)


def spec_of(shell: Shell) -> RequestSpec:
    (record,) = shell.engine.records.values()
    return record.spec


@pytest.mark.parametrize(
    ("remaining_s", "lasts_s"),
    [
        (None, 600),
        (10.0, 9.9),  # the broker speaks a tenth of a second before the client's own timer
        (0.5, 0.45),  # of a short deadline that would be too much: a tenth of it
        (86_400.0, 999.9),
        (float("inf"), 999.9),
    ],
)
async def test_the_deadline_lies_shortly_before_the_callers_own(
    monkeypatch: pytest.MonkeyPatch, remaining_s: float | None, lasts_s: float
) -> None:
    async with running_shell() as shell:
        now_ns = shell.driver.now_ns()
        monkeypatch.setattr(shell.driver, "now_ns", lambda: now_ns)
        subscription = service(shell).submit(call(remaining_s=remaining_s))
        assert spec_of(shell).deadline_ns - now_ns == int(lasts_s * S)
        service(shell).leave(subscription)


async def test_the_engine_hears_how_much_is_text_and_how_much_is_asked_for() -> None:
    async with running_shell() as shell:
        reader = service(shell).submit(call())
        spec = spec_of(shell)
        assert (spec.size_bytes, spec.prompt_bytes, spec.output_tokens_max) == (1000, 1, 7)
        service(shell).leave(reader)


async def test_a_deadline_that_has_passed_is_told_at_once() -> None:
    async with running_shell() as shell:
        with pytest.raises(DeadlineExpired):
            service(shell).submit(call(remaining_s=0.0))
        with pytest.raises(DeadlineExpired):
            service(shell).submit(call(remaining_s=-5.0))
        assert shell.backend.calls.empty()


async def test_ids_are_drawn_for_those_that_bring_none() -> None:
    async with running_shell() as shell:
        one = service(shell)
        readers = [one.submit(call()), one.submit(call()), one.submit(call("mine"))]
        ids = [each.stream.key[1] for each in readers]
        assert ids[2] == "mine"
        assert len({*ids}) == 3
        other = service(shell).submit(call())
        assert other.stream.key[1].partition("-")[0] != ids[0].partition("-")[0]
        for each in (*readers, other):
            one.leave(each)


async def test_an_embedding_is_one() -> None:
    async with running_shell() as shell:
        reader = service(shell).submit(call(embeds=True))
        assert spec_of(shell).kind is RequestKind.EMBED
        service(shell).leave(reader)


async def test_only_what_is_under_way_can_be_cancelled() -> None:
    async with running_shell() as shell:
        one = service(shell)
        with pytest.raises(RequestUnknown, match="'opus-1' has no request 'mine'"):
            one.cancel("opus-1", "mine")
        reader = one.submit(call("mine"))
        with pytest.raises(RequestUnknown):
            one.cancel("opus-2", "mine")
        assert one.cancel("opus-1", "mine") in ("queued", "dispatched")
        one.leave(reader)
