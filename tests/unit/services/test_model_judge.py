"""What can be said of a model by looking at the broker as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from broker.core.engine import Engine
from broker.core.level import DegradationPolicy, Level
from broker.core.model_sizes import MemoryNeed
from broker.core.placement import BackendPolicy
from broker.core.policy import EnginePolicy
from broker.core.requirements import BUILT_IN_ALIASES, Alias, Requirements
from broker.core.residency import ResidencyState
from broker.core.snapshot import Snapshot, take_snapshot
from broker.models.known import KnownModel, base_of
from broker.services.model_judge import ModelJudge, ModelLore, Wanted
from tests.unit.services.test_system_topics import RESIDENT

GB = 10**9
NAMES = ("a", "b")


def model(name: str = "m:8b", **changed: Any) -> KnownModel:
    """On the disk of backend a, and takes 6 GB there."""
    known = KnownModel(name=name, base=base_of(name), downloaded=True, size_bytes=5 * GB)
    return replace(known, **{"runners": {"a": "weights"}, **changed})


def downloadable(**changed: Any) -> KnownModel:
    return model(**{"downloaded": False, "runners": {}, **changed})


@dataclass
class Box:
    """What the judge looks at; a test changes it."""

    needs: Sequence[MemoryNeed] = (MemoryNeed(num_ctx=4096, memory_bytes=6 * GB, measured=True),)
    room_bytes: Mapping[str, int] = field(default_factory=dict)
    aliases: Mapping[str, Alias] = field(default_factory=lambda: BUILT_IN_ALIASES)
    policy: DegradationPolicy = field(
        default_factory=lambda: DegradationPolicy(
            small_model_bytes_max=2 * GB, small_models=("Large:70b",)
        )
    )
    snapshot: Snapshot = field(
        default_factory=lambda: take_snapshot(
            Engine(EnginePolicy(backends=tuple(BackendPolicy(name=each) for each in NAMES))), 0
        )
    )

    def hold(self, state: ResidencyState) -> None:
        """Backend a has the model in memory so."""
        resident = replace(RESIDENT, runner="weights", state=state)
        first, *others = self.snapshot.backends
        held = replace(first, residents=(resident,))
        self.snapshot = replace(self.snapshot, backends=(held, *others))

    def judge(self) -> ModelJudge:
        lore = ModelLore(
            memory=lambda _: self.needs,
            memory_revision=lambda: 0,
            degradation=lambda: self.policy,
            room_bytes=lambda: self.room_bytes,
            aliases=lambda: self.aliases,
        )
        return ModelJudge(self.snapshot, lore)

    def fits(self, known: KnownModel) -> bool | None:
        judge = self.judge()
        return judge.fits(known, judge.needs(known), judge.places(known))


@pytest.mark.parametrize(
    ("room_bytes", "on_a", "anywhere"),
    [
        ({}, None, None),
        ({"a": 8 * GB}, True, True),
        ({"a": 6 * GB}, True, True),
        ({"a": 5 * GB}, False, None),
        ({"a": 5 * GB, "b": 4 * GB}, False, False),
        ({"a": 5 * GB, "b": 9 * GB}, False, True),
        ({"b": 9 * GB}, None, True),
        ({"gone": 9 * GB}, None, None),
    ],
)
def test_whether_there_is_room(
    room_bytes: dict[str, int], on_a: bool | None, anywhere: bool | None
) -> None:
    box = Box(room_bytes=room_bytes)
    assert box.fits(model()) is on_a, "where it is"
    assert box.fits(downloadable()) is anywhere, "on any"
    box.needs = ()
    assert box.fits(model()) is None


def test_what_is_in_memory_fits_whatever_is_known() -> None:
    box = Box(room_bytes={"a": 1})
    assert box.fits(model()) is False
    box.hold(ResidencyState.LOADING)
    assert box.fits(model()) is True


def test_what_is_small() -> None:
    judge = Box().judge()
    assert not judge.is_small(model())
    assert judge.is_small(model(size_bytes=2 * GB))
    assert judge.is_small(model("large:70B"))
    assert judge.is_small(downloadable(size_bytes=GB))
    assert judge.is_small(model(size_bytes=0)), "as the engine has it"
    assert not judge.is_small(downloadable(size_bytes=0))


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        (Wanted(), True),
        (Wanted(resident=True), False),
        (Wanted(level=Level.LEVEL_1), True),
        (Wanted(level=Level.LEVEL_2), False),
        (Wanted(level=Level.CRITICAL), False),
        (Wanted(memory_bytes_max=6 * GB), True),
        (Wanted(memory_bytes_max=6 * GB - 1), False),
        (Wanted(fits=True), False),
    ],
)
def test_what_the_list_alone_cannot_say(wanted: Wanted, holds: bool) -> None:
    assert Box(room_bytes={"a": GB}).judge().admits(wanted, model()) is holds
    assert wanted.needs_judging is (wanted not in (Wanted(), Wanted(level=Level.LEVEL_1)))


def test_what_nobody_knows_is_not_said_to_be_so() -> None:
    judge = Box(needs=(), room_bytes={"a": 99 * GB}).judge()
    assert not judge.admits(Wanted(memory_bytes_max=99 * GB), model())
    assert not judge.admits(Wanted(fits=True), model())


@pytest.mark.parametrize(
    ("state", "is_resident"),
    [(each, each is ResidencyState.RESIDENT) for each in ResidencyState],
)
def test_only_what_is_ready_is_resident(state: ResidencyState, is_resident: bool) -> None:
    box = Box()
    box.hold(state)
    assert box.judge().admits(Wanted(resident=True), model()) is is_resident
    assert box.judge().is_held(model())
    assert not box.judge().is_held(model(runners={"b": "weights"}))


def test_places_are_those_of_backends_that_are_there() -> None:
    box = Box()
    box.hold(ResidencyState.RESIDENT)
    places = box.judge().places(model(runners={"b": "x", "gone": "y", "a": "weights"}))
    assert [(each.backend, each.residency is not None) for each in places] == [
        ("b", False),
        ("a", True),
    ]


def test_aliases_that_may_mean_it() -> None:
    box = Box(
        aliases={
            **BUILT_IN_ALIASES,
            "named": Alias(models=("other:1b", "M:8b")),
            "tools": Alias(wants=Requirements(capabilities=frozenset({"tools"}))),
            "long": Alias(wants=Requirements(context_min=100_000)),
            "light": Alias(wants=Requirements(memory_bytes_max=6 * GB)),
            "tiny": Alias(wants=Requirements(size_bytes_max=GB)),
        }
    )

    def meant(known: KnownModel) -> tuple[str, ...]:
        judge = box.judge()
        return judge.aliases(known, judge.needs(known))

    able = frozenset({"completion", "tools"})
    assert meant(model(capabilities=able, context_window=8_192)) == ("light", "named", "tools")
    assert meant(model("x:1b", capabilities=able, context_window=128_000)) == (
        *("light", "long", "tools"),
    )
    assert meant(model("x:1b", capabilities=frozenset({"completion"}), size_bytes=GB)) == (
        *("light", "long", "tiny"),
    )
    assert meant(model("x:1b", is_guard=True)) == ()
    assert meant(downloadable(capabilities=able)) == ()
    box.aliases = BUILT_IN_ALIASES
    assert meant(model()) == ()
