"""When a stream that gives nothing is frozen: learned per backend and runner, aware of neighbours.

A frozen runner is seen by nothing but the gap between pieces (OLLAMA.md §3.7). Its usual length is
that of the stream itself, once it has enough of them, and that of answers before it on the same
runner, whichever is longer. Two things make a healthy stream silent: the reading of a neighbour's
prompt, batch after batch, of which each stalls decoding for as long as it takes; and a tool call,
which the server keeps back until it is whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from broker.core.estimates import Estimates
from broker.core.healing import HealingPolicy
from broker.core.record import Attempt
from broker.core.requests import AttemptId
from broker.core.residency import Residency
from broker.core.stimuli import Quiet
from broker.core.time_outs import NO_TIME_OUTS, TimeOutPolicy, tightest

# A stream with fewer pieces does not know its own gap: the first ones may come in one read.
OWN_PIECES_MIN: Final = 8

# A neighbour's prompt explains silence for as long as three of the slowest measured ones take, and
# a little more: what is measured next may be slower.
READING_FACTOR: Final = 3
READING_EXTRA_NS: Final = 2_000_000_000

# Where nothing was measured and nobody has set a time-out: as the configuration has it.
READING_NS_MAX: Final = 300_000_000_000

# The silences of one look are told one after the other, those that began last first: a stream of
# which none was told for so long gives pieces.
ONE_LOOK_NS: Final = 200_000_000

# The capability of requests whose answer may be kept back until it is whole.
KEPT_BACK: Final = "tools"


class Silences:
    """See the module. `time_outs` are the operator's: how long a first token may take where none
    was measured."""

    def __init__(
        self,
        policy: HealingPolicy,
        time_outs: TimeOutPolicy,
        attempts: Mapping[AttemptId, Attempt],
        estimates: Estimates,
    ) -> None:
        self._policy = policy
        self._time_outs = time_outs
        self.attempts = attempts
        self._estimates = estimates
        self._heard_ns: dict[AttemptId, int] = {}  # when a silence was last told of

    def __len__(self) -> int:
        return len(self._heard_ns)

    def configure(self, policy: HealingPolicy, time_outs: TimeOutPolicy) -> None:
        self._policy, self._time_outs = policy, time_outs

    def ended(self, attempt: Attempt, gap_ns: int, now_ns: int, *, is_whole: bool) -> None:
        """An attempt is over. `gap_ns`: the mean time between its pieces, 0 where too few came."""
        self._heard_ns.pop(attempt.id, None)
        residency = attempt.residency
        if is_whole and gap_ns:
            self._estimates.streamed(residency.runner, attempt.backend, gap_ns)
        if residency.slots > 1:
            until_ns = attempt.first_token_ns or now_ns
            if not attempt.first_token_ns and not is_whole:
                # The batch that is being read goes on after its client has left.
                until_ns += READING_EXTRA_NS
            residency.readings.append((attempt.started_ns, until_ns))

    def judge(self, quiet: Quiet, attempt: Attempt, now_ns: int) -> str | None:
        """Why this stream must be frozen, in words with figures; None while it need not be."""
        self._heard_ns[attempt.id] = now_ns
        if KEPT_BACK in attempt.record.spec.needs:
            return None
        usual_ns = self._usual_ns(quiet, attempt)
        if usual_ns is None:
            return None
        policy, silent_ns = self._policy, now_ns - quiet.since_ns
        limit_ns = policy.gap_factor * usual_ns + policy.gap_extra_ns
        if silent_ns <= limit_ns:
            return None
        stalled_ns = self._stalled_ns(attempt, quiet.since_ns, now_ns)
        if silent_ns - stalled_ns <= limit_ns:
            return None
        words = (
            f"gave nothing for {silent_ns / 1e9:.1f} s after {quiet.pieces} pieces; "
            f"usual is one in {usual_ns / 1e6:.0f} ms, the limit {limit_ns / 1e9:.1f} s"
        )
        if stalled_ns:
            words += f" beside {stalled_ns / 1e9:.1f} s for the prompts of others"
        return words

    def _usual_ns(self, quiet: Quiet, attempt: Attempt) -> float | None:
        """The longer of the stream's own gap and that of answers before it; None where neither is
        known well enough."""
        learned_ns = self._estimates.gap_ns(attempt.residency.runner, attempt.backend)
        knows_itself = quiet.pieces >= OWN_PIECES_MIN and quiet.gap_ns > 0
        if learned_ns is None:
            return quiet.gap_ns if knows_itself else None
        return max(learned_ns, quiet.gap_ns)

    def stalled_ns(self, attempt: Attempt, now_ns: int) -> int:
        """For how much of its life so far an attempt may have been stalled by others."""
        return self._stalled_ns(attempt, attempt.started_ns, now_ns)

    def _stalled_ns(self, attempt: Attempt, since_ns: int, now_ns: int) -> int:
        """How much of this time the reading of neighbours' prompts may have taken."""
        residency = attempt.residency
        spans = list(residency.readings)
        for each in self.neighbours(attempt):
            until_ns = each.first_token_ns or now_ns
            spans.append((each.started_ns, min(until_ns, each.started_ns + self.reading_ns(each))))
        return _covered_ns(spans, since_ns, now_ns)

    def reading_ns(self, attempt: Attempt) -> int:
        """How long the prompt of this attempt may take until its first token, at most, whatever
        patience its caller has."""
        spec, residency = attempt.record.spec, attempt.residency
        slowest_ns = self._estimates.prefill_ns(
            residency.runner, attempt.backend, spec.prompt_bytes
        )
        if slowest_ns is not None:
            return int(READING_FACTOR * slowest_ns) + READING_EXTRA_NS
        those = self._time_outs
        limits = tightest(those.by_model.get(attempt.model, NO_TIME_OUTS), those.of_all)
        return limits.first_token_ns or READING_NS_MAX

    def neighbours(self, attempt: Attempt) -> list[Attempt]:
        """The other attempts on the same runner of the same backend."""
        return [each for each in self.on(attempt.residency) if each is not attempt]

    def on(self, residency: Residency) -> list[Attempt]:
        """All attempts on a runner."""
        return [each for each in self.attempts.values() if each.residency is residency]

    def is_streaming(self, attempt: Attempt, now_ns: int) -> bool:
        """Does it give pieces now?"""
        if not attempt.first_token_ns or attempt.ending is not None or attempt.given_up is not None:
            return False
        heard_ns = self._heard_ns.get(attempt.id)
        return heard_ns is None or now_ns - heard_ns > ONE_LOOK_NS


def _covered_ns(spans: Iterable[tuple[int, int]], since_ns: int, until_ns: int) -> int:
    """How much of a time is covered by spans that may overlap."""
    covered_ns, reached_ns = 0, since_ns
    for from_ns, to_ns in sorted(spans):
        from_ns, to_ns = max(from_ns, reached_ns), min(to_ns, until_ns)
        if to_ns > from_ns:
            covered_ns += to_ns - from_ns
            reached_ns = to_ns
    return covered_ns
