"""Nothing of use is lost or counted twice, in whatever order things end, are kept and are asked
for, and however often keeping them fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.requests import Outcome
from broker.core.usage import (
    HOUR_NS,
    OUTCOME_INDEX,
    Counts,
    ModelUse,
    UsageGroup,
    UsageQuery,
    UsageStore,
)
from broker.core.views import LoadReport
from broker.models.usage import UsageRecorder
from broker.models.usage_books import UsageBooks
from broker.state.usage_store import SqliteUsage
from tests.unit.observability.ended import attempt_failed, preempted, refused, report
from tests.usage_rows import HOUR, MemoryUsage, summed

MODELS = ("m:latest", "n:7b")
NOW_NS = HOUR * HOUR_NS
GROUPS = tuple(UsageGroup)

Event = tuple[str, Any]

TIMES = st.integers(0, 10**12)
COUNTS = st.integers(0, 10**6)
RAN = {"run_ns": TIMES, "gpu_share": st.sampled_from([0.0, 0.25, 1.0])}
WHO = {
    "key": st.tuples(st.sampled_from("abcdefgh"), st.just("r")),
    "agent_type": st.sampled_from(["opus", ""]),
}
ENDED = st.fixed_dictionaries(
    {
        **RAN,
        **WHO,
        "model": st.sampled_from([*MODELS, "N:7B", ""]),
        "outcome": st.sampled_from(Outcome),
        "arrived_unix_ns": st.integers(NOW_NS, NOW_NS + 3 * HOUR_NS),
        "total_ns": TIMES,
        "queue_wait_ns": TIMES,
        "prompt_tokens": COUNTS,
        "output_tokens": COUNTS,
    }
)
EVENTS: st.SearchStrategy[list[Event]] = st.lists(
    st.one_of(
        st.tuples(st.just("ended"), ENDED),
        st.tuples(st.just("ended"), ENDED),
        st.tuples(st.just("refused"), st.fixed_dictionaries(WHO)),
        st.tuples(st.just("failed"), st.fixed_dictionaries({**RAN, **WHO})),
        st.tuples(st.just("preempted"), st.fixed_dictionaries({**RAN, **WHO})),
        st.tuples(st.just("loaded"), st.sampled_from(MODELS)),
        st.tuples(st.sampled_from(["kept", "not kept", "asked", "hour"]), st.none()),
    ),
    max_size=40,
)


@dataclass
class Play:
    """Tells the recorder of events, and sums up by itself."""

    store: UsageStore
    fail: Callable[[bool], None]
    expected: Counts = field(default_factory=Counts)
    now_ns: int = NOW_NS

    def __post_init__(self) -> None:
        # Two agents an hour are told apart, and four rows wait: bounds are met all the time.
        self.recorder = UsageRecorder(MODELS.__contains__, lambda: self.now_ns, 2, pending_max=4)
        self.books = UsageBooks(
            self.recorder, self.store, lambda: self.now_ns, lambda _: asyncio.sleep(0), 1, 1_000
        )

    async def event(self, kind: str, fields: Any) -> None:
        if kind == "ended":
            self._ended(fields)
        elif kind == "refused":
            self.recorder.request_ended(refused(**fields, arrived_unix_ns=NOW_NS))
            self.expected.outcomes[OUTCOME_INDEX[Outcome.REFUSED]] += 1
        elif kind == "failed":
            self.recorder.attempt_failed(attempt_failed(**fields))
            self._ran(fields)
        elif kind == "preempted":
            self.recorder.attempt_preempted(preempted(**fields))
            self._ran(fields)
        elif kind == "loaded":
            told = LoadReport(backend="b", model=fields, took_ns=1, problem="")
            self.recorder.load_ended(told)
            self.expected.loads += 1
        elif kind == "hour":
            self.now_ns += HOUR_NS
        elif kind == "asked":
            await self.check()
        else:
            self.fail(kind == "not kept")
            await self.books.flush()
            self.fail(False)

    def _ended(self, fields: Any) -> None:
        self.recorder.request_ended(report(**fields))
        whole = self.expected
        whole.outcomes[OUTCOME_INDEX[fields["outcome"]]] += 1
        whole.prompt_tokens += fields["prompt_tokens"]
        whole.output_tokens += fields["output_tokens"]
        whole.wait_ns += fields["queue_wait_ns"]
        whole.wait_ns_max = max(whole.wait_ns_max, fields["queue_wait_ns"])
        self._ran(fields)

    def _ran(self, fields: Any) -> None:
        self.expected.busy_ns += fields["run_ns"]
        self.expected.gpu_ns += int(fields["run_ns"] * fields["gpu_share"])

    async def check(self) -> None:
        """However it is asked for, it is all there."""
        for group in GROUPS:
            answer = await self.books.ask(
                UsageQuery(until_hour=HOUR * 2, group=group, rows_max=1_000)
            )
            found = summed(answer.rows)
            found.last_unix_ms = 0
            if group is UsageGroup.AGENT:  # loads are nobody's
                found.loads = self.expected.loads
            assert found == self.expected, group

    def check_totals(self) -> None:
        names = [*MODELS, "(unknown)", "(others)", "(default answer)"]
        uses = [self.recorder.use_of(name) for name in names]
        whole = ModelUse(
            requests=sum(each.requests for each in uses),
            output_tokens=sum(each.output_tokens for each in uses),
            loads=sum(each.loads for each in uses),
        )
        assert whole == ModelUse(
            requests=self.expected.requests,
            output_tokens=self.expected.output_tokens,
            loads=self.expected.loads,
        )


@given(EVENTS)
async def test_sums_hold_over_any_events_and_failures(events: list[Event]) -> None:
    store = MemoryUsage()

    def fail(whether: bool) -> None:
        store.problem = "no" if whether else ""

    play = Play(store, fail)
    for kind, fields in events:
        await play.event(kind, fields)
    await play.check()
    play.check_totals()
    await play.books.close()


@settings(max_examples=25)
@given(EVENTS)
async def test_they_hold_in_a_file_too(events: list[Event]) -> None:
    with TemporaryDirectory() as folder:
        play = Play(SqliteUsage(Path(folder) / "usage.sqlite", 90, 1_000), lambda _: None)
        for kind, fields in events:
            await play.event(kind, fields)
        await play.check()
        play.check_totals()
        await play.books.close()
