"""What is to be simulated: one workload on some servers, or two such sides to be compared.

Rules: servers are those of the configuration where one is given, else those of the workload; what
is said on the command line holds for each of them, on both sides. Problems of all files of a side
are told together.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from broker.config.load import load
from broker.config.schema import Config
from broker.daemon.engine_policy import engine_policy
from broker.sim.ollama_catalogue import parse_name
from broker.sim.simulation import Simulation
from broker.sim.workload_file import read_workload
from broker.sim.workload_more import with_models
from broker.sim.workload_problem import Problem, WorkloadProblems
from broker.sim.workload_sites import Backend, backends_of, models_of
from broker.sim.workload_spec import Workload

NO_CONFIGURATION: Final = (
    "there is no configuration: no agent is limited, all else is as by default"
)
_GB: Final = 1_000_000_000
_PAGE_CACHE_BYTES: Final = 64 * _GB  # a configuration does not tell the host's memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The command line. What is None is left as the files have it."""

    workload: Path
    add_model: tuple[str, ...] = ()
    config: Path | None
    compare: Path | None
    backends: int | None
    memory_gb: float | None
    slots: int | None
    resident_max: int | None
    requests: int | None
    rho: float | None
    seed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    name: str
    simulation: Simulation


def sides_of(asked: Asked) -> list[Side]:
    """One or two; WorkloadProblems or ConfigProblems where a file cannot be used."""
    workload = read_workload(asked.workload, requests_max=asked.requests)
    if asked.requests is not None and workload.trace is None:
        words = "plays no trace, of which --requests takes the first; its duration_s says how long"
        raise WorkloadProblems([Problem(source=str(asked.workload), text=words)])
    first = _side(asked, workload, asked.config)
    if asked.add_model:
        more = _side(asked, with_models(workload, asked.add_model), asked.config)
        names = [each.partition(",")[0] for each in asked.add_model]
        return [first, replace(more, name=" and ".join([first.name, *names]))]
    if asked.compare is None:
        return [first]
    if _is_workload(asked.compare):
        other = read_workload(asked.compare, requests_max=asked.requests)
        second = _side(asked, other, asked.config)
    else:
        second = _side(asked, workload, asked.compare)
    if first.name == second.name:
        second = replace(second, name=str(asked.compare))
    return [first, second]


def _side(asked: Asked, workload: Workload, config_file: Path | None) -> Side:
    names = [Path(workload.source).name]
    models = models_of(workload.spec.models)
    if config_file is None:
        policy, backends = None, backends_of(workload.spec.backends, models)
        assumed = [*workload.assumed, NO_CONFIGURATION]
        if workload.assumed_backends and asked.backends is None:
            assumed.insert(0, workload.assumed_backends)
        workload = replace(workload, assumed=tuple(assumed))
    else:
        config = load(config_file, os.environ)
        policy = engine_policy(config)
        backends = tuple(_backends(config, config_file))
        names.append(config_file.name)
    return Side(
        name=" on ".join(names),
        simulation=Simulation(
            workload,
            _as_asked(backends, asked, len(models)),
            policy=policy,
            seed=asked.seed,
            rho=asked.rho,
        ),
    )


def _backends(config: Config, file: Path) -> Iterator[Backend]:
    """The servers of a configuration. What a server of the other dialect holds it does not tell."""
    slots_of = {
        parsed.short: each.slots
        for name, each in config.models.items()
        if each.slots is not None and (parsed := parse_name(name)) is not None
    }
    others = [
        Problem(
            source=str(file),
            path=f"backends[{number}].kind",
            text=f"is {each.kind!r}, which is not simulated; --backends takes others in its place",
        )
        for number, each in enumerate(config.backends)
        if each.kind != "ollama"
    ]
    if others:
        raise WorkloadProblems(others)
    for each in config.backends:
        yield Backend(
            name=each.name,
            slots=each.slots,
            resident_max=each.resident_max,
            loaded_max=each.loaded_max,
            memory_bytes=None if each.memory_gb is None else int(each.memory_gb * _GB),
            page_cache_bytes=_PAGE_CACHE_BYTES,
            slots_of=slots_of,
        )


def _as_asked(backends: tuple[Backend, ...], asked: Asked, models: int) -> tuple[Backend, ...]:
    if asked.backends is not None:
        backends = tuple(
            replace(backends[0], name=f"server-{number}") for number in range(asked.backends)
        )
    if asked.memory_gb is not None:
        memory_bytes = int(asked.memory_gb * _GB)
        # As many as fit, unless that is said as well.
        backends = tuple(
            replace(each, memory_bytes=memory_bytes, resident_max=models, loaded_max=None)
            for each in backends
        )
    if asked.slots is not None:
        backends = tuple(replace(each, slots=asked.slots, slots_of={}) for each in backends)
    if asked.resident_max is not None:
        resident_max = asked.resident_max  # of nothing but that it is told what else there is
        backends = tuple(
            replace(each, resident_max=resident_max, loaded_max=None) for each in backends
        )
    return backends


def _is_workload(file: Path) -> bool:
    """Models are an array there, and a table in a configuration. What cannot be read as TOML is
    left to whoever reads it next, who says so."""
    if file.suffix.lower() != ".toml":
        return True
    try:
        return isinstance(tomllib.loads(file.read_text()).get("models"), list)
    except (OSError, ValueError, RecursionError):
        return False
