"""Counts who uses which models, as requests go by: one look-up and a few additions for each, and no
I/O. What was counted is taken from here and kept elsewhere: `usage_books.py`.

So many rows wait to be taken, and so many agents are told apart in an hour; what is beyond is
counted too, together. Names that are no model's are counted as one: anybody may ask for anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from broker.core.model_name import comparison_key
from broker.core.observer import Observer
from broker.core.requests import Outcome
from broker.core.usage import (
    HOUR_MS,
    NO_AGENT,
    OTHERS,
    OUTCOME_INDEX,
    UNKNOWN,
    Counts,
    ModelUse,
    UsageKey,
    UsageRow,
)
from broker.core.views import AttemptReport, LoadReport, PreemptionReport, RequestReport

# Rows that wait to be kept: where they cannot be, those of new pairs are summed up from here on. A
# day of the seeds' fleet; taking so many out and putting them back takes some 30 ms of the loop.
PENDING_MAX: Final = 10_000

# Models whose use is known at any moment; more than any catalogue on disk holds.
MODELS_MAX: Final = 20_000

# What one call can have used. A backend that says more is not believed: sums must stay numbers.
TOKENS_MAX: Final = 1_000_000_000

# The operator's default answer, which no model gives.
DEFAULT_ANSWER: Final = "(default answer)"

_NS_PER_MS: Final = 1_000_000
_NEVER_USED: Final = ModelUse()


class UsageRecorder(Observer):
    """See the module. `is_model` says of a comparison key whether it is one of a model."""

    def __init__(
        self,
        is_model: Callable[[str], bool],
        unix_ns: Callable[[], int],
        agents_max: int,
        pending_max: int = PENDING_MAX,
    ) -> None:
        self._is_model = is_model
        self._unix_ns = unix_ns
        self._agents_max = agents_max
        self._pending_max = pending_max
        self._pending: dict[tuple[int, str, str], Counts] = {}
        self._totals: dict[str, ModelUse] = {}
        self._hour = -1
        self._agents: set[str] = set()  # of this hour, those that are told apart

    @property
    def pending(self) -> int:
        """Rows that wait to be taken."""
        return len(self._pending)

    def use_of(self, model: str) -> ModelUse:
        """How much a model was used, by any spelling of its name."""
        return self._totals.get(comparison_key(model), _NEVER_USED)

    def used(self) -> Collection[str]:
        """The keys of all models that were used at all."""
        return self._totals.keys()

    # What is counted

    def request_ended(self, report: RequestReport) -> None:
        ended_ms = (report.arrived_unix_ns + report.total_ns) // _NS_PER_MS
        model = self._model_of(report)
        agent_id = report.key[0] if report.agent_type else UNKNOWN
        counts = self._counts(ended_ms // HOUR_MS, model, agent_id)
        output_tokens = min(report.output_tokens, TOKENS_MAX)
        counts.outcomes[OUTCOME_INDEX[report.outcome]] += 1
        counts.prompt_tokens += min(report.prompt_tokens, TOKENS_MAX)
        counts.output_tokens += output_tokens
        counts.busy_ns += report.run_ns
        counts.gpu_ns += int(report.run_ns * report.gpu_share)
        wait_ns = report.queue_wait_ns
        counts.wait_ns += wait_ns
        if wait_ns > counts.wait_ns_max:
            counts.wait_ns_max = wait_ns
        if ended_ms > counts.last_unix_ms:
            counts.last_unix_ms = ended_ms
        use = self._use(model)
        use.requests += 1
        use.output_tokens += output_tokens
        if ended_ms > use.last_unix_ms:
            use.last_unix_ms = ended_ms

    def _model_of(self, report: RequestReport) -> str:
        if not report.model:
            return DEFAULT_ANSWER if report.outcome is Outcome.COMPLETED else UNKNOWN
        key = comparison_key(report.model)
        # Only those refused may have asked for any name: the others had a model to wait for.
        if report.outcome is Outcome.REFUSED and not self._is_model(key):
            return UNKNOWN
        return key

    def attempt_failed(self, report: AttemptReport) -> None:
        """One that is not tried again is counted with its request."""
        if report.is_retried:
            self._ran(report)

    def attempt_preempted(self, report: PreemptionReport) -> None:
        self._ran(report)

    def _ran(self, report: AttemptReport | PreemptionReport) -> None:
        agent_id = report.key[0] if report.agent_type else UNKNOWN
        counts = self._counts(self._now_hour(), comparison_key(report.model), agent_id)
        counts.busy_ns += report.run_ns
        counts.gpu_ns += int(report.run_ns * report.gpu_share)

    def load_ended(self, report: LoadReport) -> None:
        if not report.problem:
            model = comparison_key(report.model)
            self._counts(self._now_hour(), model, NO_AGENT).loads += 1
            self._use(model).loads += 1

    def _now_hour(self) -> int:
        return self._unix_ns() // _NS_PER_MS // HOUR_MS

    def _counts(self, hour: int, model: str, agent_id: str) -> Counts:
        found = self._pending.get((hour, model, agent_id))
        return self._new_counts(hour, model, agent_id) if found is None else found

    def _new_counts(self, hour: int, model: str, agent_id: str) -> Counts:
        if hour != self._hour:
            self._hour = hour
            self._agents.clear()
        if agent_id not in self._agents and agent_id != NO_AGENT:
            if len(self._agents) < self._agents_max:
                self._agents.add(agent_id)
            else:
                agent_id = OTHERS
        return self._in_room(hour, model, agent_id)

    def _in_room(self, hour: int, model: str, agent_id: str) -> Counts:
        """The row of these, or where there is no room for one more, that of all others."""
        key = (hour, model, agent_id)
        if key not in self._pending and len(self._pending) >= self._pending_max:
            key = (hour, OTHERS, NO_AGENT if agent_id == NO_AGENT else OTHERS)
        found = self._pending.get(key)
        if found is None:
            found = self._pending[key] = Counts()
        return found

    def _use(self, model: str) -> ModelUse:
        found = self._totals.get(model)
        if found is None:
            if len(self._totals) >= MODELS_MAX:
                model = OTHERS
            found = self._totals.setdefault(model, ModelUse())
        return found

    # What is taken

    def take(self) -> list[UsageRow]:
        """All that was counted since it was last taken."""
        taken, self._pending = self._pending, {}
        return [
            UsageRow(UsageKey(hour, model, agent_id), counts)
            for (hour, model, agent_id), counts in taken.items()
        ]

    def put_back(self, rows: Iterable[UsageRow]) -> None:
        """They could not be kept: they wait again. They are the recorder's from now on."""
        pending = self._pending
        for (hour, model, agent_id, _), counts in rows:
            key = (hour, model, agent_id)
            if key not in pending and len(pending) < self._pending_max:
                pending[key] = counts
            else:
                self._in_room(*key).add(counts)

    def waiting(self) -> list[UsageRow]:
        """Copies of what waits to be taken."""
        rows = []
        for (hour, model, agent_id), counts in self._pending.items():
            copy = Counts()
            copy.add(counts)
            rows.append(UsageRow(UsageKey(hour, model, agent_id), copy))
        return rows

    def learn(self, kept: Mapping[str, ModelUse]) -> None:
        """What is kept of each model, of all that was taken. With what waits it makes the sums."""
        self._totals = dict(kept)
        for (_, model, _), counts in self._pending.items():
            use = self._use(model)
            use.requests += counts.requests
            use.output_tokens += counts.output_tokens
            use.loads += counts.loads
            use.last_unix_ms = max(use.last_unix_ms, counts.last_unix_ms)
