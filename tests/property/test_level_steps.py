"""The level under any load at any time: never faster than its dwell, one step down at a time, and
at rest under a load that stays."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broker.core.effects import Effect, TellLevel
from broker.core.level import SEED_THRESHOLDS, DegradationPolicy, Level
from broker.core.level_steps import LevelSteps
from broker.core.stimuli import GpusSensed, HostSensed, LevelAsked, LoadDue, PolicyChanged, Stimulus
from tests.unit.core.level_scene import LevelScene
from tests.unit.core.scene import SECOND_NS, of
from tests.unit.core.sensed import card, gpus, host

DWELL_NS, DWELL_NS_MAX = 15 * SECOND_NS, 240 * SECOND_NS

# At, below and above every threshold, and anything else; None: nothing is known.
EDGES = sorted({edge for each in SEED_THRESHOLDS.values() for edge in (each.up, each.down)})
LOADS = st.one_of(
    st.none(),
    st.sampled_from(EDGES),
    st.floats(0, 3),
    st.sampled_from([0.0, 0.55, 0.65, 0.75, 0.85, 0.92, 0.97]),
)
# The same moment, looks at their usual distance, and a clock that jumps.
STEPS_NS = st.one_of(
    st.just(0),
    st.integers(1, 2 * SECOND_NS),
    st.sampled_from([DWELL_NS - 1, DWELL_NS, DWELL_NS + 1, DWELL_NS_MAX, 10**16]),
)


def asked_for(load: float | None) -> Level:
    over = [each for each, at in SEED_THRESHOLDS.items() if load is not None and load > at.up]
    return max(over, default=Level.NORMAL)


def is_below(load: float | None, level: Level) -> bool:
    return level > Level.NORMAL and (load is None or load < SEED_THRESHOLDS[level].down)


class LevelMachine(RuleBasedStateMachine):
    """Looks at a load, and holds each step against the rules, kept in its own books."""

    @initialize()
    def begin(self) -> None:
        policy = DegradationPolicy(dwell_ns=DWELL_NS, dwell_ns_max=DWELL_NS_MAX)
        self.steps = LevelSteps(policy)
        self.now_ns = 0
        self.entered_ns: dict[Level, int] = {}
        self.not_below_ns = 0  # when the load was last seen not below the present level's down

    @rule(load=LOADS, step_ns=STEPS_NS)
    def look(self, load: float | None, step_ns: int) -> None:
        self.now_ns += step_ns
        before = self.steps.level
        self.steps.look(load, self.now_ns)
        after = self.steps.level
        if after > before:
            assert after is asked_for(load)
            for level in Level:
                if before < level <= after:
                    self.entered_ns[level] = self.now_ns
        elif after < before:
            assert after == before - 1
            assert is_below(load, before)
            assert self.now_ns - self.entered_ns[before] >= DWELL_NS
            assert self.now_ns - self.not_below_ns >= DWELL_NS
        assert after >= asked_for(load)
        if after is not before or not is_below(load, after):
            self.not_below_ns = self.now_ns

    @rule(load=LOADS)
    def a_load_that_stays_settles(self, load: float | None) -> None:
        """Within a dwell for each level, at whatever distance it is looked at."""
        least = asked_for(load)
        for _ in range(len(Level) - 1):
            self.look(load, 0)
            self.look(load, DWELL_NS_MAX)
        settled = self.steps.level
        assert least <= settled
        assert not is_below(load, settled)
        for _ in range(3):
            self.look(load, DWELL_NS_MAX)
            assert self.steps.level is settled

    @invariant()
    def a_dwell_is_within_its_limits(self) -> None:
        assert DWELL_NS <= self.steps.dwell_ns <= DWELL_NS_MAX


TestLevel = LevelMachine.TestCase
TestLevel.settings = settings(max_examples=150, stateful_step_count=60)


@given(st.lists(st.tuples(LOADS, STEPS_NS), max_size=120))
def test_a_level_is_entered_at_most_once_in_each_dwell(
    looks: list[tuple[float | None, int]],
) -> None:
    policy = DegradationPolicy(dwell_ns=DWELL_NS, dwell_ns_max=DWELL_NS_MAX)
    steps, now_ns = LevelSteps(policy), 0
    entered: dict[Level, list[int]] = {level: [] for level in Level}
    for load, step_ns in looks:
        now_ns += step_ns
        before = steps.level
        steps.look(load, now_ns)
        for level in Level:
            if before < level <= steps.level:
                entered[level].append(now_ns)
    for moments in entered.values():
        gaps = [after - at for at, after in pairwise(moments)]
        assert all(gap >= DWELL_NS for gap in gaps)


@given(st.integers(1, 400), st.integers(1, 400))
def test_a_load_that_comes_and_goes_in_any_rhythm_moves_the_level_ever_less(
    high_s: int, low_s: int
) -> None:
    """However it swings: from the time when it was learned on, at most once in the longest dwell
    each level is entered, but for what one whole turn takes."""
    policy = DegradationPolicy(dwell_ns=DWELL_NS, dwell_ns_max=DWELL_NS_MAX)
    steps, entered = LevelSteps(policy), []
    learned_s, until_s = 2_000, 8_000
    for second in range(until_s):
        before = steps.level
        load = 0.85 if second % (high_s + low_s) < high_s else 0.1
        steps.look(load, second * SECOND_NS)
        if before < Level.LEVEL_2 <= steps.level and second >= learned_s:
            entered.append(second)
    assert len(entered) <= (until_s - learned_s) * SECOND_NS // DWELL_NS_MAX + 1


# The whole of it: sensors, an operator, reloads

ASKED = st.sampled_from([None, *Level])


@st.composite
def stimuli(draw: st.DrawFn) -> tuple[int, str, float, Level | None]:
    kinds = st.sampled_from(["host", "gpu", "cpu", "due", "asked", "asked for a while", "reload"])
    return draw(STEPS_NS), draw(kinds), draw(st.floats(0, 1)), draw(ASKED)


def stimulus(scene: LevelScene, kind: str, load: float, level: Level | None) -> Stimulus:
    now_ns = scene.now_ns
    match kind:
        case "host":
            return HostSensed(host(free_gb=64 * (1 - load), at_ns=now_ns))
        case "cpu":
            return HostSensed(host(cpu=load, at_ns=now_ns))
        case "gpu":
            used = card(16 * load, ours_gb=0, others_gb=16 * load)
            return GpusSensed(gpus(used, at_ns=now_ns))
        case "asked":
            return LevelAsked(level=level)
        case "asked for a while":
            return LevelAsked(level=level, until_ns=now_ns + int(load * DWELL_NS_MAX))
        case "reload":
            decided = DegradationPolicy(is_automatic=load < 0.7, settle_ns=0)
            return PolicyChanged(
                type(scene.engine.policy)(
                    backends=scene.engine.policy.backends, degradation=decided
                )
            )
    return LoadDue()


@given(st.lists(stimuli(), max_size=60))
def test_whatever_happens_what_is_told_is_what_holds(
    story: list[tuple[int, str, float, Level | None]],
) -> None:
    """The words on the level make one chain, and come when and only when the level, its setter or
    its end change; an operator's level holds to its end; the view agrees with what holds, and
    nobody is sent away for nothing or for ever."""
    scene, told = LevelScene(), list[TellLevel]()
    by_hand: Level | None = None
    until_ns: int | None = None
    state = shown(scene)

    def hear(effects: list[Effect]) -> None:
        nonlocal state
        words, before, state = of(effects, TellLevel), state, shown(scene)
        assert len(words) == (state != before)
        told.extend(words)

    for step_ns, kind, load, level in story:
        hear(scene.wait(step_ns))
        if until_ns is not None and scene.now_ns >= until_ns:
            by_hand = until_ns = None
        word = stimulus(scene, kind, load, level)
        hear(scene.turn(word))
        if isinstance(word, LevelAsked):
            by_hand, until_ns = word.level, word.until_ns if word.level is not None else None
        view = scene.view()
        assert view.level is scene.level
        assert scene.memory_level <= scene.level
        assert view.until_ns == until_ns
        if by_hand is not None:
            assert (scene.level, scene.memory_level) == (by_hand, Level.NORMAL)
        elif not scene.engine.policy.degradation.is_automatic:
            assert scene.level is Level.NORMAL
        retry_ns = scene.engine.degradation.retry_after_ns(scene.now_ns)
        assert SECOND_NS <= retry_ns <= DWELL_NS_MAX
    assert [each.before for each in told] == [Level.NORMAL, *(each.level for each in told)][
        : len(told)
    ]
    assert scene.level is (told[-1].level if told else Level.NORMAL)
    assert all(each.why for each in told)


def shown(scene: LevelScene) -> tuple[Level, bool, int | None]:
    view = scene.view()
    return view.level, view.is_automatic, view.until_ns
