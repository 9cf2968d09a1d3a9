"""The driver performs what the engine decides: calls, aborts, loads, take-overs, drains."""

from __future__ import annotations

import asyncio

import pytest

from broker.core.effects import TellQueued
from broker.core.errors import (
    BackendFailed,
    BackendUnreachable,
    Cancelled,
    ClientTooSlow,
    DeadlineExpired,
    Draining,
    InvalidRequest,
    InvariantBroken,
    LoadFailed,
    ModelUnknown,
    NoBackend,
    RequestIdInUse,
    RequestUnknown,
    TakenOver,
)
from broker.core.requests import Outcome
from broker.core.stimuli import AttemptEnded, UnloadEnded
from broker.runtime.driver import DriverLimits
from broker.runtime.pieces import Pieces
from broker.runtime.streams import Done, Requeued, Started, StreamEvent
from tests.integration.shell import Shell, read, running_shell


async def test_a_request_is_queued_started_streamed_and_done_in_that_order() -> None:
    async with running_shell() as shell:
        reader = shell.submit()
        events: list[StreamEvent] = [await anext(reader), await anext(reader)]
        call = await shell.backend.calls.get()
        call.say("hel", "lo")
        call.complete()
        events.extend([event async for event in reader])
        assert [type(event) for event in events[:2]] == [TellQueued, Started]
        assert "".join(each.text for each in events if isinstance(each, Pieces)) == "hello"
        done = events[-1]
        assert isinstance(done, Done)
        assert done.model == "m:latest"
        assert 0 < done.timings.queue_wait_ns <= done.timings.first_token_ns
        assert done.timings.first_token_ns <= done.timings.total_ns
        shell.driver.leave(reader)
        assert shell.driver.snapshot().outcomes[Outcome.COMPLETED] == 1
        assert shell.driver.snapshot().outcomes[Outcome.CANCELLED] == 0


async def test_a_client_that_leaves_takes_its_backend_call_with_it() -> None:
    async with running_shell() as shell:
        reader = shell.submit()
        call = await shell.backend.calls.get()
        call.say("a")
        shell.driver.leave(reader)
        await call.ended.wait()
        assert call.aborted
        assert shell.driver.snapshot().outcomes[Outcome.CANCELLED] == 1


async def test_an_attempt_aborted_before_its_first_step_still_gives_its_slot_back() -> None:
    async with running_shell() as shell:
        await _warm_up(shell)
        first = shell.submit("r2")
        shell.driver.leave(first)  # the attempt's task has not run yet
        second = shell.submit("r3")
        call = await shell.backend.calls.get()
        call.complete()
        assert isinstance(await read(second, Done), Done)


async def test_a_queued_client_that_leaves_never_reaches_the_backend() -> None:
    async with running_shell() as shell:
        running = shell.submit("r1")
        call = await shell.backend.calls.get()
        waiting = shell.submit("r2", agent_id="agent-2")
        shell.driver.leave(waiting)
        call.complete()
        await read(running, Done)
        assert shell.backend.calls.empty()
        assert not shell.engine.records


async def test_the_same_request_again_takes_the_stream_over() -> None:
    async with running_shell() as shell:
        old = shell.submit()
        call = await shell.backend.calls.get()
        call.say("a", "b")
        assert (await read(old, Pieces)) == Pieces(0, "ab", "", (), 2)
        new = shell.submit(resume_from=1)
        with pytest.raises(TakenOver):
            await read(old, Done)
        shell.driver.leave(old)  # must not cancel what the newer call reads
        call.say("c")
        call.complete()
        assert await read(new, Pieces) == Pieces(1, "bc", "", (), 2)
        assert isinstance(await read(new, Done), Done)
        assert not call.aborted


