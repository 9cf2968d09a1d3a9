"""The world around a perfect shell: agents, backends, strangers and time, which do what they like.

Whoever drives it (Hypothesis, or a seeded story) makes the choices. Every action may be asked for
at any time: one that is not possible now does nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from broker.core.effects import Load
from broker.core.engine import Engine
from broker.core.errors import (
    BackendBusy,
    BackendFailed,
    BackendUnreachable,
    BrokerError,
    Cancelled,
    LoadFailed,
    LoadHung,
)
from broker.core.level import Level
from broker.core.ports import Resident
from broker.core.requests import AttemptId, Outcome
from broker.core.servers import SHUT_DOUBLED_MAX, SHUT_NS
from broker.core.stimuli import (
    AttemptEnded,
    BackendSeen,
    DrainAsked,
    FirstToken,
    LevelAsked,
    LoadEnded,
    ModelsListed,
    Quiet,
    ResidentsSeen,
    RestartEnded,
    ResumeAsked,
    TimerFired,
    UnloadEnded,
)
from tests.property.house_rules import FAILED_LOAD_HOLD_NS, GRACE_NS, HOUSES
from tests.property.server_books import MODELS, spec
from tests.property.unruly_people import T, UnrulyPeople
from tests.unit.core.scene import MINUTE_NS, SECOND_NS

# What a backend may list: all, one deleted, one pulled anew under its name, one name more.
LISTS: Final = (
    MODELS,
    MODELS[:2],
    (*MODELS[:2], spec("o", 2, 3000, runner="blob-o2")),
    (*MODELS, spec("alias", 1, 1000, runner="blob-m")),
)

SHUT_NS_MAX: Final = SHUT_NS << SHUT_DOUBLED_MAX


class UnrulyWorld(UnrulyPeople):
    """Actions, and in the end a way to rest."""

    # Actions: backends

    def give_token(self) -> None:
        waiting = [id_ for id_, call in self.calls.items() if not call.has_token]
        if waiting:
            attempt = self.choose(waiting)
            self.calls[attempt].has_token = True
            self.feed(FirstToken(attempt))

    def end_call(self) -> None:
        if self.calls:
            attempt = self.choose(list(self.calls))
            errors = [
                *[None] * 3,
                BackendFailed("500"),
                BackendBusy("503", retry_after_ns=3 * SECOND_NS),
                BackendUnreachable("refused"),
            ]
            self._end(attempt, self.choose(errors))

    def _end(self, attempt: AttemptId, error: BrokerError | None) -> None:
        """Its backend tells what was used, also of what it did not complete; or it does not."""
        pieces = self.choose([1, 2, 30]) if self.calls[attempt].has_token else 0
        if isinstance(error, BackendUnreachable):
            self.feed(AttemptEnded(attempt, error, pieces=pieces))
        else:
            prompt, output = self.choose([(0, 0), (10, 1), (25, 40), (1000, 300)])
            goes_on = self.choose([True, True, False])
            self.feed(
                AttemptEnded(attempt, error, prompt, output, pieces=pieces, is_continuable=goes_on)
            )

    def be_quiet(self) -> None:
        """A stream gives nothing for a while."""
        streaming = [id_ for id_, call in self.calls.items() if call.has_token]
        if streaming:
            for_ns = self.choose([SECOND_NS // 2, 2 * SECOND_NS, 2 * MINUTE_NS])
            attempt = self.choose(streaming)
            pieces, gap_ns = self.choose([(1, 0), (20, SECOND_NS // 20)])
            self.feed(Quiet(attempt, max(0, self.now_ns - for_ns), pieces, gap_ns))

    def end_abort(self) -> None:
        """What was told to end does so, as it mostly will."""
        aborted = [id_ for id_, call in self.calls.items() if call.is_aborted]
        if aborted:
            self._end(self.choose(aborted), Cancelled("aborted"))

    def end_switch(self) -> None:
        names = [name for name, each in self.servers.items() if each.switching is not None]
        if names:
            errors = [
                *[None] * 6,
                LoadFailed("out of memory"),
                LoadHung("nothing was heard of it"),
                BackendUnreachable("refused"),
            ]
            self._end_switch(self.choose(names), self.choose(errors))

    def end_restart(self) -> None:
        restarting = sorted(self.health.restarting)
        if restarting:
            error = self.choose([None, None, BackendFailed("status 1")])
            self.feed(RestartEnded(self.choose(restarting), error))

    def _end_switch(self, name: str, error: BrokerError | None) -> None:
        server = self.servers[name]
        switch, server.switching = server.switching, None
        assert switch is not None
        self.now_ns += 1
        if isinstance(switch, Load):
            if error is None:
                server.loaded[switch.runner] = "us"
            self.feed(LoadEnded(name, switch.runner, error))
        else:
            if error is None:
                server.loaded.pop(switch.runner, None)
            elif isinstance(error, LoadFailed) and switch.runner in server.loaded:
                server.loaded[switch.runner] = "others"  # it would not leave: not ours any more
            self.feed(UnloadEnded(name, switch.runner, error))

    def fall_or_rise(self) -> None:
        name = self.choose(list(self.servers))
        up, is_mute = self.choose([*[(True, False)] * 10, (False, False), (False, True)])
        self.feed(BackendSeen(name, up, "" if up else "no answer", is_mute))

    def list_models(self) -> None:
        name = self.choose(list(self.servers))
        listed = self.choose(LISTS)
        in_use = {call.runner for call in self.calls.values() if call.backend == name}
        if in_use <= {each.runner for each in listed}:
            self.servers[name].listed = listed
            self.feed(ModelsListed(name, listed))

    def others_load(self) -> None:
        name = self.choose(list(self.servers))
        backend, server = self.engine.backends[name], self.servers[name]
        # What a renewal may bring back cannot be told from what others load meanwhile.
        back = {x for x, until in backend.expected_until_ns.items() if self.now_ns < until}
        known = backend.residents.keys() | back
        free = [each.runner for each in server.listed if each.runner not in known]
        if free and server.switching is None:
            server.loaded.setdefault(self.choose(free), "others")

    def vanish(self) -> None:
        name = self.choose(list(self.servers))
        idle = [runner for runner in self.servers[name].loaded if not self.slots.held(name, runner)]
        if idle:
            del self.servers[name].loaded[self.choose(idle)]

    def look(self) -> None:
        """A list of residents that is news."""
        self.now_ns += 1
        self.feed(self._list(self.choose(list(self.servers))))

    def ask(self) -> None:
        """A list of residents that will come late."""
        name = self.choose(list(self.servers))
        self.servers[name].old_list = self._list(name)

    def hear(self) -> None:
        name = self.choose(list(self.servers))
        late = self.servers[name].old_list
        if late is not None:
            self.servers[name].old_list = None
            self.feed(late)

    def _list(self, name: str) -> ResidentsSeen:
        server = self.servers[name]
        by_runner = {each.runner: each for each in server.listed}
        rows = [
            Resident(
                name=by_runner[runner].name if runner in by_runner else f"gone-{runner}:latest",
                digest=runner,
                memory_bytes=by_runner[runner].size_bytes if runner in by_runner else 1,
                gpu_memory_bytes=by_runner[runner].size_bytes if runner in by_runner else 0,
                num_ctx=4096,
            )
            for runner in server.loaded
        ]
        return ResidentsSeen(name, tuple(rows), self.now_ns)

    # Actions: time

    def let_time_pass(self) -> None:
        durations = [
            SECOND_NS // 10,
            1,
            SECOND_NS,
            SECOND_NS,
            SECOND_NS,
            40 * SECOND_NS,
            6 * MINUTE_NS,
        ]
        self.wait(self.choose(durations))

    def fire_early(self) -> None:
        """Event loops may be early by the resolution of their clocks."""
        if self.alarm_ns is not None:
            self.alarm_ns = None
            self.feed(TimerFired())

    # The end

    def come_to_rest(self) -> None:
        """Faults stop: everybody answers, others leave, and every call comes to a good end."""
        for name, server in self.servers.items():
            server.old_list = None
            server.listed = MODELS
            self.feed(ModelsListed(name, MODELS))
            self.feed(BackendSeen(name, True))
        for name in sorted(self.health.restarting):
            self.feed(RestartEnded(name))
        for scope in sorted({scope for scope, _ in self.operators.changes}, key=repr):
            self.feed(ResumeAsked(scope))
        self.feed(LevelAsked(level=Level.NORMAL))
        self.wait(SHUT_NS_MAX if self.health.is_any_wedged else FAILED_LOAD_HOLD_NS)
        for _ in range(200):
            for name, server in self.servers.items():
                for runner in [each for each, owner in server.loaded.items() if owner == "others"]:
                    if not self.slots.held(name, runner):
                        del server.loaded[runner]
                if server.switching is not None:
                    self._end_switch(name, None)
                self.now_ns += 1
                self.feed(self._list(name))
            for attempt in list(self.calls):
                self.feed(AttemptEnded(attempt, None, 5, 5))
            self.wait(GRACE_NS)
            if not self.live and all(each.switching is None for each in self.servers.values()):
                return
        waiting = [key for key in self.live if not self._is_hopeless(key)]
        assert not waiting, f"{sorted(waiting)} wait though nothing is in their way"
        self.wait(15 * MINUTE_NS)  # more than anybody is given
        assert not self.live, f"{sorted(self.live)} outlived their time"

    def _is_hopeless(self, key: tuple[str, str]) -> bool:
        """Would its model be there only after its time, by how long loads have taken?"""
        record, engine = self.engine.records[key], self.engine
        load_ns = engine.estimates.load_ns(record.line[0]) or 0.0
        return self.now_ns + load_ns > engine._phases.waits_until_ns(record)

    def check_nothing_remains(self) -> None:
        """Every request had one end that is counted; no record, no slot, no alarm is left over but
        the renewals of what is resident."""
        engine = self.engine
        assert (engine.records, engine.lines, engine.attempts) == ({}, {}, {})
        ended = engine.tally.outcomes
        assert ended == {each: self.outcomes.count(each) for each in Outcome}
        assert self.finished == self.admitted
        self.buckets.check_settled()
        assert (engine.tally.queued, engine.tally.running) == (0, 0)
        self.feed(DrainAsked(self.now_ns))
        assert self.drained == 1
        self.wait(5 * MINUTE_NS)  # what is held off, or not to be drained, is so for a while
        renewals = sum(len(each.residents) for each in engine.backends.values())
        assert len(engine.timers) <= renewals


# What may happen, and how often against the rest.
_WEIGHTS: Final = {
    "arrive": 12,
    "flood": 2,
    "urge": 4,
    "come_when_told": 2,
    "cancel": 1,
    "boost": 1,
    "block": 1,
    "pause": 1,
    "resume": 2,
    "reload": 1,
    "wish_load": 2,
    "wish_unload": 1,
    "withdraw": 1,
    "set_level": 1,
    "sense": 2,
    "explain": 2,
    "drain": 1,
    "give_token": 2,
    "end_call": 4,
    "end_abort": 2,
    "be_quiet": 1,
    "end_switch": 5,
    "end_restart": 1,
    "fall_or_rise": 3,
    "list_models": 1,
    "others_load": 1,
    "vanish": 1,
    "look": 2,
    "ask": 1,
    "hear": 1,
    "let_time_pass": 2,
    "fire_early": 1,
}
ACTIONS: Final = [name for name, weight in _WEIGHTS.items() for _ in range(weight)]

# The same where little goes wrong, and urgent work comes among what may be set aside for it.
_PRESSED: Final = {
    "arrive": 12,
    "urge": 8,
    "cancel": 1,
    "pause": 1,
    "resume": 2,
    "reload": 1,
    "explain": 1,
    "give_token": 3,
    "end_call": 2,
    "end_abort": 4,
    "end_switch": 6,
    "look": 1,
    "let_time_pass": 3,
}
PRESSED_ACTIONS: Final = [name for name, weight in _PRESSED.items() for _ in range(weight)]


def replay(world: UnrulyWorld) -> list[str]:
    """What a fresh engine answers to the same words at the same times."""
    engine = Engine(world.house.first)
    return [repr(engine.handle(stimulus, now_ns)) for stimulus, now_ns, _ in world.story]


def digest_of_story(seed: int, steps: int, actions: Sequence[str] = ACTIONS) -> str:
    """A story told by a seeded random number generator, as a digest of all answers."""
    world = story(seed, steps, actions)
    return sha256("\n".join(answer for _, _, answer in world.story).encode()).hexdigest()


def story(seed: int, steps: int, actions: Sequence[str] = ACTIONS) -> UnrulyWorld:
    """The same, as it came to rest."""
    chance = random.Random(seed)

    def choose(among: Sequence[T]) -> T:
        return chance.choice(among)

    world = UnrulyWorld(choose, HOUSES[seed % len(HOUSES)])
    for _ in range(steps):
        getattr(world, chance.choice(actions))()
    world.come_to_rest()
    world.check_nothing_remains()
    return world
