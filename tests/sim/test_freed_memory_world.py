"""Unloads on a host whose sensor sees the GPU: no load begins before the memory of the one that
left is back, and where it never comes back everything goes on all the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from broker.core import invariants
from broker.core.effects import Effect, Load, TellSwitch
from broker.core.engine import Engine
from broker.core.placement import BackendPolicy, PlacementPolicy
from broker.core.policy import EnginePolicy
from broker.core.requests import Outcome
from broker.core.residency import SwitchStep
from broker.core.stimuli import GpusSensed, ModelSpec, Stimulus
from broker.sim.ollama_catalogue import Catalogue
from broker.sim.ollama_machine import GIB, Quirks, ServerSettings
from broker.sim.ollama_model import OllamaModel
from broker.sim.ollama_model_card import SimModel, Speed
from broker.sim.ollama_work import ExchangeId, Signal, Work
from broker.sim.workload import Task
from broker.sim.world import Site, World
from tests.unit.core.sensed import card, gpus

SECOND_NS = 1_000_000_000
MS = 1_000_000
CARD_GB = 24.0
REQUESTS = 30


def start() -> OllamaModel:
    settings = ServerSettings(
        max_loaded_models=1, memory_bytes=20 * GIB, quirks=Quirks(slot_leak_chance=0.0)
    )
    models = [
        SimModel(
            name=f"{name}:latest",
            blob=f"{ord(name):064x}",
            digest=f"{ord(name) + 1000:064x}",
            size_bytes=8 * GIB,
            parameter_count=8_000_000_000,
            architecture="llama",
            context_length_train=4_096,
            speed=Speed(
                prefill_tokens_per_s=1000.0, decode_tokens_per_s=50.0, load_bytes_per_s=4e9
            ),
        )
        for name in ("m", "n")
    ]
    return OllamaModel(Catalogue(models), settings, tokens="first_and_last")


@dataclass(slots=True)
class Card:
    """The GPU as a sensor sees it: what is listed, and what was until `recovery_ns` ago. Judges
    that nothing is loaded while that is much, but where it was waited for in vain."""

    engine: Engine
    recovery_ns: int
    world: World | None = None
    listed: dict[str, int] = field(default_factory=dict)
    lingers: list[tuple[int, int]] = field(default_factory=list)  # (until, bytes)
    told: list[TellSwitch] = field(default_factory=list)
    loads: int = 0
    early: int = 0  # loads before the memory was back

    def used_bytes(self, now_ns: int) -> int:
        """Looks at the server and counts."""
        assert self.world is not None
        rows = {each.name: each.size_vram for each in self.world.servers["s"].rows()}
        for name in [each for each in self.listed if each not in rows]:
            self.lingers.append((now_ns + self.recovery_ns, self.listed[name]))
        self.listed = rows
        self.lingers = [each for each in self.lingers if each[0] > now_ns]
        return sum(rows.values()) + sum(held for _, held in self.lingers)

    def sample(self) -> None:
        assert self.world is not None
        now_ns = self.world.timeline.now_ns
        used_gb = self.used_bytes(now_ns) / 1e9
        reading = gpus(card(used_gb, total_gb=CARD_GB, ours_gb=used_gb), at_ns=now_ns)
        self.world.timeline.after(3 * MS, partial(self.world.feed, GpusSensed(reading)))

    def turned(self, stimulus: Stimulus, effects: Sequence[Effect], now_ns: int) -> None:
        invariants.check(self.engine)
        used_bytes = self.used_bytes(now_ns)
        for effect in effects:
            if isinstance(effect, TellSwitch):
                self.told.append(effect)
            elif isinstance(effect, Load):
                self.loads += 1
                self.early += used_bytes > 0.25 * 8 * GIB

    def opened(self, server: str, exchange: ExchangeId, work: Work) -> None: ...

    def closed(self, server: str, exchange: ExchangeId) -> None: ...

    def signalled(self, server: str, signal: Signal) -> None: ...


def play(recovery_ns: int, placement: PlacementPolicy | None = None) -> Card:
    """Two models of which one fits are asked for in turn."""
    policy = EnginePolicy(
        backends=(BackendPolicy(name="s", is_local=True),),
        placement=placement or PlacementPolicy(),
    )
    engine = Engine(policy)
    seen = Card(engine, recovery_ns)
    specs = tuple(
        ModelSpec(name=each.name, runner=each.blob, size_bytes=each.size_bytes)
        for each in start().catalogue
    )
    world = seen.world = World(engine, {"s": Site(start=start, specs=specs)}, judge=seen)
    world.sense_gpus = seen.sample
    world.add(
        Task(
            at_ns=(5 + 20 * number) * SECOND_NS,
            agent_id="a",
            request_id=str(number),
            model="mn"[number % 2],
            priority=5,
            prompt_tokens=100,
            output_tokens=50,
            patience_ns=600 * SECOND_NS,
        )
        for number in range(REQUESTS)
    )
    until_s = 20 * REQUESTS + 100
    for second in range(1, until_s):
        world.timeline.at(second * SECOND_NS, seen.sample)
    world.timeline.run(until_s * SECOND_NS)
    assert all(each.outcome is Outcome.COMPLETED for each in world.stories.values())
    return seen


def test_no_load_begins_before_the_memory_is_back() -> None:
    seen = play(recovery_ns=700 * MS)
    assert seen.loads == REQUESTS
    assert seen.early == 0
    assert seen.told == []


def test_who_does_not_look_loads_too_early() -> None:
    seen = play(recovery_ns=700 * MS, placement=PlacementPolicy(memory_wait_ns=0))
    assert seen.early == REQUESTS - 1


def test_memory_that_does_not_come_back_in_time_is_told_and_everything_goes_on() -> None:
    seen = play(recovery_ns=12 * SECOND_NS)
    assert seen.loads == seen.early + 1 == REQUESTS
    assert [each.step for each in seen.told] == [SwitchStep.MEMORY_HELD] * (REQUESTS - 1)
