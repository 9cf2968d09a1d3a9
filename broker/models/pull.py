"""One download of a model: its states as a table, how far it is, how fast, and when it is there.

Pure: time is handed in. What is shown never goes back: a download that was cut off goes on from
what is there, and where some of that was lost, it says that it comes anew.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from broker.core.errors import BrokerError
from broker.core.model_sizes import size_str, spaced
from broker.core.ports import PullProgress, PullStep
from broker.core.state_machine import Machine, Symbol

NS_PER_S: Final = 1_000_000_000

# The rate is that of the last seconds, from samples of which more than this is never kept.
RATE_WINDOW_NS: Final = 10 * NS_PER_S
SAMPLES_MAX: Final = 128
SAMPLE_EVERY_NS: Final = RATE_WINDOW_NS // 100


class PullState(Symbol):
    """Values are those of the wire."""

    WAITING = "waiting"  # for its turn, its hours, or the next try
    PULLING = "pulling"
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class PullTrigger(Symbol):
    START = "start"
    CAME = "came"  # all its bytes did: what has come is checked
    MORE = "more"  # not all its bytes had come
    INTERRUPTED = "interrupted"  # the call broke, the hours ended, or the broker leaves
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"


_S, _T = PullState, PullTrigger

PULL: Final = Machine(
    "pull",
    {
        (_S.WAITING, _T.START): _S.PULLING,
        (_S.WAITING, _T.FAIL): _S.FAILED,
        (_S.WAITING, _T.CANCEL): _S.CANCELLED,
        (_S.PULLING, _T.CAME): _S.VERIFYING,
        (_S.PULLING, _T.INTERRUPTED): _S.WAITING,
        (_S.PULLING, _T.SUCCEED): _S.DONE,
        (_S.PULLING, _T.FAIL): _S.FAILED,
        (_S.PULLING, _T.CANCEL): _S.CANCELLED,
        (_S.VERIFYING, _T.MORE): _S.PULLING,
        (_S.VERIFYING, _T.INTERRUPTED): _S.WAITING,
        (_S.VERIFYING, _T.SUCCEED): _S.DONE,
        (_S.VERIFYING, _T.FAIL): _S.FAILED,
        (_S.VERIFYING, _T.CANCEL): _S.CANCELLED,
    },
)
RUNNING: Final = frozenset({_S.PULLING, _S.VERIFYING})
OVER: Final = frozenset({_S.DONE, _S.FAILED, _S.CANCELLED})


class Rate:
    """Bytes a second over the last ten seconds, of what really came."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=SAMPLES_MAX)

    def begin(self, now_ns: int) -> None:
        """A call begins: what came before it tells nothing."""
        self._samples.clear()
        self._samples.append((now_ns, 0))

    def came(self, fetched_bytes: int, now_ns: int) -> None:
        """So much has come since the call began."""
        samples = self._samples
        if len(samples) > 1 and now_ns - samples[-2][0] < SAMPLE_EVERY_NS:
            samples.pop()
        samples.append((now_ns, fetched_bytes))
        while len(samples) > 2 and now_ns - samples[1][0] >= RATE_WINDOW_NS:
            samples.popleft()

    def bytes_per_s(self, now_ns: int) -> float:
        """0.0 while nothing was measured. What has said nothing for long is slow."""
        if len(self._samples) < 2:
            return 0.0
        (first_ns, first), (_, last) = self._samples[0], self._samples[-1]
        length_ns = now_ns - first_ns
        return (last - first) / length_ns * NS_PER_S if length_ns > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PullView:
    """A download at one moment. `total_bytes` 0 and `eta_ms` None: not known."""

    name: str
    backend: str
    state: PullState
    detail: str
    completed_bytes: int
    total_bytes: int
    bytes_per_s: float
    eta_ms: int | None
    listeners: int


