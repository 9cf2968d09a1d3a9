"""The servers of the unruly world as they really are, and the calls that are made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from broker.core.effects import Load, Unload
from broker.core.engine import Engine
from broker.core.residency import ResidencyState
from broker.core.stimuli import ModelSpec, ResidentsSeen
from tests.property.entry_books import Live


def spec(name: str, slots: int, size_bytes: int, *, runner: str = "") -> ModelSpec:
    return ModelSpec(
        name=f"{name}:latest",
        runner=runner or f"blob-{name}",
        size_bytes=size_bytes,
        slots=slots,
        num_ctx_max=8192,
    )


# Of every runner that a list of the unruly world may have.
SIZES: Final = {"blob-m": 1000, "blob-n": 1500, "blob-o": 4000, "blob-o2": 3000}
MODELS: Final = (spec("m", 1, 1000), spec("n", 2, 1500), spec("o", 1, 4000))


@dataclass(slots=True, kw_only=True)
class Call:
    """A backend call that the shell makes for an attempt."""

    live: Live
    backend: str
    runner: str
    has_token: bool = False
    is_aborted: bool = False
    is_for_cure: bool = False  # closed beside a frozen call: its end says nothing of it
    is_for_urgent: bool = False  # set aside for urgent work


@dataclass(slots=True)
class Server:
    """A backend as it really is."""

    listed: tuple[ModelSpec, ...] = MODELS
    loaded: dict[str, str] = field(default_factory=dict)  # runner -> "us" or "others"
    switching: Load | Unload | None = None
    old_list: ResidentsSeen | None = None  # an answer that is on its way for long


def check_load(effect: Load, server: Server, engine: Engine) -> None:
    """It has what it is told to load; and beside what it is known to hold it is asked for no more
    than it holds, by count and, where that is known, by bytes. One that is empty may be asked for
    anything. A reload may lower what there is room for."""
    assert any(each.runner == effect.runner for each in server.listed)
    backend = engine.backends[effect.backend]
    others = [each for each in backend.residents.values() if each.runner != effect.runner]
    policy = backend.policy
    if not others or engine.reloads:
        return
    assert len(others) < (policy.loaded_max or policy.resident_max), "the server would evict one"
    stay = [each for each in others if each.state is not ResidencyState.DRAINING]
    assert len(stay) <= policy.resident_max, "more than one beyond those that are to be there"
    if policy.memory_bytes is not None:
        known = {each.runner: each.memory_bytes for each in others}  # 0: not measured yet
        sizes = [
            bytes_ or backend.memory_seen.get(runner) or int(1.2 * SIZES.get(runner, 0))
            for runner, bytes_ in {**known, effect.runner: 0}.items()
        ]
        assert sum(sizes) <= policy.memory_bytes, "more than its memory holds"
