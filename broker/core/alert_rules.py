"""When an operator should look: rules over measured values, and since when each one holds.

HighRequestLatency, QueueSaturation, CircuitBreakerOpen and ExcessiveRetries are the seeds'. The
same rules, in the words of Prometheus, are packaging/broker.rules.yml.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from broker.core.breaker import BreakerState
from broker.core.healing import Health
from broker.core.level import Level
from broker.core.sensing import SensorState
from broker.core.snapshot import Snapshot
from broker.core.vanishings import CONTESTED_MIN, WINDOW_NS
from broker.core.views import AlertView, LevelView

_S = 1_000_000_000

# A condition that is over for less than this is not over: a value that swings about its threshold
# is one alert and not many.
CLEAR_NS: Final = 15 * _S

# Retries are counted over the last minute, as the seeds' rule has them.
RETRY_WINDOW_NS: Final = 60 * _S

# Below so many first tokens a mean says nothing of the broker.
FIRST_TOKENS_MIN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertPolicy:
    """What the operator decides about alerts."""

    first_token_ns_mean: int = 5 * _S
    window_ns: int = 300 * _S
    queue_share: float = 0.8
    retries_per_minute: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstTokens:
    """Times to first tokens, summed since the start."""

    count: int
    ns_sum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the rules look at. `first_token_ns_mean` is over the window; None: too few to tell."""

    at_ns: int
    first_token_ns_mean: float | None
    queued: int
    queued_max: int
    backends_down: tuple[str, ...]  # each with its problem
    backends: int
    breakers_open: tuple[str, ...]  # each with why
    retries_per_minute: float
    wedged: tuple[str, ...]  # backends, each with the evidence
    contested: tuple[str, ...]  # backends that lose models again and again, each with how often
    sensors_failing: tuple[str, ...]  # each with its problem
    level: Level
    level_why: str


