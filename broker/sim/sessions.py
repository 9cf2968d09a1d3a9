"""Who asks for what and when: the sessions that the agents of a workload begin.

Rules: each draw comes from a chance of its own, seeded by the workload's seed and the names of
agent and session, so that what one does never changes what another draws. A session is planned as
a whole; when its later calls come depends on the answers. Arrivals of open loops and of the trace
are stretched together to the wanted rho; closed loops follow the answers and are not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from broker.sim.ollama_catalogue import parse_name
from broker.sim.ollama_model_card import SimModel
from broker.sim.trace_row import TraceRow
from broker.sim.workload import hash_of
from broker.sim.workload_day import Days
from broker.sim.workload_problem import Problem, WorkloadProblems
from broker.sim.workload_spec import AgentsDraft, Workload

SECOND_NS: Final = 1_000_000_000
SESSIONS_MAX: Final = 1_000_000
_NOBODY: Final = AgentsDraft(name="agent", loop="trace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request of a session: not before this moment, and not before the last one's answer."""

    prompt_tokens: int
    output_tokens: int
    not_before_ns: int = 0
    deadline_ns: int = 0  # how long it may take; 0: as its agents have it
    soft_deadline_ns: int = 0  # the same of its soft deadline
    blocks: tuple[int, ...] = ()
    expected: int = 0  # how many calls there will be, as its caller said; 0: it did not
    model: str = ""  # "": that of its session


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Calls of one agent, one after the other: to one model, where a call names no other. `number`
    tells its sessions apart."""

    agents: AgentsDraft
    agent_id: str
    number: int
    start_ns: int
    model: str
    priority: int
    calls: tuple[Call, ...]
    session_id: str = ""

    def model_of(self, place: int) -> str:
        """Of its call at this place."""
        return self.calls[place].model or self.model

    def service_s(self, models: Mapping[str, SimModel]) -> float:
        """What it takes alone on a machine, prompts read anew each time."""
        return sum(_service_s(each, models[each.model or self.model]) for each in self.calls)


class Sessions:
    """The sessions of one workload. `models` are those that it describes."""

    def __init__(self, workload: Workload, models: Sequence[SimModel], seed: int) -> None:
        self._workload = workload
        self._spec = workload.spec
        self._models = models
        self._popularity = [each.popularity for each in workload.spec.models]
        self._by_key = {parsed.key: each for each in models if (parsed := parse_name(each.name))}
        embed = zip(workload.spec.models, models, strict=True)
        self._embedding = {model.name for draft, model in embed if draft.embeds}
        self._seed = str(seed)
        self._rows = workload.trace.rows if workload.trace is not None else ()
        # Of each model, and of all (""): rows that tell their sizes.
        self._sized: dict[str, list[TraceRow]] = defaultdict(list)
        for row in self._rows:
            if row.prompt_tokens is not None and row.output_tokens is not None:
                self._sized[""].append(row)
                self._sized[row.model].append(row)
        if self._rows and not self._sized[""]:
            text = "no request tells its tokens: none of them ran"
            raise WorkloadProblems([Problem(source=self._source, text=text)])

    @property
    def _source(self) -> str:
        trace = self._workload.trace
        return self._workload.source if trace is None else trace.source

    @property
    def unsized(self) -> int:
        """How many requests of the trace never ran, so that their sizes are drawn from others'."""
        return sum(row.prompt_tokens is None or row.output_tokens is None for row in self._rows)

    @property
    def agents(self) -> tuple[AgentsDraft, ...]:
        return self._spec.agents

    @property
    def closed(self) -> Iterator[tuple[AgentsDraft, str]]:
        """Each agent of a closed loop."""
        for agents in self._spec.agents:
            if agents.loop == "closed":
                for n in range(agents.count):
                    yield agents, f"{agents.name}-{n}"

    def planned(self, capacity: int, rho: float | None) -> tuple[list[Session], float]:
        """All sessions whose beginning is known, in order, and by what factor time was stretched.
        `capacity` is how many requests run at once."""
        sessions = [*self._open(), *self._of_trace()]
        sessions.sort(key=lambda each: each.start_ns)
        factor = 1.0
        if rho is not None and sessions:
            factor = self._factor(sessions, capacity, rho)
            sessions = [_stretched(each, factor) for each in sessions]
        return sessions, factor

    def drawn(self, agents: AgentsDraft, agent_id: str, number: int, start_ns: int) -> Session:
        """The session that this agent begins now."""
        chance = self._chance("session", agent_id, str(number))
        row = chance.choice(self._sized[""]) if self._sized[""] else None
        prompt = _tokens(chance, agents.prompt_tokens, row.prompt_tokens if row else None)
        prompt += agents.shared_tokens
        calls = []
        for place in range(chance.randint(*agents.calls)):
            output = _tokens(chance, agents.output_tokens, row.output_tokens if row else None)
            model = self._later_model(agents, place)
            calls.append(Call(prompt_tokens=prompt, output_tokens=output, model=model))
            prompt += output + agents.adds_tokens
        model = self._model(chance, agents).name
        return Session(
            agents=agents,
            agent_id=agent_id,
            number=number,
            start_ns=start_ns,
            model=model,
            priority=chance.randint(*agents.priority),
            calls=tuple(self._shortened(each, each.model or model) for each in calls),
            session_id=str(number) if len(calls) > 1 else "",
        )

    # Inside

    def _open(self) -> Iterator[Session]:
        until_ns = int(self._spec.duration_s * SECOND_NS)
        for agents in self._spec.agents:
            if agents.every_s is None:
                continue
            expected = agents.count * self._spec.duration_s / agents.every_s
            if expected > SESSIONS_MAX:
                text = f"{agents.name} would begin more than {SESSIONS_MAX} sessions"
                raise WorkloadProblems([Problem(source=self._workload.source, text=text)])
            days = Days(agents, self._spec, self._seed)
            per_s = days.peak / agents.every_s
            for n in range(agents.count):
                agent_id = f"{agents.name}-{n}"
                chance = self._chance("arrivals", agent_id)
                at_ns, number = 0, 0
                while True:
                    at_ns += int(chance.expovariate(per_s) * SECOND_NS)
                    if at_ns >= until_ns:
                        break
                    if days.keeps(chance, at_ns):
                        yield self.drawn(agents, agent_id, number, at_ns)
                        number += 1

    def _of_trace(self) -> Iterator[Session]:
        groups = [each for each in self._spec.agents if each.loop == "trace"]
        if self._spec.agents and not groups:
            return  # it is there for its sizes
        senders = [(each, f"{each.name}-{n}") for each in groups for n in range(each.count)]
        chained: dict[tuple[str, str], list[tuple[int, TraceRow]]] = defaultdict(list)
        for number, row in enumerate(self._rows):
            chance = self._chance("row", str(number))
            if row.session:
                chained[row.agent, row.session].append((number, row))
                continue
            yield self._session(chance, [(number, row)], senders)
        for key, rows in chained.items():
            yield self._session(self._chance("chain", *key), rows, senders)

    def _session(
        self,
        chance: Random,
        rows: list[tuple[int, TraceRow]],
        senders: list[tuple[AgentsDraft, str]],
    ) -> Session:
        number, first = rows[0]
        agents, agent_id = chance.choice(senders) if senders else (_NOBODY, _NOBODY.name)
        if first.agent:
            agents, agent_id = _sender_of(first.agent, senders), first.agent
        parsed = parse_name(first.model)
        named = self._by_key[parsed.key] if parsed is not None and first.model else None
        model = named or self._model(chance, agents)
        priority = first.priority or chance.randint(*agents.priority)
        return Session(
            agents=agents,
            agent_id=agent_id,
            number=number,
            start_ns=first.arrival_ns,
            model=model.name,
            priority=priority,
            calls=tuple(self._call(chance, row) for _, row in rows),
            session_id=first.session,
        )

    def _call(self, chance: Random, row: TraceRow) -> Call:
        sized = row
        if row.prompt_tokens is None or row.output_tokens is None:
            sized = chance.choice(self._sized.get(row.model) or self._sized[""])
        return Call(
            prompt_tokens=max(1, sized.prompt_tokens or 0),
            output_tokens=max(1, sized.output_tokens or 0),
            not_before_ns=row.arrival_ns,
            deadline_ns=row.deadline_ns,
            soft_deadline_ns=row.soft_deadline_ns,
            blocks=row.blocks,
            expected=row.expected_calls,
        )

    def _model(self, chance: Random, agents: AgentsDraft) -> SimModel:
        if agents.models:
            keys = {parsed.key for name in agents.models if (parsed := parse_name(name))}
        else:
            keys = set(self._by_key)
        pairs = [
            (model, weight)
            for (key, model), weight in zip(self._by_key.items(), self._popularity, strict=True)
            if key in keys
        ]
        weights = [weight for _, weight in pairs]
        if not any(weights):  # asked for by name, though nobody else wants them
            weights = [1.0] * len(pairs)
        return chance.choices([model for model, _ in pairs], weights)[0]

    def _later_model(self, agents: AgentsDraft, place: int) -> str:
        """What a call after the first one is for; "": the same."""
        then = agents.then_models
        parsed = parse_name(then[min(place, len(then)) - 1]) if then and place else None
        return self._by_key[parsed.key].name if parsed is not None else ""

    def _shortened(self, call: Call, model: str) -> Call:
        return replace(call, output_tokens=1) if model in self._embedding else call

    def _factor(self, sessions: list[Session], capacity: int, rho: float) -> float:
        by_name = {each.name: each for each in self._models}
        service_s = sum(each.service_s(by_name) for each in sessions)
        span_s = (sessions[-1].start_ns - sessions[0].start_ns) / SECOND_NS
        if not span_s:
            text = "all requests come at one moment: they cannot be stretched to a rho"
            raise WorkloadProblems([Problem(source=self._workload.source, text=text)])
        return service_s / (capacity * rho) / span_s

    def _chance(self, *words: str) -> Random:
        return Random(hash_of(self._seed, *words))


