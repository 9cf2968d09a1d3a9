"""What the list of models costs, and what loading models ahead of requests is worth.

The list is as large as it may be: 10,000 models with 200,000 variants, of which a backend has some
500. What is measured of the list itself runs in processes of its own (`models_list.py`), the first
List after a start in a real daemon (`models_start.py`), and so is how soon those who watch see a
change (`models_watched.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from bench import models_list, models_start, models_watched
from bench.preloads import figures as preload_figures
from bench.processes import output_of, pin_self
from bench.result import Result

SEED: Final = 0
MEASURED_CORE, LOAD_CORE = 0, 1
BOUNDS: Final = {
    "list_at_start_vs_rpc": 3.0,
    "list_filter_ms": 20.0,
    "cache_write_stall_ms": 5.0,
    "preload_wasted_percent": 20.0,
}
FLOORS: Final = {"preload_waits_saved_percent": 30.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured."""

    models: int = models_list.MODELS
    variants: int = models_list.VARIANTS
    rounds: int = 7
    starts: int = 7
    changes: int = 50
    watchers: int = 10
    cost_s: float = 10.0


QUICK: Final = Sizes(models=300, variants=10, rounds=1, starts=1, changes=6, watchers=2, cost_s=1.0)


async def run(*, quick: bool) -> Result:
    """Measures everything; takes about three minutes, some seconds if quick, on a smaller list."""
    sizes = QUICK if quick else Sizes()
    filtered = await _of_list("filter", sizes)
    written = await _of_list("write", sizes)
    built = await _of_list("build", sizes)
    ahead = await preload_figures(quick=quick)
    pin_self(LOAD_CORE)
    started = await models_start.figures(sizes.models, sizes.variants, sizes.starts)
    seen = await models_watched.measure(sizes.changes, sizes.watchers, sizes.cost_s)
    return Result(
        name="models",
        seed=SEED,
        figures={
            "list_filter_ms": max(filtered.values()),
            "cache_write_stall_ms": written["stall_ms"],
            **started,
            **seen,
            **{f"list_filter_{name.replace(' ', '_')}_ms": ms for name, ms in filtered.items()},
            **{f"cache_write_{name}": value for name, value in written.items()},
            **{f"library_taken_in_{name}": value for name, value in built.items()},
            **ahead,
        },
        bounds=BOUNDS,
        floors=FLOORS,
    )


async def _of_list(what: str, sizes: Sizes) -> dict[str, float]:
    arguments = ["-m", "bench.models_list", what, "--rounds", str(sizes.rounds)]
    arguments += ["--models", str(sizes.models), "--variants", str(sizes.variants)]
    found: dict[str, float] = json.loads(await output_of(arguments, core=MEASURED_CORE))
    return found