async def test_a_take_over_that_fails_changes_nothing() -> None:
    async with running_shell() as shell:
        reader = shell.submit()
        call = await shell.backend.calls.get()
        call.say("a")
        record = shell.engine.records["agent-1", "r1"]
        timer = record.deadline_timer
        with pytest.raises(InvalidRequest, match="resume_from_seq"):
            shell.submit(resume_from=2, lasts_ns=1)
        assert record.deadline_timer is timer
        with pytest.raises(RequestIdInUse):
            shell.submit(resume_from=2, content="other")
        call.complete()
        assert await read(reader, Pieces) == Pieces(0, "a", "", (), 1)
        assert isinstance(await read(reader, Done), Done)


async def test_other_content_under_an_id_in_use_is_refused_and_harms_nothing() -> None:
    async with running_shell() as shell:
        reader = shell.submit()
        call = await shell.backend.calls.get()
        with pytest.raises(RequestIdInUse):
            shell.submit(content="other")
        call.complete()
        assert isinstance(await read(reader, Done), Done)


async def test_there_is_nothing_to_resume_where_no_such_request_is_under_way() -> None:
    async with running_shell() as shell:
        with pytest.raises(RequestUnknown):
            shell.submit(resume_from=2)
        assert shell.backend.calls.empty()


async def test_a_client_that_comes_back_within_the_grace_finds_its_request() -> None:
    limits = DriverLimits(reconnect_grace_ns=60_000_000_000)
    async with running_shell(limits=limits) as shell:
        old = shell.submit()
        call = await shell.backend.calls.get()
        call.say("a")
        await read(old, Pieces)
        shell.driver.leave(old)
        new = shell.submit(resume_from=1)
        call.say("b")
        call.complete()
        assert await read(new, Pieces) == Pieces(1, "b", "", (), 1)
        await read(new, Done)


async def test_a_failing_backend_fails_the_request_with_its_own_words() -> None:
    async with running_shell() as shell:
        reader = shell.submit()
        call = await shell.backend.calls.get()
        call.say("half")
        call.fail(BackendFailed("the runner died"))
        with pytest.raises(BackendFailed, match="the runner died"):
            await read(reader, Done)
        assert reader.stream.outcome is Outcome.FAILED


async def test_a_backend_that_takes_no_connection_gets_the_request_again_when_it_is_back() -> None:
    async with running_shell() as shell:
        reader = shell.submit()
        call = await shell.backend.calls.get()
        call.fail(BackendUnreachable("connection refused"))
        assert isinstance(await read(reader, Requeued), Requeued)
        await shell.discovery.ask()
        again = await shell.backend.calls.get()
        again.say("a")
        again.complete()
        assert isinstance(await read(reader, Done), Done)


async def test_a_backend_that_never_answered_refuses_with_a_reason_until_it_does() -> None:
    async with running_shell(is_up=False) as shell:
        shell.backend.problem = BackendUnreachable("nobody listens there")
        await shell.discovery.ask()
        with pytest.raises(NoBackend, match="nobody listens there") as refusal:
            shell.submit()
        assert refusal.value.retry_after_ns
        shell.backend.problem = None
        await shell.discovery.ask()
        reader = shell.submit()
        (await shell.backend.calls.get()).complete()
        await read(reader, Done)


async def test_an_unknown_model_is_refused_with_the_nearest_names() -> None:
    async with running_shell("llama3:8b", "qwen3:8b") as shell:
        with pytest.raises(ModelUnknown) as refusal:
            shell.submit(model="llama3:7b")
        assert refusal.value.nearest[0] == "llama3:8b"


async def test_another_model_waits_until_the_first_has_left_and_is_proven_gone() -> None:
    async with running_shell("a:latest", "b:latest") as shell:
        first = shell.submit("r1", model="a:latest")
        call = await shell.backend.calls.get()
        second = shell.submit("r2", model="b:latest")
        assert shell.backend.loads == ["a:latest"]
        call.complete()
        await read(first, Done)
        other = await shell.backend.calls.get()
        assert other.model == "b:latest"
        assert shell.backend.unloads == ["a:latest"]
        assert list(shell.backend.loaded) == ["b:latest"]
        other.complete()
        await read(second, Done)


