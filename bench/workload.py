"""A fleet's work: a real trace of sizes and arrivals, given to seeded agents, priorities, models.

The trace (bench/data/README.md) names neither users nor models. 131 agents of three types share
it; five models of which two fit are asked for as 5:3:2:2:1; time is stretched so that the pure
service, prompt/2500 + output/40 s, fills the slots of the resident models to the wanted share.
"""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass
from pathlib import Path

TRACE = Path(__file__).parent / "data" / "azure_llm_2023_conv_10min.csv"

PREFILL_TOKENS_PER_S = 2500.0
DECODE_TOKENS_PER_S = 40.0
RESIDENT = 2
SLOTS = 4
RHO = 0.7
PATIENCE_S = 60.0

AGENT_TYPES = (("opus", 10), ("sonnet", 50), ("system", 71))  # 131 agents
PRIORITIES = {"opus": (1, 2, 3, 4), "sonnet": (3, 4, 5, 6), "system": (5, 6, 7, 8, 9, 10)}


@dataclass(frozen=True, slots=True)
class FleetModel:
    """A model, how long it takes to load, and how often it is asked for."""

    name: str
    load_s: float
    weight: int


# The loads and weights of the measurements in which the placement rule was chosen.
MODELS = (
    FleetModel("fleet-a:latest", 12.0, 5),
    FleetModel("fleet-b:latest", 8.0, 3),
    FleetModel("fleet-c:latest", 20.0, 2),
    FleetModel("fleet-d:latest", 6.0, 2),
    FleetModel("fleet-e:latest", 15.0, 1),
)


@dataclass(frozen=True, slots=True)
class Job:
    """One request of the fleet; times in seconds of the fleet's own clock."""

    number: int
    at_s: float
    agent_id: str
    priority: int
    model: str
    prompt_tokens: int
    output_tokens: int

    @property
    def service_s(self) -> float:
        return self.prompt_tokens / PREFILL_TOKENS_PER_S + self.output_tokens / DECODE_TOKENS_PER_S


def trace_rows() -> list[tuple[int, int, int]]:
    """(arrival_ms, prompt tokens, output tokens) of each request of the trace."""
    with TRACE.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [(int(at_ms), int(prompt), int(output)) for at_ms, prompt, output in rows]


def fleet_jobs(seed: int, *, requests_max: int | None = None) -> list[Job]:
    """The fleet's requests in order of arrival, stretched to RHO; the same for the same seed."""
    chance = random.Random(seed)
    rows = trace_rows()[:requests_max]
    agents = [(kind, f"{kind}-{n}") for kind, count in AGENT_TYPES for n in range(count)]
    names = [each.name for each in MODELS]
    weights = [each.weight for each in MODELS]
    jobs = []
    for number, (arrival_ms, prompt_tokens, output_tokens) in enumerate(rows):
        kind, agent_id = chance.choice(agents)
        jobs.append(
            Job(
                number=number,
                at_s=arrival_ms / 1000,
                agent_id=agent_id,
                priority=chance.choice(PRIORITIES[kind]),
                model=chance.choices(names, weights)[0],
                prompt_tokens=max(1, prompt_tokens),
                output_tokens=max(1, output_tokens),
            )
        )
    return _stretched(jobs)


def _stretched(jobs: list[Job]) -> list[Job]:
    """Arrivals moved apart until offered service over (resident times slots) is RHO."""
    service_s = sum(each.service_s for each in jobs)
    factor = service_s / (RESIDENT * SLOTS * RHO) / (jobs[-1].at_s - jobs[0].at_s)
    return [
        Job(
            each.number,
            each.at_s * factor,
            each.agent_id,
            each.priority,
            each.model,
            each.prompt_tokens,
            each.output_tokens,
        )
        for each in jobs
    ]
