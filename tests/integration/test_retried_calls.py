"""A call that came to nothing, on a real loop: made again, given up, or answered by default."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from broker.core.content import GenerateContent, Prompt
from broker.core.effects import TellQueued, WaitReason
from broker.core.errors import BackendFailed
from broker.core.observer import Observer
from broker.core.requests import Criticality, RequestKind, RequestSpec
from broker.core.stimuli import PolicyChanged
from broker.core.time_outs import TimeOuts
from broker.core.views import AttemptReport
from broker.runtime.driver import DriverLimits
from broker.runtime.pieces import Pieces
from broker.runtime.streams import Done, Requeued, Started, StreamEvent, Subscription
from tests.integration.shell import Shell, read, running_shell

MS_NS = 1_000_000
MINUTE_NS = 60_000 * MS_NS
BROKEN = BackendFailed("the stream ended without its terminator")


class Notes(Observer):
    """What was told of attempts."""

    def __init__(self) -> None:
        self.reports: list[AttemptReport] = []

    def attempt_failed(self, report: AttemptReport) -> None:
        self.reports.append(report)


@asynccontextmanager
async def shell_with_answers(tries_max: int, notes: Observer) -> AsyncIterator[Shell]:
    """Backoffs are short, and the operator has a general answer and one for summaries."""
    limits = DriverLimits(default_answer="later", default_answers={"summary": "none yet"})
    async with running_shell(limits=limits, observer=notes) as shell:
        policy = shell.engine.policy
        retry = replace(
            policy.retry, tries_max=tries_max, backoff_ns=5 * MS_NS, backoff_ns_max=5 * MS_NS
        )
        levels = replace(
            policy.degradation, has_default_answer=True, default_kinds=frozenset({"summary"})
        )
        shell.driver.feed(PolicyChanged(replace(policy, retry=retry, degradation=levels)))
        yield shell


def submit(
    shell: Shell, *, prompt_type: str = "", time_outs: TimeOuts | None = None
) -> Subscription:
    spec = RequestSpec(
        key=("agent-1", "r1"),
        fingerprint=b"same",
        kind=RequestKind.GENERATE,
        model="m:latest",
        priority=5,
        criticality=Criticality.NORMAL,
        deadline_ns=shell.driver.now_ns() + MINUTE_NS,
        size_bytes=10,
        accepts_default=True,
        prompt_type=prompt_type,
        time_outs=time_outs or TimeOuts(),
    )
    return shell.driver.submit(spec, GenerateContent(input=Prompt(text="hello")))


async def rest_of(reader: Subscription) -> list[StreamEvent]:
    return [event async for event in reader]


def text_of(events: list[StreamEvent]) -> str:
    return "".join(each.text for each in events if isinstance(each, Pieces))


async def test_a_call_that_failed_is_made_again_after_its_backoff() -> None:
    notes = Notes()
    async with shell_with_answers(2, notes) as shell:
        reader = submit(shell)
        (await shell.backend.calls.get()).fail(BROKEN)
        requeued = await read(reader, Requeued)
        assert isinstance(requeued, Requeued)
        assert requeued.reason == BROKEN.message
        (second := await shell.backend.calls.get()).say("hello")
        second.complete()
        events = await rest_of(reader)
        assert text_of(events) == "hello"
        assert isinstance(events[-1], Done)
        [report] = notes.reports
        assert (report.number, report.is_retried, report.backend) == (1, True, "b")
        shell.driver.leave(reader)


async def test_it_is_told_that_it_backs_off() -> None:
    async with shell_with_answers(2, Notes()) as shell:
        reader = submit(shell)
        (await shell.backend.calls.get()).fail(BROKEN)
        await read(reader, Requeued)
        told = await read(reader, TellQueued)
        assert isinstance(told, TellQueued)
        assert told.reason in (WaitReason.BACKOFF, WaitReason.SLOT)  # it may be over by now
        (await shell.backend.calls.get()).complete()
        await rest_of(reader)
        shell.driver.leave(reader)


async def test_the_answer_of_its_kind_stands_in_for_a_call_that_failed() -> None:
    for prompt_type, text in (("summary", "none yet"), ("code", "later"), ("", "later")):
        async with shell_with_answers(1, Notes()) as shell:
            reader = submit(shell, prompt_type=prompt_type)
            (await shell.backend.calls.get()).fail(BROKEN)
            events = await rest_of(reader)
            assert text_of(events) == text
            started = [each for each in events if isinstance(each, Started)][-1]
            assert (started.model, started.changes) == (
                "",
                ("the operator's default answer, as every attempt failed",),
            )
            shell.driver.leave(reader)


async def test_a_backend_without_a_first_token_is_given_up_and_its_call_closed() -> None:
    notes = Notes()
    async with shell_with_answers(1, notes) as shell:
        reader = submit(shell, time_outs=TimeOuts(first_token_ns=5 * MS_NS))
        call = await shell.backend.calls.get()
        events = await rest_of(reader)
        assert call.aborted
        assert text_of(events) == "later"
        [report] = notes.reports
        assert (report.reason, report.is_retried) == ("TIMED_OUT", False)
        shell.driver.leave(reader)


async def test_the_deadline_is_answered_while_the_call_still_runs() -> None:
    async with shell_with_answers(1, Notes()) as shell:
        reader = submit(shell, time_outs=TimeOuts(total_ns=5 * MS_NS))
        call = await shell.backend.calls.get()
        events = await rest_of(reader)
        assert text_of(events) == "later"
        await call.ended.wait()
        assert call.aborted
        shell.driver.leave(reader)


async def test_a_reload_brings_other_answers() -> None:
    async with shell_with_answers(1, Notes()) as shell:
        shell.driver.reconfigure(shell.engine.policy, "tomorrow", {})
        reader = submit(shell, prompt_type="summary")
        (await shell.backend.calls.get()).fail(BROKEN)
        assert text_of(await rest_of(reader)) == "tomorrow"
        shell.driver.leave(reader)
