"""The cells of `scheduling`: what is asked of which machine, drawn from a trace by a seed.

A trace names neither agents nor models. Of each request a seed draws, always in the same order, so
that all cells of one seed have the same requests: which of 131 agents sends it; its model, by
popularity; whether it is urgent, with which of the priorities 1 and 2; whether it accepts one other
model, and which; by how much what it asks for at most exceeds what it will use. Then time is
stretched until the pure service, prompt/2500 + output/40 s, is `rho` of what all slots of the
resident models do.

What the broker is told is what an agent's client knows: agent, model, priority, the prompt's size,
`max_tokens`, its `timeouts.queue` of 60 s if it gives up then, and a gRPC deadline by what it asked
for: 60 s and twice the service of a whole `max_tokens`. It is not told how long the answer will be:
`max_tokens` is up to 2.56 times that, so that sizes are known within a factor of 1.6 either way.
Goodput is judged by the real service all the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.workload import AGENT_TYPES, DECODE_TOKENS_PER_S, MODELS, PREFILL_TOKENS_PER_S
from broker.sim.trace import read_trace
from broker.sim.trace_row import TraceRow
from broker.sim.workload import Task

TRACE = Path(__file__).parent / "data" / "azure_llm_2023_conv_3000.csv"
REQUESTS = 3_000

SECOND_NS = 1_000_000_000
FIRST_NS = SECOND_NS  # when the first comes: a broker has asked its servers by then
GIVES_UP_NS = 60 * SECOND_NS
PATIENT_NS = 24 * 3600 * SECOND_NS  # longer than any run
PRIORITY = 5
URGENT = (1, 2)
URGENT_SHARE = 0.1
FLEXIBLE_SHARE = 0.5
MAX_TOKENS_FACTOR = 2.56  # 1.6 squared


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A machine that holds `resident` models of `slots` slots each, and how it is loaded.
    `has_pauses`: its server looks at its card and waits for memory around loads, as real ones do.
    `loaded`: how many it holds while it changes models, 0: as many.
    """

    name: str
    resident: int
    slots: int
    rho: float
    is_flexible: bool = False
    has_urgent: bool = False
    is_patient: bool = False
    has_pauses: bool = False
    loaded: int = 0

    @property
    def held(self) -> int:
        return self.loaded or self.resident


CELLS = {
    each.name: each
    for each in (
        Cell(name="1x2_rho09", resident=1, slots=2, rho=0.9),
        Cell(name="2x4_rho09", resident=2, slots=4, rho=0.9),
        Cell(name="2x4_rho20", resident=2, slots=4, rho=2.0),
        Cell(name="1x2_rho09_flexible", resident=1, slots=2, rho=0.9, is_flexible=True),
        Cell(name="2x4_rho09_urgent", resident=2, slots=4, rho=0.9, has_urgent=True),
        Cell(name="2x4_rho09_ahead", resident=2, slots=4, rho=0.9, loaded=3),
    )
}


@dataclass(frozen=True, slots=True)
class Draw:
    """What the seed says of one request."""

    agent_id: str
    model: str
    urgent_priority: int  # 0: it is not
    other_model: str  # "": it accepts none
    max_tokens_factor: float


def service_ns(prompt_tokens: int, output_tokens: int) -> int:
    """What a request takes by itself."""
    seconds = prompt_tokens / PREFILL_TOKENS_PER_S + output_tokens / DECODE_TOKENS_PER_S
    return int(seconds * SECOND_NS)


def rows_of(trace: Path, requests: int) -> Sequence[TraceRow]:
    """The first requests of a trace, in order of arrival."""
    return read_trace(trace, rows_max=requests).rows


def draws(seed: int, count: int) -> list[Draw]:
    """The same for the same seed, whatever the cell."""
    chance = random.Random(seed)
    agents = [f"{kind}-{n}" for kind, many in AGENT_TYPES for n in range(many)]
    names = [each.name for each in MODELS]
    weights = [each.weight for each in MODELS]
    found = []
    for _ in range(count):
        agent_id = chance.choice(agents)
        model = chance.choices(names, weights)[0]
        is_urgent, priority = chance.random() < URGENT_SHARE, chance.choice(URGENT)
        is_flexible = chance.random() < FLEXIBLE_SHARE
        other = chance.choice([name for name in names if name != model])
        found.append(
            Draw(
                agent_id,
                model,
                priority if is_urgent else 0,
                other if is_flexible else "",
                MAX_TOKENS_FACTOR ** chance.random(),
            )
        )
    return found


def tasks_of(cell: Cell, rows: Sequence[TraceRow], drawn: Sequence[Draw]) -> list[Task]:
    """The requests of a cell, in order of arrival."""
    sizes = [(max(1, row.prompt_tokens or 0), max(1, row.output_tokens or 0)) for row in rows]
    service_sum_ns = sum(service_ns(*size) for size in sizes)
    span_ns = max(1, rows[-1].arrival_ns - rows[0].arrival_ns)
    stretch = service_sum_ns / (cell.resident * cell.slots * cell.rho) / span_ns
    tasks = []
    for number, (row, size, draw) in enumerate(zip(rows, sizes, drawn, strict=True)):
        prompt_tokens, output_tokens = size
        max_tokens = int(output_tokens * draw.max_tokens_factor)
        allowed_ns = GIVES_UP_NS + 2 * service_ns(prompt_tokens, max_tokens)
        tasks.append(
            Task(
                at_ns=FIRST_NS + int((row.arrival_ns - rows[0].arrival_ns) * stretch),
                agent_id=draw.agent_id,
                request_id=str(number),
                model=draw.model,
                priority=(draw.urgent_priority if cell.has_urgent else 0) or PRIORITY,
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                output_tokens_max=max_tokens,
                patience_ns=PATIENT_NS if cell.is_patient else allowed_ns,
                fallback_models=(
                    (draw.other_model,) if cell.is_flexible and draw.other_model else ()
                ),
                prefer_loaded=cell.is_flexible,
                queue_limit_ns=0 if cell.is_patient else GIVES_UP_NS,
                gives_up_after_ns=0 if cell.is_patient else GIVES_UP_NS,
            )
        )
    return tasks
