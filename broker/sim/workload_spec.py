"""What a file may say of a workload: models, backends, agents, and a trace.

Rules: strict types, no key but those listed, numbers with limits; units are the last part of a
name (_s, _gb of 10^9 bytes). What is left out has a default that stands here or, for a model that
the bundled simulator knows by name, its figures there. All problems are found together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, Strict, model_validator

from broker.core.requests import PRIORITY_DEFAULT, PRIORITY_HIGHEST, PRIORITY_LOWEST
from broker.sim.trace_row import CALLS_MAX, ROWS_MAX, TOKENS_MAX, Trace
from broker.sim.workload_problem import shown

COUNT_MAX: Final = 100_000
SECONDS_MAX: Final = 30 * 86_400.0
RATE_MAX: Final = 1e7

Array = Strict(False)  # TOML has arrays and no tuples
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]
Seconds = Annotated[float, Field(gt=0, le=SECONDS_MAX)]
Pause = Annotated[float, Field(ge=0, le=SECONDS_MAX)]
Gigabytes = Annotated[float, Field(gt=0, le=100_000)]
Rate = Annotated[float, Field(gt=0, le=RATE_MAX)]
Factor = Annotated[float, Field(ge=0, le=1_000)]


def _span(least: int, most: int) -> PlainValidator:
    """One number, or the least and the most of a draw; either way two."""

    def read(given: object) -> tuple[int, int]:
        pair = list(given) if isinstance(given, list | tuple) else [given, given]
        numbers = [each for each in pair if type(each) is int and least <= each <= most]
        if len(pair) != 2 or len(numbers) != 2 or numbers[0] > numbers[1]:
            words = f"must be a whole number from {least} to {most}, or [least, most] of such"
            raise ValueError(f"is {shown(given)}; {words}")
        return numbers[0], numbers[1]

    return PlainValidator(read)


Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
TokensSpan = Annotated[tuple[int, int], _span(1, TOKENS_MAX)]
PrioritySpan = Annotated[tuple[int, int], _span(PRIORITY_HIGHEST, PRIORITY_LOWEST)]
CallsSpan = Annotated[tuple[int, int], _span(1, CALLS_MAX)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelDraft(Section):
    """[[models]]. What is None comes from the bundled model of this name."""

    name: ModelName
    size_gb: Gigabytes | None = None
    # What it takes when loaded, with its contexts: what the broker plans before it has measured.
    memory_gb: Gigabytes | None = None
    load_s: Seconds | None = None  # from disk
    load_cached_s: Seconds | None = None  # from the page cache; as Ollama does it, a third
    prefill_tokens_per_s: Rate | None = None  # one request alone
    decode_tokens_per_s: Rate | None = None
    # With b slots busy each request makes 1 / (1 + this * (b - 1)) of the tokens.
    batch_slowdown: float | None = Field(default=None, ge=0, le=10)
    popularity: float = Field(default=1.0, ge=0, le=1e6)
    embeds: bool = False  # its answers are one token, whatever is asked for


class BackendDraft(Section):
    """[[backends]]: `count` equal servers."""

    name: Name
    count: int = Field(default=1, ge=1, le=64)
    memory_gb: Gigabytes | None = None  # of its GPU; without, resident_max alone decides
    resident_max: int | None = Field(default=None, ge=1, le=64)
    # How many it holds while it changes models; without, as many.
    loaded_max: int | None = Field(default=None, ge=1, le=64)
    slots: int = Field(default=1, ge=1, le=256)
    page_cache_gb: float = Field(default=64.0, ge=0, le=100_000)

    @model_validator(mode="after")
    def _check_room(self) -> Self:
        if self.loaded_max is None:
            return self
        if self.memory_gb is None or self.resident_max is None:
            raise ValueError("loaded_max belongs to memory_gb and resident_max: it needs both")
        if self.loaded_max < self.resident_max:
            raise ValueError("loaded_max is less than resident_max: the server would evict models")
        return self


class AgentsDraft(Section):
    """[[agents]]: `count` agents that behave alike.

    open: each begins a session every `every_s` on average, whatever became of the last one; so many
    times as often as `hours` and `weekdays` say, and a factor that is drawn for each day.
    closed: each begins its next one `think_s` on average after the last one ended.
    trace: these send what the trace has for them.
    A session is `calls` requests; each comes `call_gap_s` after the answer of the one before, and
    its prompt is all that was said plus `adds_tokens`. Its first is for one of `models`, later ones
    for `then_models` in their order, the last of these for all that follow. All prompts begin with
    the same `shared_tokens`, which come on top of what is drawn. Who is refused or failed tries
    `retries` times again, `retry_s` later, doubled each time, or when the broker says.
    """

    name: Name
    loop: Literal["open", "closed", "trace"]
    count: int = Field(default=1, ge=1, le=COUNT_MAX)
    every_s: Seconds | None = None
    # Of an open loop: factors of each hour of the day, from midnight on, and of each day of the
    # week, from Monday on. Empty: always 1.
    hours: Annotated[tuple[Factor, ...], Array] = ()
    weekdays: Annotated[tuple[Factor, ...], Array] = ()
    # How different days are: the deviation of the logarithm of a factor that is drawn for each.
    day_noise: float = Field(default=0.0, ge=0, le=1)
    think_s: Pause | None = None
    priority: PrioritySpan = (PRIORITY_DEFAULT, PRIORITY_DEFAULT)
    models: Annotated[tuple[ModelName, ...], Array] = ()  # empty: all, by popularity
    then_models: Annotated[tuple[ModelName, ...], Array] = ()  # empty: the same as the first call
    # Drawn evenly in the logarithm; None: as the trace has them.
    prompt_tokens: TokensSpan | None = None
    output_tokens: TokensSpan | None = None
    calls: CallsSpan = (1, 1)
    call_gap_s: Pause = 0.0
    shared_tokens: int = Field(default=0, ge=0, le=TOKENS_MAX)
    tells_calls: bool = False  # does it say how many calls a session will have?
    adds_tokens: int = Field(default=0, ge=0, le=TOKENS_MAX)
    gives_up_s: Seconds | None = None  # leaves if nothing was started for it by then
    deadline_s: Seconds = 600.0  # as the daemon has it where a request gives none
    soft_deadline_s: Pause = 0.0  # by then it would like its answer; 0: any time
    retries: int = Field(default=0, ge=0, le=100)
    retry_s: Seconds = 5.0
    fallback_models: Annotated[tuple[ModelName, ...], Array] = ()
    prefer_loaded: bool = False
    preemptible: bool | None = None  # None: as the daemon has it, from priority 8 on

    @model_validator(mode="after")
    def _check_loop(self) -> Self:
        if (self.loop == "open") != (self.every_s is not None):
            raise ValueError('every_s belongs to loop = "open", which needs it')
        if (self.loop == "closed") != (self.think_s is not None):
            raise ValueError('think_s belongs to loop = "closed", which needs it')
        return self

    @model_validator(mode="after")
    def _check_days(self) -> Self:
        if self.loop != "open" and (self.hours or self.weekdays or self.day_noise):
            raise ValueError('hours, weekdays and day_noise belong to loop = "open"')
        for name, given, count in (("hours", self.hours, 24), ("weekdays", self.weekdays, 7)):
            if given and (len(given) != count or not any(given)):
                raise ValueError(f"{name} must be {count} numbers, not all of them 0")
        return self


class TraceDraft(Section):
    """[trace]: a file of arrivals and sizes, found from the folder of this one."""

    file: str = Field(min_length=1, max_length=4_096)
    requests_max: int = Field(default=ROWS_MAX, ge=1, le=ROWS_MAX)


class WorkloadSpec(Section):
    """The whole file. `rho`: arrivals of open loops and of the trace are stretched until their pure
    service is this part of what the slots of the resident models can do."""

    seed: int = Field(default=1, ge=0, lt=1 << 63)
    duration_s: Seconds = 600.0  # for so long loops begin sessions
    # When that is, for agents that heed the hour or the weekday.
    begins_on: Weekday = "monday"
    begins_at_h: float = Field(default=0.0, ge=0, lt=24)
    rho: float | None = Field(default=None, gt=0, le=100)
    models: Annotated[tuple[ModelDraft, ...], Array, Field(min_length=1, max_length=1_000)]
    backends: Annotated[tuple[BackendDraft, ...], Array, Field(min_length=1, max_length=64)]
    agents: Annotated[tuple[AgentsDraft, ...], Array, Field(max_length=1_000)] = ()
    trace: TraceDraft | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a file asks for. `assumed` says in sentences what it left open; `assumed_backends` is
    one of them, for who takes other backends."""

    source: str
    spec: WorkloadSpec
    trace: Trace | None
    assumed: tuple[str, ...]
    assumed_backends: str = ""