def measured(
    snapshot: Snapshot,
    level: LevelView,
    first_token_ns_mean: float | None,
    retries_per_minute: float,
) -> Measured:
    """What the rules look at, out of what the engine tells."""
    return Measured(
        at_ns=snapshot.at_ns,
        first_token_ns_mean=first_token_ns_mean,
        queued=snapshot.queued,
        queued_max=snapshot.queued_max,
        backends_down=tuple(
            f"{each.name}: {each.problem}" for each in snapshot.backends if not each.up
        ),
        backends=len(snapshot.backends),
        breakers_open=tuple(
            f"{breaker.model} on {each.name}: {breaker.why}"
            for each in snapshot.backends
            for breaker in each.breakers
            if breaker.state is BreakerState.OPEN
        ),
        retries_per_minute=retries_per_minute,
        wedged=tuple(
            f"{each.name}: {each.evidence}"
            for each in snapshot.backends
            if each.health in (Health.WEDGED, Health.RESTARTING)
        ),
        contested=tuple(
            f"{each.name}: {each.vanished_lately} times"
            for each in snapshot.backends
            if each.vanished_lately >= CONTESTED_MIN
        ),
        sensors_failing=tuple(
            f"{each.name}: {each.detail or 'no answer lately'}"
            for each in level.sensors
            # Where there is no sensor nothing fails; it can then not be stale either.
            if each.state is SensorState.FAILING
            or (each.is_stale and each.state is not SensorState.ABSENT)
        ),
        level=level.level,
        level_why=level.why,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An alert fires when `judge` has found something to say for `hold_ns`, and is over when it has
    found nothing for `clear_ns`. `meaning` is for those who look it up, `runbook` says what to do
    first."""

    name: str
    severity: str  # "warning", "critical"
    hold_ns: int
    judge: Callable[[Measured, AlertPolicy], str | None]
    meaning: str
    runbook: str
    clear_ns: int = CLEAR_NS


def _latency(now: Measured, policy: AlertPolicy) -> str | None:
    mean_ns = now.first_token_ns_mean
    if mean_ns is None or mean_ns <= policy.first_token_ns_mean:
        return None
    return (
        f"first tokens took {mean_ns / _S:.1f} s on the mean of the last "
        f"{policy.window_ns / _S:.0f} s; the limit is {policy.first_token_ns_mean / _S:g} s"
    )


def _saturation(now: Measured, policy: AlertPolicy) -> str | None:
    if now.queued <= policy.queue_share * now.queued_max:
        return None
    return (
        f"{now.queued} of at most {now.queued_max} requests wait; "
        f"the limit is {policy.queue_share:.0%}"
    )


def _no_backend(now: Measured, policy: AlertPolicy) -> str | None:
    if not now.backends or len(now.backends_down) < now.backends:
        return None
    return f"no backend answers: {'; '.join(now.backends_down)}"


def _breaker(now: Measured, policy: AlertPolicy) -> str | None:
    if not now.breakers_open:
        return None
    return f"nothing is sent for a while: {'; '.join(now.breakers_open)}"


def _retries(now: Measured, policy: AlertPolicy) -> str | None:
    if now.retries_per_minute <= policy.retries_per_minute:
        return None
    return (
        f"{now.retries_per_minute:.0f} attempts at backends were repeated in the last minute; "
        f"the limit is {policy.retries_per_minute:g}"
    )


def _wedged(now: Measured, policy: AlertPolicy) -> str | None:
    if not now.wedged:
        return None
    return f"it answers and does not serve: {'; '.join(now.wedged)}"


def _contested(now: Measured, policy: AlertPolicy) -> str | None:
    if not now.contested:
        return None
    minutes = WINDOW_NS // (60 * _S)
    return (
        f"models left within the last {minutes} minutes though the broker had not told them to: "
        f"{'; '.join(now.contested)}"
    )


def _sensor(now: Measured, policy: AlertPolicy) -> str | None:
    if not now.sensors_failing:
        return None
    return f"what this machine can bear is not known in full: {'; '.join(now.sensors_failing)}"


def _critical(now: Measured, policy: AlertPolicy) -> str | None:
    if now.level is not Level.CRITICAL:
        return None
    why = f": {now.level_why}" if now.level_why else ""
    return f"only priority work runs{why}"


RULES: Final = (
    Rule(
        name="HighRequestLatency",
        severity="warning",
        hold_ns=0,
        judge=_latency,
        meaning="The mean time to the first token over the window is above "
        "alerts.first_token_ms_mean. It is a mean of those who got one: the alert ends when nobody "
        "does any more.",
        runbook="brokerctl status shows who waits and what is loaded; much loading calls for fewer "
        "models, for more memory or for more slots, a long queue for lower rates.",
    ),
    Rule(
        name="QueueSaturation",
        severity="warning",
        hold_ns=10 * _S,
        judge=_saturation,
        meaning="The queue is fuller than alerts.queue_percent.",
        runbook="brokerctl queue names the agents with the largest backlogs; brokerctl pause or "
        "block the greedy one, lower its type's rate, or raise limits.queued_max.",
    ),
    Rule(
        name="NoBackend",
        severity="critical",
        hold_ns=10 * _S,
        judge=_no_backend,
        meaning="None of the backends answers.",
        runbook="brokerctl doctor says which does not answer, and why; does its server run (for an "
        "Ollama: systemctl status ollama), and is its address the one in the configuration?",
    ),
    Rule(
        name="CircuitBreakerOpen",
        severity="critical",
        hold_ns=0,
        judge=_breaker,
        meaning="Calls of a model have failed so often on a backend that nothing is sent there "
        "before a probe.",
        runbook="brokerctl status says which model, why, and when the probe is sent; brokerctl "
        "explain with the id of a failed request shows its attempts, the backend's own log the "
        "rest.",
        clear_ns=0,  # a breaker has its own patience
    ),
    Rule(
        name="ExcessiveRetries",
        severity="warning",
        hold_ns=0,
        judge=_retries,
        meaning="More attempts at backends were repeated within a minute than "
        "alerts.retries_per_minute.",
        runbook="brokerctl status shows which backend; its own log says why it fails. Retries are "
        "bounded by [retries] budget_percent; they are not what overloads it.",
    ),
    Rule(
        name="BackendWedged",
        severity="critical",
        hold_ns=0,
        judge=_wedged,
        meaning="A backend answers and does not serve, and no cure of the broker's has helped.",
        runbook="Restart it (an Ollama: systemctl restart ollama); with restart_command under "
        "[[backends]] the broker does that itself. brokerctl doctor says what was found.",
        clear_ns=0,
    ),
    Rule(
        name="ModelsContested",
        severity="warning",
        hold_ns=0,
        judge=_contested,
        meaning="Models that the broker had loaded left a backend several times within minutes "
        "though it had not told them to: another tool loads models there, and the server evicts "
        "the broker's for them.",
        runbook="brokerctl models shows what others have loaded; have them come through the "
        "broker, or give it a server of its own. What is evicted so is left alone for a while.",
        clear_ns=0,  # the window is its patience
    ),
    Rule(
        name="SensorFailing",
        severity="warning",
        hold_ns=30 * _S,
        judge=_sensor,
        meaning="A sensor of this host fails or has not answered for monitors.stale_ms; its parts "
        "of the load count as unknown.",
        runbook="brokerctl doctor names the sensor; nvidia-smi shows whether the driver answers. "
        "monitors.gpu = false makes the broker do without it.",
    ),
    Rule(
        name="LevelCritical",
        severity="critical",
        hold_ns=0,
        judge=_critical,
        meaning="The level is critical: only requests of priority 3 and better are sure to run.",
        runbook="brokerctl status says why: free that memory, pause what fills the queue, or, "
        "where an operator has set it, brokerctl level auto.",
        clear_ns=0,  # the level has its own dwell, and is then another one
    ),
)


class Window:
    """The mean time to the first token over the last `window_ns`, out of sums since the start."""

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums: deque[tuple[int, FirstTokens]] = deque()

    def mean_ns(self, now_ns: int, window_ns: int, sums: FirstTokens) -> float | None:
        """Notes the sums of this moment. At most one note is kept for each 256th of the window."""
        kept = self._sums
        if not kept:
            kept.append((now_ns, FirstTokens(count=0, ns_sum=0)))
        elif now_ns - kept[-1][0] >= window_ns // 256:
            kept.append((now_ns, sums))
        while len(kept) > 1 and kept[1][0] <= now_ns - window_ns:
            kept.popleft()
        before = kept[0][1]
        count = sums.count - before.count
        return (sums.ns_sum - before.ns_sum) / count if count >= FIRST_TOKENS_MIN else None


class RetryWindow:
    """Retries within the last minute, out of a sum since the start. Where the sum falls, as with a
    backend that is taken out, it begins anew."""

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums: deque[tuple[int, int]] = deque()

    def per_minute(self, now_ns: int, retries: int) -> float:
        """Notes the sum of this moment. At most one note is kept for each 256th of the window."""
        kept = self._sums
        if kept and retries < kept[-1][1]:
            kept.clear()
        if not kept or now_ns - kept[-1][0] >= RETRY_WINDOW_NS // 256:
            kept.append((now_ns, retries))
        while len(kept) > 1 and kept[1][0] <= now_ns - RETRY_WINDOW_NS:
            kept.popleft()
        return (retries - kept[0][1]) * 60 * _S / RETRY_WINDOW_NS


@dataclass(slots=True)
class _Standing:
    """A rule whose condition holds, or held lately."""

    since_ns: int
    seen_ns: int
    summary: str


class AlertBook:
    """Which alerts fire. Told at each tick what was measured; reads no clock."""

    __slots__ = ("_standing",)

    def __init__(self) -> None:
        self._standing: dict[str, _Standing] = {}

    def judge(self, now: Measured, policy: AlertPolicy) -> tuple[AlertView, ...]:
        """The alerts that fire now, in the order of the rules."""
        firing = []
        for rule in RULES:
            self._note(rule, rule.judge(now, policy), now.at_ns)
            standing = self._standing.get(rule.name)
            if standing is not None and standing.seen_ns - standing.since_ns >= rule.hold_ns:
                firing.append(
                    AlertView(
                        name=rule.name,
                        severity=rule.severity,
                        summary=standing.summary,
                        runbook=rule.runbook,
                        since_ns=standing.since_ns,
                    )
                )
        return tuple(firing)

    def _note(self, rule: Rule, summary: str | None, now_ns: int) -> None:
        standing = self._standing.get(rule.name)
        if summary is None:
            if standing is None:
                return
            # One that does not fire yet has to start again.
            clear_ns = rule.clear_ns if standing.seen_ns - standing.since_ns >= rule.hold_ns else 0
            if now_ns - standing.seen_ns >= clear_ns:
                del self._standing[rule.name]
        elif standing is None:
            self._standing[rule.name] = _Standing(now_ns, now_ns, summary)
        else:
            standing.seen_ns, standing.summary = now_ns, summary
