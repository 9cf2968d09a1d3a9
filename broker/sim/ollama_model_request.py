"""One request inside a simulated Ollama: where it stands, and which way it may go.

Rules: `MOVES` is the whole life of a request; a move that is not in it is a fault of the model
and raises. Sources: reference/OLLAMA.md §3.2, §3.6, §3.7.
"""

from __future__ import annotations

from enum import Enum

from broker.sim.ollama_machine import Sizing
from broker.sim.ollama_model_card import SimModel
from broker.sim.ollama_resident import Resident
from broker.sim.ollama_runner import Sequence
from broker.sim.ollama_work import ExchangeId, Work


class Stage(Enum):
    ARRIVING = "arriving"  # the body is being read and checked
    CHECKING = "checking"  # behind, or doing, a health check of a runner that is silent
    PENDING = "pending"  # in the loader's queue
    HELD = "held"  # the loader works for it: evicts, checks or loads
    PREPARING = "preparing"  # handed over: rendering and tokenising
    WAITING = "waiting"  # in the runner's queue for a slot
    COMPUTING = "computing"  # holds a slot
    ENDED = "ended"


MOVES: dict[Stage, frozenset[Stage]] = {
    Stage.ARRIVING: frozenset(
        (Stage.CHECKING, Stage.PENDING, Stage.HELD, Stage.PREPARING, Stage.ENDED)
    ),
    Stage.CHECKING: frozenset((Stage.PENDING, Stage.HELD, Stage.PREPARING, Stage.ENDED)),
    Stage.PENDING: frozenset((Stage.HELD, Stage.PREPARING, Stage.ENDED)),
    Stage.HELD: frozenset((Stage.PREPARING, Stage.ENDED)),
    Stage.PREPARING: frozenset((Stage.WAITING, Stage.COMPUTING, Stage.ENDED)),
    Stage.WAITING: frozenset((Stage.COMPUTING, Stage.ENDED)),
    Stage.COMPUTING: frozenset((Stage.ENDED,)),
    Stage.ENDED: frozenset(),
}


class Request:
    """The scheduler's view of an exchange. Mutable; owned by the server that opened it."""

    __slots__ = (
        "asked",
        "handed_over_ns",
        "id",
        "model",
        "opened_ns",
        "read_ns",
        "resident",
        "sequences",
        "sequences_left",
        "stage",
        "tokens_read",
        "tokens_said",
        "work",
    )

    def __init__(
        self, id_: ExchangeId, work: Work, model: SimModel, asked: Sizing, opened_ns: int
    ) -> None:
        self.id = id_
        self.work = work
        self.model = model
        self.asked = asked
        self.opened_ns = opened_ns
        self.stage = Stage.ARRIVING
        self.resident: Resident | None = None
        self.handed_over_ns = opened_ns
        self.sequences: tuple[Sequence, ...] = ()
        self.sequences_left = 0
        self.read_ns = 0  # time spent on prompts so far
        self.tokens_read = 0  # prompt tokens so far, cached ones included
        self.tokens_said = 0

    @property
    def ended(self) -> bool:
        return self.stage is Stage.ENDED

    def move(self, to: Stage) -> None:
        if to not in MOVES[self.stage]:
            raise RuntimeError(f"request {self.id}: no way from {self.stage} to {to}")
        self.stage = to
