"""What happened outside: the only things that move the engine."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from broker.core.errors import BrokerError
from broker.core.level import Level
from broker.core.ports import Resident
from broker.core.preload import Learned
from broker.core.requests import AttemptId, RequestKey, RequestSpec
from broker.core.sensing import GpuReading, HostReading
from broker.core.value import value

if TYPE_CHECKING:  # policies are made of parts that themselves speak of models
    from broker.core.policy import EnginePolicy


@value(kw_only=True)
class ModelSpec:
    """A model on one backend, as the engine plans with it.

    `runner` names what is really loaded (several names may share one). `num_ctx` None leaves the
    context to the backend; `num_ctx_max` is the ceiling up to which a request may ask for more.
    """

    name: str
    runner: str
    size_bytes: int
    slots: int = 1
    num_ctx: int | None = None
    num_ctx_max: int = 0
    capabilities: frozenset[str] = frozenset()


@value
class Arrived:
    """A valid request came in."""

    spec: RequestSpec


class CancelCause(Enum):
    CLIENT_GONE = "the client went away"
    BY_AGENT = "its agent cancelled it"
    BY_OPERATOR = "an operator cancelled it"
    AGENT_BLOCKED = "an operator blocked its agent"
    BROKER_STOPS = "the broker stops"


@value
class CancelAsked:
    """Somebody wants this request to end. One that is not under way is no error."""

    key: RequestKey
    cause: CancelCause


@value
class FirstToken:
    """The backend sent the first piece of this attempt."""

    attempt: AttemptId


@value
class AttemptEnded:
    """The backend call returned: with tokens, with an error, or because it was aborted."""

    attempt: AttemptId
    error: BrokerError | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    pieces: int = 0  # that came of this attempt
    gap_ns: int = 0  # mean time between them; 0: fewer than two came
    slot_wait_ns: int = 0  # what the backend spent on nothing that it names: a wait for its slot
    is_continuable: bool = True  # could another attempt go on from the text so far?


@value
class Quiet:
    """No piece of this attempt has come since `since_ns`, of `pieces` so far. Told again and again
    while it lasts; only of attempts that gave a first piece. `gap_ns`: the mean gap before, 0 where
    fewer than two came."""

    attempt: AttemptId
    since_ns: int
    pieces: int
    gap_ns: int


@value
class BackendSeen:
    """A backend answered, or did not. `problem` says why not. `is_mute`: it takes connections, and
    has not said for long what it holds, or anything at all."""

    backend: str
    up: bool
    problem: str = ""
    is_mute: bool = False


@value
class ModelsListed:
    """Everything that a backend has on disk."""

    backend: str
    models: tuple[ModelSpec, ...]


@value
class ResidentsSeen:
    """What a backend has loaded, as asked at `asked_ns`: older news than any later change."""

    backend: str
    residents: tuple[Resident, ...]
    asked_ns: int


@value
class LoadEnded:
    """A load that the engine asked for is over."""

    backend: str
    runner: str
    error: BrokerError | None = None


@value
class UnloadEnded:
    """An unload that the engine asked for is over: proven gone, or not."""

    backend: str
    runner: str
    error: BrokerError | None = None


@value
class OwnedBefore:
    """Runners that the broker before this one had loaded on a backend: found there, they are ours
    and no stranger's."""

    backend: str
    runners: tuple[str, ...]


@value
class RestartEnded:
    """The operator's command to restart a backend is over."""

    backend: str
    error: BrokerError | None = None


@value
class BackendDrainAsked:
    """Start nothing more on this backend, or again something."""

    backend: str
    is_draining: bool


@value
class DrainAsked:
    """Refuse new work; what is under way may take until `until_ns`."""

    until_ns: int


@value(kw_only=True)
class Scope:
    """Whom an operator means: one agent, all agents of a type, or, with neither, everybody."""

    agent_id: str = ""
    agent_type: str = ""


@value(kw_only=True)
class BoostAsked:
    """These agents count for more, or less, until a moment (None: until resumed).

    `weight_factor` multiplies their share, `rate_factor` the rates of their own buckets;
    `priority_best`, if not 0, takes the place of their type's ceiling.
    """

    scope: Scope
    weight_factor: float = 1.0
    rate_factor: float = 1.0
    priority_best: int = 0
    until_ns: int | None = None


@value(kw_only=True)
class BlockAsked:
    """New requests of these agents are refused until a moment (None: until resumed)."""

    scope: Scope
    cancels_waiting: bool = False  # what of theirs waits is cancelled as well
    until_ns: int | None = None


@value(kw_only=True)
class PauseAsked:
    """Nothing of these agents is started until a moment (None: until resumed). It may wait."""

    scope: Scope
    until_ns: int | None = None


@value
class ResumeAsked:
    """Ends what was asked for with this very scope: boost, block and pause."""

    scope: Scope


@value(kw_only=True)
class LevelAsked:
    """An operator sets the level until a moment (None: until it is set again), or with None leaves
    it to the measured load."""

    level: Level | None
    until_ns: int | None = None


@value
class HostSensed:
    """The host's sensor has answered."""

    reading: HostReading


@value
class GpusSensed:
    """The sensor of the GPUs has answered."""

    reading: GpuReading


@value
class LoadDue:
    """It is time to look at the load, whether a sensor has answered or not."""


@value
class PolicyChanged:
    """The operator's decisions are others now. Backends that are new may be used from now on, those
    that are gone get nothing more."""

    policy: EnginePolicy


@value
class WallClockSet:
    """The clock on the wall, in local time, shows so much more than the engine's. Told at start and
    again and again, as it may be set."""

    offset_ns: int


@value
class PreloadLearned:
    """When models are asked for, and after which others, as the broker before this one learned."""

    learned: Learned


@value(kw_only=True)
class LoadAsked:
    """Somebody wishes this model to be resident, on this backend or ("") on any, until a moment.
    Ends in one WishEnded, unless it is withdrawn. `wish` is a number that no other wish has."""

    wish: int
    model: str
    backend: str
    until_ns: int


@value(kw_only=True)
class UnloadAsked:
    """The same of a model that is to leave memory; "" is every backend. It is not loaded again
    there before `hold_until_ns`, or before the wish is withdrawn."""

    wish: int
    model: str
    backend: str
    until_ns: int
    hold_until_ns: int = 0


@value
class WishWithdrawn:
    """Nobody waits for this wish any more, nor for what it holds away. One that has ended is no
    error."""

    wish: int


@value
class TimerFired:
    """The moment of the last SetTimer has come."""


Stimulus = (
    Arrived
    | CancelAsked
    | FirstToken
    | Quiet
    | AttemptEnded
    | BackendSeen
    | ModelsListed
    | ResidentsSeen
    | LoadEnded
    | UnloadEnded
    | OwnedBefore
    | RestartEnded
    | BackendDrainAsked
    | DrainAsked
    | BoostAsked
    | BlockAsked
    | PauseAsked
    | ResumeAsked
    | LevelAsked
    | HostSensed
    | GpusSensed
    | LoadDue
    | PolicyChanged
    | WallClockSet
    | PreloadLearned
    | LoadAsked
    | UnloadAsked
    | WishWithdrawn
    | TimerFired
)
