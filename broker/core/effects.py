"""What the shell must do now. An effect that takes time ends in one stimulus."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from broker.core.breaker import BreakerState
from broker.core.errors import BrokerError
from broker.core.healing import HealingStep
from broker.core.level import Level
from broker.core.preload import Learned
from broker.core.requests import AttemptId, Outcome, RequestKey
from broker.core.residency import SwitchStep
from broker.core.state_machine import Symbol
from broker.core.stimuli import Scope
from broker.core.value import value

if TYPE_CHECKING:  # a record keeps words that are defined here
    from broker.core.record import Attempt, Record
    from broker.core.views import AttemptReport, PreemptionReport


class WaitReason(Symbol):
    """What a waiting request waits for. Values are those of the wire without their prefix."""

    SLOT = "SLOT"
    LOADING = "LOADING"
    SWAP = "SWAP"
    NO_ROOM = "NO_ROOM"
    BACKEND_DOWN = "BACKEND_DOWN"
    BULKHEAD = "BULKHEAD"
    PAUSED = "PAUSED"
    QUEUE_FULL = "QUEUE_FULL"
    LEVEL = "LEVEL"
    BACKOFF = "BACKOFF"
    BREAKER = "BREAKER"
    SICK = "SICK"
    HEALING = "HEALING"
    BACKEND_DRAINS = "BACKEND_DRAINS"


@value
class Admit:
    """The request that just arrived is under way; further effects name it by its key."""

    key: RequestKey


@value
class Refuse:
    """The request that just arrived is not taken; nothing of it remains."""

    error: BrokerError


@value
class TellQueued:
    """Tell the client where it stands. `eta_ns`: until it starts, as far as is known, and an
    interval in which four of five do; None where nothing that was measured tells."""

    key: RequestKey
    position: int
    eta_ns: int | None
    reason: WaitReason
    detail: str
    eta_low_ns: int | None = None
    eta_high_ns: int | None = None


@value
class TellSlowDown:
    """Ask the client to send less for a while. Nothing is lost."""

    key: RequestKey
    retry_after_ns: int


@value
class TellRequeued:
    """Tell the client that its request waits again, at its old place. `voids_pieces`: what came so
    far is void, as the answer begins anew. That may also be told while it waits: another model is
    to answer it, which goes on with nothing that one began."""

    key: RequestKey
    reason: str
    voids_pieces: bool = False


@value
class TakeOver:
    """What just arrived is the request under this key: the newer call gets its stream."""

    key: RequestKey


@value(kw_only=True)
class StartAttempt:
    """Call the backend. Ends in AttemptEnded, after at most one FirstToken."""

    attempt: AttemptId
    key: RequestKey
    backend: str
    model: str
    num_ctx: int | None
    substituted_for: str
    changes: tuple[str, ...]
    queue_wait_ns: int
    load_wait_ns: int
    level: Level = Level.NORMAL
    output_tokens_max: int | None = None  # None: as many as the request asks for
    number: int = 1  # of the attempts of its request
    chosen_because: str = ""  # why this model, where its caller named none
    continues: bool = False  # from the prompt plus the text so far


@value
class TellAttemptFailed:
    """An attempt came to nothing: told to who observes. Its client hears of what comes of it."""

    report: AttemptReport


@value
class TellPreempted:
    """Urgent work had an attempt set aside: told to who observes. Its client hears that its request
    waits again."""

    attempt: AttemptId
    report: PreemptionReport


@value
class AbortAttempt:
    """Close the call of this attempt, in one step. Still ends in AttemptEnded. `is_for_urgent`: the
    attempt is set aside for urgent work, and its request goes on."""

    attempt: AttemptId
    is_for_urgent: bool = False


@value(kw_only=True)
class Answer:
    """Give the operator's default answer to this request, at no backend's cost. Finish follows."""

    key: RequestKey
    level: Level
    changes: tuple[str, ...]
    queue_wait_ns: int
    prompt_type: str = ""  # which of the default answers; the general one where it has none


@value
class Finish:
    """The request is over for its client. Exactly one per request that was admitted. `record` and
    its last `attempt` are what the engine knew of it, to be read and told: many may end in one
    turn, more than any memory of it holds."""

    key: RequestKey
    outcome: Outcome
    error: BrokerError | None
    record: Record | None = field(default=None, compare=False)
    attempt: Attempt | None = field(default=None, compare=False)


@value
class Load:
    """Make the model resident. Ends in LoadEnded."""

    backend: str
    runner: str
    model: str
    num_ctx: int | None


@value
class AbortLoad:
    """Close the call of this load: nobody waits for it any more. Still ends in LoadEnded."""

    backend: str
    runner: str


@value
class Unload:
    """Make the model leave and prove it. Ends in UnloadEnded. `is_cure`: it hangs, or has lost a
    slot; what does not leave soon then will not."""

    backend: str
    runner: str
    model: str
    is_cure: bool = False


@value
class Renew:
    """Renew the keep_alive of a resident model. Its end is no stimulus: the next one tells."""

    backend: str
    model: str
    num_ctx: int | None


@value
class SenseGpus:
    """Ask the sensor of this host's GPUs now, before it is time. Its answer is a stimulus."""