def _service_s(call: Call, model: SimModel) -> float:
    speed = model.speed
    prefill_s = call.prompt_tokens / speed.prefill_tokens_per_s
    return prefill_s + call.output_tokens / speed.decode_tokens_per_s


def think_ns(agents: AgentsDraft, seed: int, agent_id: str, number: int) -> int:
    """How long this agent of a closed loop thinks before its session of this number."""
    if not agents.think_s:
        return 0
    chance = Random(hash_of(str(seed), "think", agent_id, str(number)))
    return int(chance.expovariate(1 / agents.think_s) * SECOND_NS)


def _sender_of(agent: str, senders: list[tuple[AgentsDraft, str]]) -> AgentsDraft:
    """The agents that a name in a trace belongs to: "opus-7" and "opus" to "opus"."""
    found = [each for each, _ in senders if agent == each.name or agent.startswith(f"{each.name}-")]
    return max(found, key=lambda each: len(each.name), default=_NOBODY)


def _tokens(chance: Random, drawn: tuple[int, int] | None, of_row: int | None) -> int:
    """Even in the logarithm: as many between 100 and 200 as between 1,000 and 2,000."""
    if drawn is None:
        return max(1, of_row or 0)
    least, most = drawn
    return round(math.exp(chance.uniform(math.log(least), math.log(most))))


def _stretched(session: Session, factor: float) -> Session:
    return replace(
        session,
        start_ns=int(session.start_ns * factor),
        calls=tuple(
            replace(each, not_before_ns=int(each.not_before_ns * factor)) for each in session.calls
        ),
    )
