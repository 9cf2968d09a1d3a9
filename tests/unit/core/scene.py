"""An engine on a stage: words to speak to it, time to let pass, and every law checked per turn."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from broker.core import invariants
from broker.core.agent_policy import OPEN_HOUSE, AgentsPolicy
from broker.core.effects import (
    AbortAttempt,
    Effect,
    Finish,
    Load,
    SetTimer,
    StartAttempt,
    TellQueued,
    Unload,
)
from broker.core.engine import Engine
from broker.core.errors import BrokerError
from broker.core.estimates import SAMPLES_MIN
from broker.core.model_name import comparison_key
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.policy import EnginePolicy
from broker.core.ports import Resident
from broker.core.preemption import PreemptionPolicy
from broker.core.queueing import QueuePolicy
from broker.core.requests import (
    AttemptId,
    Criticality,
    Outcome,
    RequestKey,
    RequestKind,
    RequestSpec,
)
from broker.core.residency import Residency, ResidencyState
from broker.core.retry import RetryPolicy
from broker.core.stimuli import (
    Arrived,
    AttemptEnded,
    BackendSeen,
    CancelAsked,
    CancelCause,
    FirstToken,
    LoadEnded,
    ModelsListed,
    ModelSpec,
    PolicyChanged,
    ResidentsSeen,
    Stimulus,
    TimerFired,
    UnloadEnded,
)
from broker.core.time_outs import TimeOutPolicy

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
TIMERS_MAX = 10_000  # bounds the loop that lets time pass

E = TypeVar("E", bound=Effect)


def request(
    request_id: str,
    *,
    agent: str = "a",
    model: str = "m",
    priority: int = 5,
    deadline_ns: int = 10 * MINUTE_NS,
    content: bytes = b"content",
    num_ctx_needed: int = 0,
    needs: frozenset[str] = frozenset(),
    fallback_models: tuple[str, ...] = (),
    size_bytes: int = 100,
    criticality: Criticality = Criticality.NORMAL,
) -> RequestSpec:
    return RequestSpec(
        key=(agent, request_id),
        fingerprint=content,
        kind=RequestKind.GENERATE,
        model=model,
        priority=priority,
        criticality=criticality,
        deadline_ns=deadline_ns,
        size_bytes=size_bytes,
        num_ctx_needed=num_ctx_needed,
        needs=needs,
        fallback_models=fallback_models,
    )


def arrived(
    request_id: str,
    *,
    agent: str = "a",
    model: str = "m",
    priority: int = 5,
    deadline_ns: int = 10 * MINUTE_NS,
    content: bytes = b"content",
    num_ctx_needed: int = 0,
    fallback_models: tuple[str, ...] = (),
    size_bytes: int = 100,
    criticality: Criticality = Criticality.NORMAL,
) -> Arrived:
    return Arrived(
        request(
            request_id,
            agent=agent,
            model=model,
            priority=priority,
            deadline_ns=deadline_ns,
            content=content,
            num_ctx_needed=num_ctx_needed,
            fallback_models=fallback_models,
            size_bytes=size_bytes,
            criticality=criticality,
        )
    )


def model(
    name: str,
    *,
    runner: str = "",
    slots: int = 1,
    size_bytes: int = 1000,
    num_ctx: int | None = None,
    num_ctx_max: int = 0,
    capabilities: frozenset[str] = frozenset(),
) -> ModelSpec:
    return ModelSpec(
        name=f"{name}:latest",
        runner=runner or f"blob-{name}",
        size_bytes=size_bytes,
        slots=slots,
        num_ctx=num_ctx,
        num_ctx_max=num_ctx_max,
        capabilities=capabilities,
    )


def resident(name: str, *, memory_bytes: int = 1200, num_ctx: int = 0) -> Resident:
    return Resident(
        name=f"{name}:latest",
        digest=f"manifest-{name}",
        memory_bytes=memory_bytes,
        gpu_memory_bytes=memory_bytes,
        num_ctx=num_ctx,
    )


def of(effects: list[Effect], kind: type[E]) -> list[E]:
    """The effects of one kind, in their order."""
    return [each for each in effects if isinstance(each, kind)]


def started(effects: list[Effect]) -> list[str]:
    """The request ids that were given a slot, in their order."""
    return [each.key[1] for each in of(effects, StartAttempt)]


def finished(effects: list[Effect]) -> list[tuple[str, Outcome]]:
    """(request id, outcome) of each end."""
    return [(each.key[1], each.outcome) for each in of(effects, Finish)]


def switches(effects: list[Effect]) -> list[str]:
    """Loads and unloads as words: "load m on b"."""
    words = []
    for each in effects:
        if isinstance(each, Load | Unload):
            verb = "load" if isinstance(each, Load) else "unload"
            words.append(f"{verb} {each.model.removesuffix(':latest')} on {each.backend}")
    return words


def turn(engine: Engine, stimulus: Stimulus, now_ns: int) -> list[Effect]:
    """One turn, after which every conservation law holds."""
    effects = engine.handle(stimulus, now_ns)
    invariants.check(engine)
    return effects


class Scene:
    """An engine, its clock and its alarm. Backends `b1`, `b2`... unless policies are given."""

    def __init__(
        self,
        *backends: BackendPolicy,
        queue: QueuePolicy | None = None,
        placement: PlacementPolicy | None = None,
        agents: AgentsPolicy = OPEN_HOUSE,
        retry: RetryPolicy | None = None,
        time_outs: TimeOutPolicy | None = None,
        preemption: PreemptionPolicy | None = None,
    ) -> None:
        self.engine = Engine(
            EnginePolicy(
                backends=backends or (BackendPolicy(name="b1"),),
                queue=queue or QueuePolicy(),
                placement=placement or PlacementPolicy(),
                agents=agents,
                retry=retry or RetryPolicy(),
                time_outs=time_outs or TimeOutPolicy(),
                preemption=preemption or PreemptionPolicy(),
            )
        )
        self.now_ns = 0
        self.alarm_ns: int | None = None

    def turn(self, stimulus: Stimulus) -> list[Effect]:
        effects = turn(self.engine, stimulus, self.now_ns)
        for each in of(effects, SetTimer):
            self.alarm_ns = each.at_ns
        return effects

    def wait(self, duration_ns: int) -> list[Effect]:
        """Lets time pass; the alarm goes off at its moments. All effects of that time."""
        until_ns, effects = self.now_ns + duration_ns, list[Effect]()
        for _ in range(TIMERS_MAX):
            if self.alarm_ns is None or self.alarm_ns > until_ns:
                self.now_ns = until_ns
                return effects
            self.now_ns, self.alarm_ns = max(self.now_ns, self.alarm_ns), None
            effects += self.turn(TimerFired())
        raise AssertionError("the engine's alarm goes off for ever")

    # Backends

    def open(self, backend: str, *models: ModelSpec) -> list[Effect]:
        """The backend answers and tells what it has."""
        effects = self.turn(ModelsListed(backend, models))
        return effects + self.turn(BackendSeen(backend, True))

    def down(self, backend: str, problem: str = "refused") -> list[Effect]:
        return self.turn(BackendSeen(backend, False, problem))

    def up(self, backend: str) -> list[Effect]:
        return self.turn(BackendSeen(backend, True))

    def seen(self, backend: str, *residents: Resident, asked_ns: int | None = None) -> list[Effect]:
        """What the backend holds, asked just now unless it is said when."""
        if asked_ns is None:
            self.now_ns += 1
            asked_ns = self.now_ns
        return self.turn(ResidentsSeen(backend, residents, asked_ns))

    def loaded(
        self, name: str, backend: str = "b1", error: BrokerError | None = None
    ) -> list[Effect]:
        return self.turn(LoadEnded(backend, self._runner(name, backend), error))

    def unloaded(
        self, name: str, backend: str = "b1", error: BrokerError | None = None
    ) -> list[Effect]:
        return self.turn(UnloadEnded(backend, self._runner(name, backend), error))

    def _runner(self, name: str, backend: str) -> str:
        known = self.engine.backends[backend].models
        return known[comparison_key(name)].runner

    def residency(self, name: str, backend: str = "b1") -> Residency:
        return self.engine.backends[backend].residents[self._runner(name, backend)]

    def state(self, name: str, backend: str = "b1") -> ResidencyState:
        residency = self.engine.backends[backend].residents.get(self._runner(name, backend))
        return ResidencyState.ABSENT if residency is None else residency.state

    # Attempts

    def attempt(self, request_id: str, agent: str = "a") -> AttemptId:
        """The attempt of a request that is under way."""
        key: RequestKey = (agent, request_id)
        for each in self.engine.attempts.values():
            if each.record.spec.key == key:
                return each.id
        raise AssertionError(f"{request_id} has no attempt")

    def ends(
        self,
        request_id: str,
        error: BrokerError | None = None,
        *,
        agent: str = "a",
        prompt_tokens: int = 0,
        output_tokens: int = 0,
    ) -> list[Effect]:
        """The backend call of this request returns."""
        attempt = self.attempt(request_id, agent)
        return self.turn(AttemptEnded(attempt, error, prompt_tokens, output_tokens))

    def end_one(self, *, output_tokens: int = 0) -> tuple[str, str]:
        """The oldest call returns well; whose it was. With one slot: whose turn it was."""
        attempt = next(iter(self.engine.attempts.values()))
        self.turn(AttemptEnded(attempt.id, None, 0, output_tokens))
        return attempt.record.spec.key

    def order(self) -> str:
        """Lets everything run to its end, one call after the other; the ids as they were served."""
        names = []
        while self.engine.attempts:
            names.append(self.end_one()[1])
        return " ".join(names)

    def measured(
        self,
        service_ns: int = SECOND_NS,
        *,
        samples: int = SAMPLES_MIN,
        agent: str = "a",
        model: str = "m",
        prompt_tokens: int = 0,
        output_tokens: int = 0,
    ) -> None:
        """So many requests run alone and as long as this, the first token at half of it."""
        for number in range(samples):
            name = f"sample{number}"
            deadline_ns = self.now_ns + service_ns + 10 * MINUTE_NS
            self.turn(arrived(name, agent=agent, model=model, deadline_ns=deadline_ns))
            self.wait(service_ns // 2)
            self.turn(FirstToken(self.attempt(name, agent)))
            self.wait(service_ns - service_ns // 2)
            self.ends(name, agent=agent, prompt_tokens=prompt_tokens, output_tokens=output_tokens)

    # Operators

    def reload(
        self, *, queue: QueuePolicy | None = None, agents: AgentsPolicy | None = None
    ) -> list[Effect]:
        """The operator's decisions change, as far as they are given here."""
        policy = self.engine.policy
        changed = replace(policy, queue=queue or policy.queue, agents=agents or policy.agents)
        return self.turn(PolicyChanged(changed))


