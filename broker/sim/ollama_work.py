"""What passes between the model of an Ollama server and its shells.

A shell (the HTTP server, or the virtual world) turns one request into one `Work` and opens it; the
model answers with `Signal`s, each stamped with the moment at which it becomes true. Nothing here
reads a clock: time is nanoseconds of the server's own clock, handed in by the shell.

Source: the behaviours are those of reference/OLLAMA.md §3, §6 and §7.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NewType

ExchangeId = NewType("ExchangeId", int)


class WorkKind(Enum):
    GENERATE = "generate"  # decode `output_tokens` pieces after a prefill of `prompt`
    EMBED = "embed"  # one prefill per input, each takes the single slot by itself
    LOAD = "load"  # empty prompt: make the model resident, answer `load`
    UNLOAD = "unload"  # empty prompt and keep_alive 0: answer at once, unload once idle


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerOptions:
    """The options whose change reloads a runner (OLLAMA.md §3.5). None means automatic."""

    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int | None = None
    draft_num_predict: int | None = None
    shift: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One request as the scheduler and the runner see it: sizes, not words.

    `prompts` holds one tuple of token ids per runner call (one for generate and chat, one per
    input for embed). `output_tokens` is how many tokens the runner will produce; the shell knows
    the words that go with them. `keep_alive_ns` None leaves the runner's value as it is; a
    negative value means forever. `prepare_ns` is what the server does between the hand-over and
    asking for a slot: rendering, tokenising, trimming a long history (OLLAMA.md §1.4).
    """

    kind: WorkKind
    model: str  # canonical name as in the catalogue, e.g. "tiny-m:latest"
    prompts: tuple[tuple[int, ...], ...] = ((),)
    output_tokens: int = 0
    options: RunnerOptions = field(default_factory=RunnerOptions)
    keep_alive_ns: int | None = None
    prepare_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    exchange: ExchangeId
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOver(Signal):
    """The runner is loaded and was handed to this exchange: `load_duration` ends here."""

    load_duration_ns: int
    num_ctx: int  # the context the runner was started with, per slot


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotTaken(Signal):
    """The exchange left the runner's FIFO and computes now; so many of the tokens of its prompt
    were known there."""

    prompt_tokens: int = 0
    known_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Token(Signal):
    """Token number `index` (from 0) of the output exists now."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Signal):
    """The work is complete. Durations are the six figures of OLLAMA.md §6, in nanoseconds."""

    total_duration_ns: int
    load_duration_ns: int
    prompt_eval_count: int
    prompt_eval_duration_ns: int
    eval_count: int
    eval_duration_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Signal):
    """The work ended in an error. `status` is what an answer not yet begun would carry.

    For EMBED it is the status of /api/embed; /api/embeddings says 500 for every runner failure
    (OLLAMA.md §1.5).
    """

    status: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CutOff(Signal):
    """The connection breaks without another byte (the server was terminated)."""
