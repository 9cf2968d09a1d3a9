"""Each request is reported once, as it ended, whatever else ends in the same turn."""

from __future__ import annotations

from collections import Counter

import pytest

from broker.core.effects import TellLevel, TellPriority
from broker.core.errors import BackendFailed, DeadlineExpired, Draining, ModelUnknown
from broker.core.level import Level
from broker.core.observer import Observer
from broker.core.requests import Outcome
from broker.core.views import (
    AlertView,
    AttemptReport,
    LoadReport,
    RequestReport,
    RequestStart,
)
from broker.runtime.streams import Subscription
from tests.integration.shell import running_shell


class Heard(Observer):
    """An observer that remembers."""

    def __init__(self) -> None:
        self.starts: list[RequestStart] = []
        self.reports: list[RequestReport] = []
        self.loads: list[LoadReport] = []
        self.failures: list[AttemptReport] = []

    def load_ended(self, report: LoadReport) -> None:
        self.loads.append(report)

    def attempt_failed(self, report: AttemptReport) -> None:
        self.failures.append(report)

    def request_started(self, start: RequestStart) -> None:
        self.starts.append(start)

    def request_ended(self, report: RequestReport) -> None:
        self.reports.append(report)

    def level_changed(self, told: TellLevel) -> None:
        """Not of a request."""

    def priority_changed(self, told: TellPriority) -> None:
        """Not of a request."""

    def backends_changed(self) -> None:
        """Not of a request."""

    def alerts_changed(self, firing: tuple[AlertView, ...]) -> None:
        """Not of a request."""


async def read_out(reader: Subscription) -> None:
    """To its end, or to the error that ended it."""
    async for _ in reader:
        pass


async def test_a_completed_request_is_told_with_all_its_times() -> None:
    heard = Heard()
    async with running_shell(observer=heard) as shell:
        reader = shell.submit(priority=3)
        call = await shell.backend.calls.get()
        call.say("a")
        call.say("b")
        call.complete()
        await read_out(reader)
        shell.driver.leave(reader)
    (start,), (report,) = heard.starts, heard.reports
    assert (start.key, start.model, start.backend) == (("agent-1", "r1"), "m:latest", "b")
    assert (report.outcome, report.reason, report.tries) == (Outcome.COMPLETED, "", 1)
    assert (report.model, report.backend, report.priority) == ("m:latest", "b", 3)
    assert (report.prompt_tokens, report.output_tokens) == (3, 2)
    assert report.level is Level.NORMAL
    assert 0 < report.load_wait_ns <= report.queue_wait_ns == start.queue_wait_ns
    assert report.queue_wait_ns < report.first_token_ns <= report.total_ns
    assert report.per_token_ns > 0
    assert report.run_ns == report.total_ns - report.queue_wait_ns
    assert report.gpu_share == 1.0  # the fake has all of each model there
    (load,) = heard.loads
    assert (load.backend, load.model, load.problem) == ("b", "m:latest", "")
    assert 0 < load.took_ns <= report.load_wait_ns


async def test_a_request_that_fails_as_it_streams_tells_what_it_had() -> None:
    heard = Heard()
    async with running_shell(observer=heard) as shell:
        reader = shell.submit()
        call = await shell.backend.calls.get()
        call.say("a", "b", "c")
        call.fail(BackendFailed("it broke"))
        with pytest.raises(BackendFailed):
            await read_out(reader)
    (report,) = heard.reports
    assert (report.outcome, report.reason) == (Outcome.FAILED, "BACKEND_FAILED")
    assert report.message == "it broke"
    assert report.output_tokens == 3
    assert report.load_wait_ns > 0
    assert report.first_token_ns > 0


async def test_a_call_that_is_tried_again_tells_for_how_long_it_had_a_slot() -> None:
    heard = Heard()
    async with running_shell(observer=heard) as shell:
        reader = shell.submit()
        (await shell.backend.calls.get()).fail(BackendFailed("it broke"))
        again = await shell.backend.calls.get()
        again.say("a")
        again.complete()
        await read_out(reader)
        shell.driver.leave(reader)
    (failure,), (report,) = heard.failures, heard.reports
    assert (failure.is_retried, failure.gpu_share) == (True, 1.0)
    assert 0 < failure.run_ns < report.queue_wait_ns  # the wait for the call that came to something
    assert (report.outcome, report.tries) == (Outcome.COMPLETED, 2)
    assert report.run_ns == report.total_ns - report.queue_wait_ns > 0


async def test_what_never_ran_has_waited_to_its_end() -> None:
    heard = Heard()
    async with running_shell(observer=heard) as shell:
        shell.submit("runs")
        await shell.backend.calls.get()
        late = shell.submit("late", lasts_ns=1_000_000)
        with pytest.raises(DeadlineExpired):
            await read_out(late)
        with pytest.raises(ModelUnknown):
            shell.submit("lost", model="nothing")
        gone = shell.submit("gone")
        shell.driver.leave(gone)
    by_id = {report.key[1]: report for report in heard.reports}
    assert by_id["late"].outcome is Outcome.EXPIRED
    assert by_id["late"].queue_wait_ns == by_id["late"].total_ns > 0
    assert (by_id["late"].run_ns, by_id["lost"].run_ns) == (0, 0)
    assert (by_id["late"].backend, by_id["late"].tries) == ("", 0)
    assert by_id["lost"].outcome is Outcome.REFUSED
    assert (by_id["lost"].reason, by_id["lost"].total_ns) == ("MODEL_UNKNOWN", 0)
    assert by_id["gone"].outcome is Outcome.CANCELLED


async def test_more_that_end_in_one_turn_than_are_remembered_are_all_told() -> None:
    """A full queue, and the time to leave is over."""
    heard = Heard()
    async with running_shell(observer=heard) as shell:
        shell.submit("runs")
        await shell.backend.calls.get()
        waiting = shell.engine.policy.queue.queued_max
        readers = [shell.submit(f"w{number}") for number in range(waiting)]
        assert shell.driver.snapshot().queued == waiting
        shell.driver.drain(0)
        for reader in readers:
            with pytest.raises(Draining):
                await read_out(reader)
        await shell.driver.wait_drained()
    assert Counter(each.outcome for each in heard.reports) == {Outcome.CANCELLED: waiting + 1}
    assert len({each.key for each in heard.reports}) == waiting + 1