async def test_a_model_that_cannot_be_loaded_fails_those_who_wait_and_refuses_the_next() -> None:
    async with running_shell() as shell:
        shell.backend.load_problem = BackendFailed("invalid file magic")
        reader = shell.submit()
        with pytest.raises(LoadFailed, match="invalid file magic"):
            await read(reader, Done)
        with pytest.raises(LoadFailed) as refusal:
            shell.submit("r2")
        assert refusal.value.retry_after_ns


async def test_the_deadline_ends_a_running_request_and_its_call() -> None:
    async with running_shell() as shell:
        reader = shell.submit(lasts_ns=20_000_000)
        call = await shell.backend.calls.get()
        with pytest.raises(DeadlineExpired):
            await read(reader, Done)
        await call.ended.wait()
        assert call.aborted


async def test_a_client_too_slow_for_its_share_of_memory_is_ended() -> None:
    async with running_shell(limits=DriverLimits(stream_buffer_bytes_max=100)) as shell:
        reader = shell.submit()
        call = await shell.backend.calls.get()
        call.say("x" * 60)
        with pytest.raises(ClientTooSlow):
            call.say("y" * 60)
        call.fail(ClientTooSlow("too slow"))  # as a real backend call would pass it on
        with pytest.raises(ClientTooSlow):
            await read(reader, Done)


async def test_an_agent_cancels_its_own_request_by_name() -> None:
    async with running_shell() as shell:
        reader = shell.submit("r1")
        call = await shell.backend.calls.get()
        assert shell.driver.cancel(("agent-1", "r1")) == "dispatched"
        assert shell.driver.cancel(("agent-1", "r1")) is None
        with pytest.raises(Cancelled):
            await read(reader, Done)
        await call.ended.wait()


async def test_namesakes_that_have_ended_are_not_under_way() -> None:
    async with running_shell(slots=2) as shell:
        first = shell.submit("same", agent_id="a")
        (await shell.backend.calls.get()).complete()
        await read(first, Done)
        second = shell.submit("same", agent_id="b")
        other = shell.submit("other", agent_id="b")
        assert shell.driver.requests_under_way("same") == [("b", "same")]
        assert shell.driver.requests_called("same") == [("a", "same"), ("b", "same")]
        for reader in (second, other):
            (await shell.backend.calls.get()).complete()
            await read(reader, Done)
        assert shell.driver.requests_under_way("same") == []


async def test_a_drain_refuses_the_new_and_waits_for_the_old() -> None:
    async with running_shell() as shell:
        reader = shell.submit()
        call = await shell.backend.calls.get()
        shell.driver.drain(60_000_000_000)
        with pytest.raises(Draining):
            shell.submit("r2")
        drained = asyncio.ensure_future(shell.driver.wait_drained())
        assert not drained.done()
        call.complete()
        await read(reader, Done)
        await drained


async def test_a_drain_that_takes_too_long_ends_what_is_left() -> None:
    async with running_shell() as shell:
        reader = shell.submit()
        await shell.backend.calls.get()
        shell.driver.drain(1)
        with pytest.raises(Draining):
            await read(reader, Done)
        await shell.driver.wait_drained()


async def test_a_broken_turn_is_reported_to_the_daemon() -> None:
    async with running_shell() as shell:
        with pytest.raises(InvariantBroken):
            shell.driver.feed(AttemptEnded(attempt=999))  # type: ignore[arg-type]
        await shell.driver.wait_broken()


async def test_a_stimulus_about_an_unknown_runner_is_a_bug_and_not_swallowed() -> None:
    async with running_shell() as shell:
        with pytest.raises(KeyError):
            shell.driver.feed(UnloadEnded("b", "nobody"))
        await shell.driver.wait_broken()


async def _warm_up(shell: Shell) -> None:
    reader = shell.submit("warm-up")
    (await shell.backend.calls.get()).complete()
    await read(reader, Done)
