"""`options` of a request: merged over the model's parameters and typed as Go types them.

Rules: defaults < the model's parameters < the request; null and unknown keys are ignored; numbers
are truncated to whole ones; a wrong type is a 500, not a 400.

Source: reference/OLLAMA.md §1.4b; recordings 12_generate_bad_option_type, 14_num_ctx,
15_generate_float_option, 15_generate_stop_string.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from broker.sim.ollama_gojson import Json, go_quote
from broker.sim.ollama_work import RunnerOptions


class OptionError(Exception):
    """An option of the wrong type; `text` is what Ollama's 500 says."""

    def __init__(self, key: str, kind: str) -> None:
        self.text = f"option {go_quote(key)} must be of type {kind}"
        super().__init__(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What of `options` matters here. `runner` decides on reloads, the rest on the text."""

    runner: RunnerOptions
    num_keep: int = 4
    num_predict: int = -1
    seed: int = -1
    stop: tuple[str, ...] = ()


def _integer(key: str, value: Json) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionError(key, "integer")
    return int(value)


def _float(key: str, value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionError(key, "float32")
    return float(value)


def _boolean(key: str, value: Json) -> bool:
    if not isinstance(value, bool):
        raise OptionError(key, "boolean")
    return value


def _strings(key: str, value: Json) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise OptionError(key, "array")
    if not all(isinstance(item, str) for item in value):
        raise OptionError(key, "an array of strings")
    return tuple(str(item) for item in value)


_READERS: Final[Mapping[str, Callable[[str, Json], object]]] = {
    **dict.fromkeys(
        (
            "num_ctx",
            "num_batch",
            "num_gpu",
            "main_gpu",
            "num_thread",
            "draft_num_predict",
            "num_keep",
            "seed",
            "num_predict",
            "top_k",
            "repeat_last_n",
        ),
        _integer,
    ),
    **dict.fromkeys(
        (
            "top_p",
            "min_p",
            "typical_p",
            "temperature",
            "repeat_penalty",
            "presence_penalty",
            "frequency_penalty",
        ),
        _float,
    ),
    "use_mmap": _boolean,
    "stop": _strings,
}


def read_options(
    asked: Mapping[str, Json],
    parameters: tuple[tuple[str, int | float | bool | str | tuple[str, ...]], ...],
    *,
    shift: bool,
) -> Options:
    """The options of a request over the parameters of its model; raises OptionError."""
    merged: dict[str, object] = {}
    for key, parameter in parameters:
        value: Json = list(parameter) if isinstance(parameter, tuple) else parameter
        if key == "stop" and isinstance(value, str):
            value = [value]  # a Modelfile gives one word a line
        reader = _READERS.get(key)
        if reader is not None:
            merged[key] = reader(key, value)
    for key, value in asked.items():
        reader = _READERS.get(key)
        if reader is not None and value is not None:
            merged[key] = reader(key, value)
    return _typed(merged, shift=shift)


def _typed(merged: Mapping[str, object], *, shift: bool) -> Options:
    def integer(key: str) -> int | None:
        value = merged.get(key)
        return value if isinstance(value, int) else None

    use_mmap, stop = merged.get("use_mmap"), merged.get("stop")
    num_keep, num_predict, seed = integer("num_keep"), integer("num_predict"), integer("seed")
    runner = RunnerOptions(
        num_ctx=integer("num_ctx"),
        num_batch=integer("num_batch"),
        num_gpu=integer("num_gpu"),
        main_gpu=integer("main_gpu"),
        use_mmap=use_mmap if isinstance(use_mmap, bool) else None,
        num_thread=integer("num_thread"),
        draft_num_predict=integer("draft_num_predict"),
        shift=shift,
    )
    return Options(
        runner=runner,
        num_keep=4 if num_keep is None else num_keep,
        num_predict=-1 if num_predict is None else num_predict,
        seed=-1 if seed is None else seed,
        stop=tuple(str(word) for word in stop) if isinstance(stop, tuple) else (),
    )
