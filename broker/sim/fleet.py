"""The agents of a workload at work in a world: they send, wait for answers, give up, try again.

Rules: a later call of a session comes after the answer of the one before; who got no answer leaves
the rest of the session. An agent of a closed loop has one session at a time. Who is refused or
failed, and may try again, does so when the broker says, else after its own pause, doubled each
time; a job is one request with all its tries, as its agent sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from broker.core.requests import PRIORITY_PREEMPTIBLE, Outcome, RequestKey
from broker.sim.ollama_catalogue import parse_name
from broker.sim.sessions import SECOND_NS, SESSIONS_MAX, Session, Sessions, think_ns
from broker.sim.workload import Story, Task
from broker.sim.workload_spec import AgentsDraft
from broker.sim.world import World

# What is worth another try: the same would be said again of what was malformed or too late.
_MAY_TRY_AGAIN: Final = frozenset({Outcome.REFUSED, Outcome.FAILED, Outcome.DISPLACED})
_DOUBLED_MAX: Final = 10
# After its deadline a request ends at once; what is left may be a switch or a slot's grace.
GRACE_NS: Final = 3_600 * SECOND_NS


@dataclass(slots=True, kw_only=True)
class Job:
    """One request as its agent sees it, with all its tries."""

    session: Session
    place: int  # in the session
    asked_ns: int
    stories: list[Story] = field(default_factory=list)

    @property
    def model(self) -> str:
        """The one that is asked for."""
        return self.session.model_of(self.place)

    @property
    def last(self) -> Story:
        return self.stories[-1]


class Fleet:
    """Sends what `sessions` plans and draws. `until_ns`: no closed loop begins a session later."""

    def __init__(
        self, sessions: Sessions, planned: Sequence[Session], *, seed: int, until_ns: int
    ) -> None:
        self.jobs: list[Job] = []
        self._sessions = sessions
        self._planned = planned
        self._seed = seed
        self._until_ns = until_ns
        self._asked: dict[RequestKey, Job] = {}
        self._open = 0  # sessions that are under way or will surely begin
        self._begun = 0
        self._world: World | None = None
        agents = [*sessions.agents, *(each.agents for each in planned)]
        deadline_s = max((each.deadline_s for each in agents), default=0.0)
        told_ns = (call.deadline_ns for each in planned for call in each.calls)
        self._deadline_ns_max = max([int(deadline_s * SECOND_NS), *told_ns])
        self.over_ns = GRACE_NS  # by then all that is known so far must have ended

    @property
    def is_done(self) -> bool:
        return not self._open

    @property
    def jobs_ended(self) -> int:
        return len(self.jobs) - len(self._asked)

    def begin(self, world: World) -> None:
        """Plans everything that is known; `world` calls `ended` from then on."""
        self._world = world
        for each in self._planned:
            self._at(each.start_ns, partial(self._start, each))
        for agents, agent_id in self._sessions.closed:
            self._think(agents, agent_id, 0, 0)

    def ended(self, story: Story) -> None:
        """A world's `on_end`."""
        job = self._asked.pop(story.task.key)
        job.stories.append(story)
        session, outcome = job.session, story.outcome
        tries = len(job.stories)
        if outcome in _MAY_TRY_AGAIN and tries <= session.agents.retries and _helps(story):
            self._at(
                self._now_ns + _pause_ns(story, session.agents, tries), partial(self._ask, job)
            )
        elif outcome is Outcome.COMPLETED and job.place + 1 < len(session.calls):
            gap_ns = int(session.agents.call_gap_s * SECOND_NS)
            due_ns = max(self._now_ns + gap_ns, session.calls[job.place + 1].not_before_ns)
            self._at(due_ns, partial(self._call, session, job.place + 1))
        elif session.agents.think_s is not None:
            # Who got no answer pauses: else a refusal at once would be asked for again at once.
            pause_s = 0.0 if outcome is Outcome.COMPLETED else session.agents.retry_s
            pause_ns = int(pause_s * SECOND_NS)
            self._think(session.agents, session.agent_id, session.number + 1, pause_ns)
        self._open -= 1

    # Inside

    @property
    def _now_ns(self) -> int:
        return self._there.timeline.now_ns

    @property
    def _there(self) -> World:
        if self._world is None:
            raise RuntimeError("the fleet has not begun")
        return self._world

    def _at(self, at_ns: int, action: Callable[[], None]) -> None:
        self._open += 1
        self.over_ns = max(self.over_ns, at_ns + self._deadline_ns_max + GRACE_NS)
        self._there.timeline.at(at_ns, action)

    def _think(self, agents: AgentsDraft, agent_id: str, number: int, pause_ns: int) -> None:
        due_ns = self._now_ns + pause_ns + think_ns(agents, self._seed, agent_id, number)
        if due_ns < self._until_ns and self._begun < SESSIONS_MAX:
            self._at(due_ns, partial(self._begin_loop, agents, agent_id, number))

    def _begin_loop(self, agents: AgentsDraft, agent_id: str, number: int) -> None:
        self._start(self._sessions.drawn(agents, agent_id, number, self._now_ns))

    def _start(self, session: Session) -> None:
        self._begun += 1
        self._call(session, 0)

    def _call(self, session: Session, place: int) -> None:
        job = Job(session=session, place=place, asked_ns=self._now_ns)
        self.jobs.append(job)
        self._ask(job)

    def _ask(self, job: Job) -> None:
        """The session stays open until this has ended."""
        task = self._task(job)
        self._asked[task.key] = job
        self._there.add([task])

    def _task(self, job: Job) -> Task:
        session, agents = job.session, job.session.agents
        call = session.calls[job.place]
        return Task(
            at_ns=self._now_ns,
            agent_id=session.agent_id,
            request_id=f"{session.number}.{job.place}.{len(job.stories)}",
            model=job.model,
            priority=session.priority,
            prompt_tokens=call.prompt_tokens,
            output_tokens=call.output_tokens,
            patience_ns=call.deadline_ns or int(agents.deadline_s * SECOND_NS),
            soft_deadline_ns=call.soft_deadline_ns or int(agents.soft_deadline_s * SECOND_NS),
            gives_up_after_ns=int((agents.gives_up_s or 0.0) * SECOND_NS),
            fallback_models=tuple(
                parsed.short
                for name in agents.fallback_models
                if (parsed := parse_name(name)) is not None
            ),
            prefer_loaded=agents.prefer_loaded,
            preemptible=(
                session.priority >= PRIORITY_PREEMPTIBLE
                if agents.preemptible is None
                else agents.preemptible
            ),
            session_id=session.session_id,
            shares=agents.name if agents.shared_tokens else "",
            shared_tokens=agents.shared_tokens,
            expected_calls=len(session.calls) if agents.tells_calls else call.expected,
            blocks=call.blocks,
        )


def _helps(story: Story) -> bool:
    """Is what was said something that another try may change?"""
    return story.error is None or story.error.retryable


def _pause_ns(story: Story, agents: AgentsDraft, tries: int) -> int:
    if story.error is not None and story.error.retry_after_ns is not None:
        return story.error.retry_after_ns
    return int(agents.retry_s * SECOND_NS) << min(tries - 1, _DOUBLED_MAX)