@value
class Own:
    """These runners on a backend are the broker's own from now on, all of them: to be remembered
    for the broker after this one."""

    backend: str
    runners: tuple[str, ...]


@value
class KeepLearned:
    """When models are asked for, and after which others: to be remembered for the broker after this
    one."""

    learned: Learned


@value
class RestartBackend:
    """Run the operator's command to restart this backend. Ends in RestartEnded."""

    backend: str


@value
class ListAgain:
    """Ask this backend for the models that it has, before it is time: what it said is not so."""

    backend: str


@value
class BackendGone:
    """Nothing of this backend, which was taken out of the configuration, is under way any more."""

    backend: str


@value(kw_only=True)
class TellBreaker:
    """The circuit breaker of a model on a backend is in another state. `until_ns`: when an open one
    lets a probe through."""

    backend: str
    model: str
    before: BreakerState
    after: BreakerState
    why: str
    until_ns: int | None


@value(kw_only=True)
class TellHealing:
    """A backend, or a model on one (else ""), is being cured, or cannot be. `evidence` in words."""

    backend: str
    model: str
    step: HealingStep
    evidence: str


@value(kw_only=True)
class TellSwitch:
    """Something on the way from one model to another that operators should know. `detail` in
    words."""

    backend: str
    model: str
    step: SwitchStep
    detail: str


@value(kw_only=True)
class TellLevel:
    """The level has changed; or, where `before` is the same, who has set it or until when. `why` in
    words."""

    level: Level
    before: Level
    why: str


@value(kw_only=True)
class TellPriority:
    """What operators have changed for these agents holds now, or no longer."""

    scope: Scope
    weight_factor: float
    rate_factor: float
    priority_best: int
    is_blocked: bool
    is_paused: bool


@value
class SetTimer:
    """Send TimerFired at this moment; replaces the timer set before."""

    at_ns: int


@value
class WishEnded:
    """What somebody wished of a model is done, or is not. `backends`: where; `load_ns`: how long
    its load took, 0 where it was there already."""

    wish: int
    error: BrokerError | None = None
    backends: tuple[str, ...] = ()
    load_ns: int = 0


@value
class Drained:
    """Nothing is under way any more: the broker may stop."""


Effect = (
    Admit
    | Refuse
    | TellQueued
    | TellSlowDown
    | TellRequeued
    | TakeOver
    | StartAttempt
    | TellAttemptFailed
    | TellPreempted
    | AbortAttempt
    | Answer
    | Finish
    | Load
    | AbortLoad
    | Unload
    | Renew
    | SenseGpus
    | Own
    | KeepLearned
    | RestartBackend
    | ListAgain
    | BackendGone
    | TellBreaker
    | TellHealing
    | TellSwitch
    | TellLevel
    | TellPriority
    | WishEnded
    | SetTimer
    | Drained
)
