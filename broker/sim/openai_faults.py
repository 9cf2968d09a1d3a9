"""What is to go wrong on a simulated server of OpenAI's dialect: faults as data.

Rules: a fault meets `count` requests of its model (or of any) in the order in which they come, and
is used up then; count 0 is without end. `slow` and `loading` concern the whole server, and hold
until they are cleared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Final

from broker.sim.ollama_gojson import Json

COUNT_MAX: Final = 1_000_000
WAITING_MAX: Final = 1_000


class FaultKind(Enum):
    CUT = "cut"  # the connection breaks once `after` tokens are out
    FREEZE = "freeze"  # nothing more comes once `after` tokens are out, until it is cleared
    END_WITHOUT_DONE = "end_without_done"  # the body ends properly once `after` tokens are out
    GARBAGE = "garbage"  # a broken event follows the `after`-th token
    OVERSIZE = "oversize"  # an event without end does
    BAD_UTF8 = "bad_utf8"  # an event with half a character does
    BAD_CHUNK = "bad_chunk"  # what follows it is no HTTP chunk, and the connection stays open
    ERROR_LINE = "error_line"  # an error object does, then `[DONE]`
    REFUSE = "refuse"  # no answer: `status` (with retry_after_s), or the connection is closed
    SLOW = "slow"  # everything takes `factor` times as long
    LOADING = "loading"  # 503 to everything but the list of models, as while a model is loaded


_OF_SERVER: Final = frozenset({FaultKind.SLOW, FaultKind.LOADING})


class FaultError(ValueError):
    """A fault that cannot be set; the text says which part and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    kind: FaultKind
    model: str | None = None
    after: int = 0
    count: int = 1
    status: int = 0
    retry_after_s: int = 0
    factor: float = 1.0
    text: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.count <= COUNT_MAX:
            raise FaultError(f"count {self.count}: must be 0 to {COUNT_MAX}")
        if self.after < 0 or self.retry_after_s < 0:
            raise FaultError("after and retry_after_s must not be negative")
        if self.factor <= 0:
            raise FaultError(f"factor {self.factor}: must be above 0")
        if self.status and not 400 <= self.status <= 599:
            raise FaultError(f"status {self.status}: must be 400 to 599")

    def document(self) -> dict[str, Json]:
        return {**asdict(self), "kind": self.kind.value}


_PARTS: Final[Mapping[str, type]] = {
    "model": str,
    "after": int,
    "count": int,
    "status": int,
    "retry_after_s": int,
    "factor": float,
    "text": str,
}


def fault_of_document(document: Json) -> Fault:
    """A fault from its JSON form; raises FaultError."""
    if not isinstance(document, dict):
        raise FaultError("a fault is an object with a kind")
    kinds = {kind.value: kind for kind in FaultKind}
    named = document.get("kind")
    kind = kinds.get(named) if isinstance(named, str) else None
    if kind is None:
        raise FaultError(f"kind {named!r}: must be one of {', '.join(kinds)}")
    parts = {key: value for key, value in document.items() if key != "kind" and value is not None}
    for key, value in parts.items():
        wanted = _PARTS.get(key)
        if wanted is None:
            raise FaultError(f"{key}: no such part; there are {', '.join(_PARTS)}")
        is_whole = wanted is float and isinstance(value, int)
        if isinstance(value, bool) or not (isinstance(value, wanted) or is_whole):
            raise FaultError(f"{key} {value!r}: must be of type {wanted.__name__}")
    return replace(Fault(kind=kind), **parts)  # type: ignore[arg-type]  # checked just above


def fault_of_flag(flag: str) -> Fault:
    """A fault from `kind:part=value,part=value`, as --fault takes it; raises FaultError."""
    kind, _, rest = flag.partition(":")
    document: dict[str, Json] = {"kind": kind}
    for part in filter(None, rest.split(",")):
        key, mark, value = part.partition("=")
        if not mark:
            raise FaultError(f"{part!r}: must be part=value")
        try:
            document[key] = _PARTS.get(key, str)(value)
        except ValueError:
            raise FaultError(f"{key} {value!r}: is no number") from None
    return fault_of_document(document)


class FaultPlan:
    """The faults that wait for requests, and those of the whole server."""

    def __init__(self) -> None:
        self.waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        if len(self.waiting) >= WAITING_MAX:
            raise FaultError(f"{WAITING_MAX} faults wait already")
        self.waiting.append(fault)

    def clear(self) -> None:
        self.waiting.clear()

    @property
    def factor(self) -> float:
        """How many times as long everything takes."""
        slow = [each.factor for each in self.waiting if each.kind is FaultKind.SLOW]
        return max(slow, default=1.0)

    @property
    def is_loading(self) -> bool:
        return any(each.kind is FaultKind.LOADING for each in self.waiting)

    def take(self, model: str) -> Fault | None:
        """The first fault that this request meets; one of its count is used up."""
        for index, fault in enumerate(self.waiting):
            if fault.kind in _OF_SERVER or fault.model not in (None, model):
                continue
            if fault.count == 1:
                del self.waiting[index]
            elif fault.count:
                self.waiting[index] = replace(fault, count=fault.count - 1)
            return fault
        return None