def serving(
    *models: ModelSpec,
    queue: QueuePolicy | None = None,
    placement: PlacementPolicy | None = None,
    agents: AgentsPolicy = OPEN_HOUSE,
    first_agent: str = "a",
) -> Scene:
    """A scene with one backend that has these models and has loaded the first of them, for the sake
    of a request of `first_agent`."""
    scene = Scene(queue=queue, placement=placement, agents=agents)
    scene.open("b1", *models)
    name = models[0].name.removesuffix(":latest")
    scene.turn(arrived("first", agent=first_agent, model=name))
    scene.loaded(name)
    scene.ends("first", agent=first_agent)
    return scene


def told(effects: list[Effect]) -> list[tuple[str, int, str]]:
    """(request id, position, reason) of each word to a waiting client."""
    return [(each.key[1], each.position, each.reason.value) for each in of(effects, TellQueued)]


def aborted(effects: list[Effect]) -> list[AttemptId]:
    return [each.attempt for each in of(effects, AbortAttempt)]


def busy() -> Scene:
    """A scene whose only slot is held by the request "running"."""
    scene = serving(model("m"))
    scene.turn(arrived("running"))
    return scene


def cancel(request_id: str, cause: CancelCause = CancelCause.BY_AGENT) -> CancelAsked:
    return CancelAsked(("a", request_id), cause)


def nothing_remains(scene: Scene) -> bool:
    """Neither records nor lines nor attempts, and no alarm but renewals."""
    scene.wait(SECOND_NS)  # a last round of announcements may be due, for nobody
    engine = scene.engine
    resident_count = sum(len(each.residents) for each in engine.backends.values())
    return (
        not engine.records
        and not engine.lines
        and not engine.attempts
        and len(engine.timers) <= resident_count
    )
