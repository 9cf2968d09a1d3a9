"""Plays the world of a seed to its end and says what became of it; raises where a rule is broken.

Safety all the time. Then faults and arrivals stop, and liveness must follow: everything that can
still be served is, within a time that follows from the work; what comes afterwards as well; and a
broker that is told to leave finds nothing under way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from broker.core import invariants
from broker.core.effects import Effect
from broker.core.engine import Engine
from broker.core.healing import Health
from broker.core.placement import HOLD_DOUBLED_MAX
from broker.core.requests import Outcome
from broker.core.stimuli import BlockAsked, Stimulus
from broker.sim.ollama_work import ExchangeId, Signal, Work
from broker.sim.workload import Story, Task
from broker.sim.world import World
from broker.sim.world_faults import FaultKind, empty
from broker.sim.world_switches import UNLOAD_TIMEOUT_NS
from tests.sim.books import must
from tests.sim.calm import StatedWaits, check_gates, trickle
from tests.sim.draw_tasks import PATIENT_NS
from tests.sim.gate_watch import GateWatch
from tests.sim.oracle import Oracle
from tests.sim.people import final_orders
from tests.sim.retry_watch import RetryWatch
from tests.sim.scenario import SECOND_NS, Scenario, draw
from tests.sim.server_watch import ServerWatch

SLOWEST_LOAD_NS: Final = 25 * SECOND_NS  # with the unload before it
# A load that hangs is given up after 300 s, and a model whose load failed is left for a minute.
STRAGGLERS_NS: Final = 600 * SECOND_NS
STEPS_MAX: Final = 2_000_000
TIMERS_OWN_MAX: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """The end of a world. `digest` sums up everything that the engine heard and said."""

    seed: int
    digest: str
    outcomes: Counter[Outcome]
    loads: int
    waits_stated: int  # of requests that came when all was well
    ended_ns: int


class Judges:
    """The oracle, the watch at the servers, and the engine's own laws, in each turn."""

    def __init__(self, scenario: Scenario, engine: Engine) -> None:
        self.retries = RetryWatch(scenario)
        self.oracle = Oracle(scenario, GateWatch(scenario, engine), self.retries)
        self.watch = ServerWatch(scenario)
        self.waits = StatedWaits(engine)
        self._engine = engine

    def turned(self, stimulus: Stimulus, effects: Sequence[Effect], now_ns: int) -> None:
        invariants.check(self._engine)
        self.oracle.turned(stimulus, effects, now_ns)
        self.watch.check()
        self.waits.turned(stimulus, effects, now_ns)

    def opened(self, server: str, exchange: ExchangeId, work: Work) -> None:
        self.watch.opened(server, exchange, work)

    def closed(self, server: str, exchange: ExchangeId) -> None:
        self.watch.closed(server, exchange)

    def signalled(self, server: str, signal: Signal) -> None:
        self.watch.signalled(server, signal)


def play(seed: int) -> Played:
    """Raises with the command that replays the seed in a note."""
    try:
        return Play(draw(seed)).run()
    except Exception as error:
        error.add_note(f"to replay: .venv/bin/python -m tests.sim.replay {seed}")
        raise