@dataclass(slots=True, kw_only=True)
class Pull:
    """See the module. `number` says in which order downloads were asked for. `is_urgent`: it runs
    whatever the hours. `tries` counts calls in a row in which nothing came. `expected_bytes`: what
    is known of its size before the backend has told it."""

    name: str
    backend: str
    agent_id: str
    number: int
    asked_unix_ms: int
    is_urgent: bool = False
    expected_bytes: int = 0
    state: PullState = PullState.WAITING
    detail: str = "it waits for its turn"
    error: BrokerError | None = None
    total_bytes: int = 0
    completed_bytes: int = 0
    fetched_bytes: int = 0  # that came, in all its calls
    fetched_before: int = 0  # of these in calls before this one
    tries: int = 0
    retry_at_ns: int = 0
    grew_ns: int = 0  # when anything last came, or was said to be done
    ended_ns: int = 0
    listeners: int = 0
    rate: Rate = field(default_factory=Rate)

    @property
    def is_running(self) -> bool:
        return self.state in RUNNING

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def size_bytes(self) -> int:
        """How large it is, as far as is known."""
        return max(self.total_bytes, self.expected_bytes)

    def begin(self, now_ns: int) -> None:
        """A call to its backend begins."""
        self._move(PullTrigger.START)
        self.rate.begin(now_ns)
        self.fetched_before = self.fetched_bytes
        self.grew_ns = now_ns
        self.detail = "it asks what is to come"

    def hear(self, progress: PullProgress, now_ns: int) -> None:
        """Its backend says how far it is."""
        is_checked = progress.step in (PullStep.VERIFYING, PullStep.WRITING)
        if is_checked and self.state is PullState.PULLING:
            self._move(PullTrigger.CAME)
            self.grew_ns = now_ns
        elif not is_checked and self.state is PullState.VERIFYING:
            self._move(PullTrigger.MORE)
        self.total_bytes = max(self.total_bytes, progress.total_bytes)
        if progress.fetched_bytes:
            self.tries = 0
        if progress.completed_bytes > self.completed_bytes:
            self.completed_bytes = progress.completed_bytes
            self.grew_ns = now_ns
        self.fetched_bytes = self.fetched_before + progress.fetched_bytes
        self.rate.came(progress.fetched_bytes, now_ns)
        if is_checked:
            self.detail = "what came is checked"
        elif progress.step is PullStep.PULLING:
            lost = self.completed_bytes - progress.completed_bytes
            again = f"; {_words(lost)} of it come anew" if lost > 0 else ""
            self.detail = f"from the registry{again}" if progress.fetched_bytes else "it begins"

    def wait(self, why: str, retry_at_ns: int) -> None:
        """Its call has ended and it goes on later."""
        self._move(PullTrigger.INTERRUPTED)
        self.retry_at_ns, self.detail = retry_at_ns, why
        self.rate = Rate()

    def succeed(self, now_ns: int) -> None:
        self._end(PullTrigger.SUCCEED, "it is there", now_ns)
        self.completed_bytes = self.total_bytes = max(self.total_bytes, self.completed_bytes)

    def fail(self, error: BrokerError, now_ns: int) -> None:
        self.error = error
        self._end(PullTrigger.FAIL, error.message, now_ns)

    def cancel(self, why: str, now_ns: int) -> None:
        self._end(PullTrigger.CANCEL, why, now_ns)

    def view(self, now_ns: int) -> PullView:
        rate = self.rate.bytes_per_s(now_ns) if self.state is PullState.PULLING else 0.0
        left, eta_ms = self.size_bytes - self.completed_bytes, None
        if rate > 0.0 and self.total_bytes:
            eta_ms = max(0, int(left / rate * 1000))
        return PullView(
            name=self.name,
            backend=self.backend,
            state=self.state,
            detail=self.detail,
            completed_bytes=self.completed_bytes,
            total_bytes=self.total_bytes if self.is_over else self.size_bytes,
            bytes_per_s=rate,
            eta_ms=eta_ms,
            listeners=self.listeners,
        )

    def _end(self, trigger: PullTrigger, detail: str, now_ns: int) -> None:
        self._move(trigger)
        self.detail, self.ended_ns = detail, now_ns

    def _move(self, trigger: PullTrigger) -> None:
        self.state = PULL.step(self.state, trigger)


def _words(size_bytes: int) -> str:
    return spaced(size_str(size_bytes))
