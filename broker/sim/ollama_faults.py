"""What is to go wrong on a simulated Ollama: faults as data, and which request meets which.

Rules: a fault waits for requests of its model (or of any), meets each with its probability, by the
seed, and is used up after `count` of them. The kinds that concern the machine rather than one
request (IMMEDIATE, and freeze without `after`) act as soon as they are set. The plan decides;
ollama_exchange.py, ollama_http.py and ollama_pump.py do it.

Source: reference/OLLAMA.md §7.10; recordings 66_ to 69_ and 79_.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from random import Random
from typing import Final

from broker.sim.ollama_catalogue import Catalogue, parse_name
from broker.sim.ollama_gojson import Json

COUNT_MAX: Final = 1_000_000
AFTER_MAX: Final = 1_000_000
WAITING_MAX: Final = 1_000


class FaultKind(Enum):
    DIE_MID_STREAM = "die_mid_stream"  # the runner dies once `after` tokens are out
    DIE_BEFORE_FIRST = "die_before_first"  # the runner dies when the request gets its slot
    FREEZE = "freeze"  # the runner stops, now or once `after` tokens are out
    THAW = "thaw"  # a frozen runner goes on
    CUT = "cut"  # the connection breaks once `after` tokens are out
    RESET = "reset"  # the same by RST, which also takes away what was not read yet
    GO_SILENT = "go_silent"  # nothing more is sent after `after` tokens, and nothing is closed
    HALF_OPEN = "half_open"  # calls of any kind are taken and never answered, nor closed
    REFUSE = "refuse"  # no answer: the connection is closed (or, with a status, that status)
    SLOW = "slow"  # from now on all that the model does takes `factor` times as long; 1 ends it
    GARBAGE = "garbage"  # a broken line follows the `after`-th token
    OVERSIZE = "oversize"  # a line longer than any client takes follows it
    BAD_UTF8 = "bad_utf8"  # a line follows it whose text ends within a character
    BAD_CHUNK = "bad_chunk"  # what follows it is no HTTP chunk, and the connection stays open
    ERROR_LINE = "error_line"  # a line with an error (`text`) follows it; 0: it is the first line
    END_WITHOUT_DONE = "end_without_done"  # the stream ends properly after `after` tokens
    FORBIDDEN = "forbidden"  # 403 without a body, as a wrong Host gets
    BUSY = "busy"  # 503 in Ollama's words for a full queue
    HANG_LOAD = "hang_load"  # the next load never becomes ready
    DIE_MID_LOAD = "die_mid_load"  # the process of the next load is killed half way
    FAIL_LOAD = "fail_load"  # the next load fails with `text`
    OOM_LOAD = "oom_load"  # the next load runs out of memory
    EVICT = "evict"  # somebody else unloads the model, at once
    HIDE = "hide"  # /api/ps leaves the model out, `count` times
    LINGER = "linger"  # /api/ps lists the model though it has gone, `count` times
    DELETE = "delete"  # the model is deleted from disk; what is loaded of it stays
    WRONG_DIGEST = "wrong_digest"  # another file is under its name from now on; same as DELETE
    REGISTRY_DOWN = "registry_down"  # what is pulled from cannot be reached
    PULL_CUT = "pull_cut"  # the connection of a pull breaks with `after` percent of the model there
    PULL_DROP = "pull_drop"  # then the registry's breaks: an error line (`text`)
    PULL_STALL = "pull_stall"  # then nothing more comes, and nothing is said
    DISK_FULL = "disk_full"  # then there is no space left


# These act on the machine the moment they are set and are never kept.
IMMEDIATE: Final = frozenset(
    {
        FaultKind.THAW,
        FaultKind.SLOW,
        FaultKind.HANG_LOAD,
        FaultKind.FAIL_LOAD,
        FaultKind.OOM_LOAD,
        FaultKind.DIE_MID_LOAD,
        FaultKind.EVICT,
        FaultKind.DELETE,
        FaultKind.WRONG_DIGEST,
    }
)
AT_CONNECTION: Final = frozenset({FaultKind.HALF_OPEN})
AT_ARRIVAL: Final = frozenset({FaultKind.REFUSE, FaultKind.FORBIDDEN, FaultKind.BUSY})
AT_LIST: Final = frozenset({FaultKind.HIDE, FaultKind.LINGER})
AT_UNLOAD: Final = AT_ARRIVAL - {FaultKind.BUSY}  # what unloads needs no place in the queue
AT_TOKENS: Final = frozenset(
    {
        FaultKind.DIE_MID_STREAM,
        FaultKind.DIE_BEFORE_FIRST,
        FaultKind.FREEZE,
        FaultKind.CUT,
        FaultKind.RESET,
        FaultKind.GO_SILENT,
        FaultKind.GARBAGE,
        FaultKind.OVERSIZE,
        FaultKind.BAD_UTF8,
        FaultKind.BAD_CHUNK,
        FaultKind.ERROR_LINE,
        FaultKind.END_WITHOUT_DONE,
    }
)
AT_PULL: Final = frozenset(
    {FaultKind.PULL_CUT, FaultKind.PULL_DROP, FaultKind.PULL_STALL, FaultKind.DISK_FULL}
)
# With `after=0` these strike before the first token, once the request has its slot.
BEFORE_FIRST: Final = frozenset({FaultKind.RESET, FaultKind.GO_SILENT, FaultKind.ERROR_LINE})
# What concerns one model must say which.
_OF_ONE_MODEL: Final = frozenset({FaultKind.EVICT, FaultKind.DELETE, FaultKind.WRONG_DIGEST})


_ONLY_OF: Final[Mapping[str, frozenset[FaultKind]]] = {
    "after": AT_TOKENS - {FaultKind.DIE_BEFORE_FIRST} | AT_PULL,
    "factor": frozenset({FaultKind.SLOW}),
    "status": frozenset({FaultKind.REFUSE}),
    "text": frozenset(
        {FaultKind.REFUSE, FaultKind.FAIL_LOAD, FaultKind.ERROR_LINE, FaultKind.PULL_DROP}
    ),
}


class FaultError(ValueError):
    """A fault that cannot be set; the text says which part and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault. `count` 0 means without end; `model` is a canonical name, or None for any."""

    kind: FaultKind
    model: str | None = None
    after: int | None = None  # tokens, of a pull percent; None where it does not say
    count: int = 1
    probability: float = 1.0
    factor: float = 1.0
    status: int = 0
    text: str = ""

    def __post_init__(self) -> None:
        if not 0.0 < self.probability <= 1.0:
            raise FaultError(f"probability {self.probability}: must be above 0 and at most 1")
        if not 0 <= self.count <= COUNT_MAX:
            raise FaultError(f"count {self.count}: must be 0 to {COUNT_MAX}")
        if self.after is not None and not 0 <= self.after <= AFTER_MAX:
            raise FaultError(f"after {self.after}: must be 0 to {AFTER_MAX}")
        if self.factor <= 0.0:
            raise FaultError(f"factor {self.factor}: must be above 0")
        if self.status and not 400 <= self.status <= 599:
            raise FaultError(f"status {self.status}: must be 400 to 599")
        if self.model is None and self.kind in _OF_ONE_MODEL:
            raise FaultError(f"{self.kind.value} must name its model")
        for part, kinds in _ONLY_OF.items():
            given = {"factor": self.factor != 1.0, "status": bool(self.status)}
            given |= {"text": bool(self.text), "after": self.after is not None}
            if given[part] and self.kind not in kinds:
                raise FaultError(f"{part}: {self.kind.value} has none")

    @property
    def is_immediate(self) -> bool:
        """True if it acts when it is set and waits for no request."""
        return self.kind in IMMEDIATE or (self.kind is FaultKind.FREEZE and self.after is None)

    @property
    def is_before_first(self) -> bool:
        """True if it strikes when the request gets its slot."""
        is_zero = self.after == 0 and self.kind in BEFORE_FIRST
        return is_zero or self.kind is FaultKind.DIE_BEFORE_FIRST

    def document(self) -> dict[str, Json]:
        """The fault as /sim/state shows it and POST /sim/faults takes it."""
        shown: dict[str, Json] = asdict(self)
        shown["kind"] = self.kind.value
        return shown


_PARTS: Final[Mapping[str, tuple[type, ...]]] = {
    "model": (str,),
    "after": (int,),
    "count": (int,),
    "probability": (float, int),
    "factor": (float, int),
    "status": (int,),
    "text": (str,),
}


def fault_of_document(document: Json, catalogue: Catalogue) -> Fault:
    """A fault from its JSON form; raises FaultError."""
    if not isinstance(document, dict):
        raise FaultError("a fault is an object with a kind")
    given = {key: value for key, value in document.items() if value is not None}
    kinds = {kind.value: kind for kind in FaultKind}
    named = given.pop("kind", None)
    kind = kinds.get(named) if isinstance(named, str) else None
    if kind is None:
        raise FaultError(f"kind {named!r}: must be one of {', '.join(kinds)}")
    for key, value in given.items():
        if key not in _PARTS:
            raise FaultError(f"{key}: no such part; there are {', '.join(_PARTS)}")
        if isinstance(value, bool) or not isinstance(value, _PARTS[key]):
            raise FaultError(f"{key} {value!r}: must be of type {_PARTS[key][0].__name__}")
    return Fault(
        kind=kind,
        model=_canonical(given.get("model"), catalogue, may_lack=kind in AT_PULL),
        after=int(str(given["after"])) if "after" in given else None,
        count=int(str(given.get("count", 1))),
        probability=float(str(given.get("probability", 1.0))),
        factor=float(str(given.get("factor", 1.0))),
        status=int(str(given.get("status", 0))),
        text=str(given.get("text", "")),
    )


def _canonical(name: Json, catalogue: Catalogue, *, may_lack: bool) -> str | None:
    """The name as the catalogue has it; a model that is to be pulled need not be there yet."""
    if name is None:
        return None
    model = catalogue.find(str(name))
    parsed = parse_name(str(name)) if may_lack else None
    if parsed is not None:
        return parsed.short if model is None else model.name
    if model is None:
        raise FaultError(f"model {name!r}: not in the catalogue")
    return model.name


def fault_of_flag(flag: str, catalogue: Catalogue) -> Fault:
    """A fault from `kind:part=value,part=value`, as --fault takes it; raises FaultError."""
    kind, _, rest = flag.partition(":")
    document: dict[str, Json] = {"kind": kind}
    for part in filter(None, rest.split(",")):
        key, mark, value = part.partition("=")
        if not mark:
            raise FaultError(f"{part!r}: must be part=value")
        document[key] = _value(key, value)
    return fault_of_document(document, catalogue)


def _value(key: str, text: str) -> Json:
    wanted = _PARTS.get(key, (str,))[0]
    try:
        return text if wanted is str else wanted(text)
    except ValueError:
        raise FaultError(f"{key} {text!r}: must be of type {wanted.__name__}") from None


class FaultPlan:
    """The faults that wait. Each request asks once per moment at which one may strike."""

    def __init__(self, seed: int) -> None:
        self._chance = Random(seed)
        self._waiting: list[Fault] = []

    @property
    def waiting(self) -> tuple[Fault, ...]:
        return tuple(self._waiting)

    def add(self, fault: Fault) -> None:
        if len(self._waiting) >= WAITING_MAX:
            raise FaultError(f"{WAITING_MAX} faults wait already")
        self._waiting.append(fault)

    def clear(self) -> None:
        self._waiting.clear()

    def take(self, kinds: frozenset[FaultKind], model: str | None) -> Fault | None:
        """The first fault of these kinds that meets a request for this model; uses it up."""
        for place, fault in enumerate(self._waiting):
            if fault.kind not in kinds or fault.model not in (None, model):
                continue
            if fault.probability < 1.0 and self._chance.random() >= fault.probability:
                continue
            if fault.count == 1:
                del self._waiting[place]
            elif fault.count > 1:
                self._waiting[place] = replace(fault, count=fault.count - 1)
            return fault
        return None