class Play:
    """One world from its beginning to its end."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.engine = Engine(scenario.policy)
        self.judges = Judges(scenario, self.engine)
        self.world = World(self.engine, scenario.world_sites(), judge=self.judges)
        self.world.switches.load_timeout_ns = scenario.load_timeout_ns
        self.judges.watch.attend(self.world.servers)
        self._steps = 0

    def run(self) -> Played:
        scenario, world, oracle = self.scenario, self.world, self.judges.oracle
        self._bring(scenario.tasks)
        world.afflict(scenario.faults)
        for at_ns, asked in scenario.orders:
            world.command(at_ns, asked)
        for asked in final_orders(scenario.policy, scenario.orders):
            world.command(scenario.calm_ns, asked)
        if scenario.is_gentle:
            self.judges.watch.be_strict()
        world.timeline.run(scenario.calm_ns)
        self._come_to_rest(scenario.tasks, STRAGGLERS_NS)
        self._check_stories(scenario.tasks)
        self._serve_wave()
        self._check_backends()
        self._keep_bounds()
        self._leave()
        must(oracle.outcomes == self._told(), "the tally of the engine is another")
        return Played(
            seed=scenario.seed,
            digest=oracle.digest,
            outcomes=oracle.outcomes,
            loads=sum(each.loads for each in oracle.books.values()),
            waits_stated=self.judges.waits.stated,
            ended_ns=world.timeline.now_ns,
        )

    def _bring(self, tasks: Sequence[Task]) -> None:
        self.judges.oracle.expect(tasks)
        self.world.add(tasks)

    def _run_until(self, is_so: Callable[[], bool], limit_ns: int, words: str) -> None:
        while not is_so():
            self._steps += 1
            must(self._steps < STEPS_MAX, f"the world goes in circles: {words}")
            must(self.world.timeline.step(limit_ns), f"{words} by {limit_ns}")

    def _come_to_rest(self, tasks: Sequence[Task], slack_ns: int) -> None:
        """All work one after the other, and every line of a model loaded anew a few times."""
        scenario, oracle = self.scenario, self.judges.oracle
        work_ns = sum(scenario.service_ns(task) for task in tasks)
        lines = {scenario.line(task) for task in tasks}
        loads_ns = 6 * len(lines) * SLOWEST_LOAD_NS
        limit_ns = self.world.timeline.now_ns + work_ns + loads_ns + slack_ns
        words = "not everything came to an end in the time of its work and STRAGGLERS_NS beside it,"
        self._run_until(lambda: not oracle.live, limit_ns, words)

    def _check_stories(self, tasks: Sequence[Task]) -> None:
        kinds = self.scenario.kinds
        for task in tasks:
            story = self.world.stories[task.key]
            must(story.endings == 1, f"{task.key} ended {story.endings} times")
            if task.patience_ns == PATIENT_NS:
                must(story.outcome is not Outcome.EXPIRED, f"{task.key} waited for ever")
            harms = kinds - {FaultKind.LISTS_LATE, FaultKind.CLOCK_JUMP, FaultKind.SLOW}
            if not (harms or self.scenario.moves_backends):
                must(story.outcome is not Outcome.FAILED, f"{task.key}: {story.error!r}")
            if story.outcome is Outcome.CANCELLED:
                was_blocked = any(
                    isinstance(each, BlockAsked) and each.cancels_waiting
                    for _, each in self.scenario.orders
                )
                must(task.leaves_after_ns or was_blocked, f"{task.key} was cancelled by nobody")
            if story.outcome is Outcome.COMPLETED:
                self._check_times(story)

    def _check_times(self, story: Story) -> None:
        task = story.task
        moments = [task.at_ns, story.started_ns, story.first_token_ns, story.ended_ns]
        must(sorted(moments) == moments and all(moments), f"{task.key} went back in time")

    def _serve_wave(self) -> None:
        """With every server healthy and empty, or as it was left, all that comes is served."""
        world, timeline = self.world, self.world.timeline
        if not self.scenario.is_gentle:
            for server in world.servers.values():
                empty(server)
        self._run_until(self._nothing_switches, timeline.now_ns + STRAGGLERS_NS, "a switch goes on")
        # Each renewal has ended, each list was heard, no model is left alone for having failed.
        hold_ns = self.scenario.policy.placement.failed_load_hold_ns << HOLD_DOUBLED_MAX
        timeline.run(timeline.now_ns + max(hold_ns, UNLOAD_TIMEOUT_NS) + 30 * SECOND_NS)
        self.judges.watch.be_strict()
        wave = self.scenario.wave(timeline.now_ns)
        self._bring(wave)
        timeline.run(timeline.now_ns + SECOND_NS)
        self._come_to_rest(wave, 0)
        for task in wave:
            story = world.stories[task.key]
            completed = story.outcome is Outcome.COMPLETED
            must(completed, f"{task.key}, when all was well: {story.outcome} {story.error!r}")

    def _keep_bounds(self) -> None:
        """What comes one after the other starts within the time that is stated of it."""
        world, timeline = self.world, self.world.timeline
        self.judges.waits.begin()
        tasks = trickle(self.scenario, timeline.now_ns)
        self._bring(tasks)
        timeline.run(tasks[-1].at_ns)
        self._come_to_rest(tasks, 0)
        for task in tasks:
            completed = world.stories[task.key].outcome is Outcome.COMPLETED
            must(completed, f"{task.key}, when all was well: {world.stories[task.key].error!r}")
        timeline.run(timeline.now_ns + SECOND_NS)  # graces end
        check_gates(self.engine, timeline.now_ns)

    def _check_backends(self) -> None:
        for backend in self.engine.backends.values():
            must(backend.up, f"{backend.name} is well, and the broker does not know")
            must(not backend.healing, f"{backend.name} is well, and {backend.healing} is cured")
            is_known = backend.health in (Health.WELL, Health.SUSPECT)
            # The next load there tells; nobody need it while others serve all that comes.
            may_tell = backend.health is Health.WEDGED and backend.may_load
            must(is_known or may_tell, f"{backend.name} is well, and counts as {backend.health}")

    def _nothing_switches(self) -> bool:
        books = self.judges.oracle.books.values()
        return not any(each.loading or each.unloading for each in books)

    def _leave(self) -> None:
        """Slots in their grace come free, then nothing is left and the broker may go."""
        world, timeline, engine = self.world, self.world.timeline, self.engine
        world.drain(timeline.now_ns + SECOND_NS)
        late = replace(self.scenario.wave(timeline.now_ns)[0], request_id="late")
        self._bring([late])
        timeline.run(timeline.now_ns)
        self._run_until(lambda: world.drained == 1, timeline.now_ns + 5 * SECOND_NS, "not drained")
        must(not (engine.records or engine.lines or engine.attempts), "something remains")
        must(not world.calls_open, f"{world.calls_open} calls of attempts are open")
        # Of requests none: renewals of what is loaded, and a few of the engine's own remain.
        timers_max = TIMERS_OWN_MAX + sum(each.policy.resident_max for each in self.scenario.sites)
        must(len(engine.timers) <= timers_max, f"{len(engine.timers)} timers remain")
        must(world.stories[late.key].outcome is Outcome.REFUSED, "it took work while it left")

    def _told(self) -> Counter[Outcome]:
        told = self.engine.tally.outcomes
        return Counter({outcome: count for outcome, count in told.items() if count})
