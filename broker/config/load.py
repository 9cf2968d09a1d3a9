"""TOML and the environment in, one checked configuration out, or all that is wrong with them.

Rules: every problem is reported at once, each as `file: path.to.key: what is wrong, limit`; no file
at all is an empty file. The environment speaks of the Ollama on this host, so it gives the
defaults of a backend that names no url: OLLAMA_HOST its url, OLLAMA_NUM_PARALLEL its slots,
OLLAMA_MAX_LOADED_MODELS its resident_max. What Ollama reads as "not set" (nothing, 0) is not set
here either. BROKER_ADDRESS is for clients and not read.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from broker.config.contradictions import contradictions
from broker.config.explanation import KeyPath, explain, show_path, show_value
from broker.config.schema import Config
from broker.config.section import RESIDENT_MAX, SLOTS_MAX

# A configuration of thousands of models is far smaller; a device file has no end.
FILE_BYTES_MAX: Final = 4 * 1024 * 1024
ENVIRONMENT: Final = "environment"

# Where Ollama's own settings go, and the largest value that is taken from there.
_COUNTS: Final = (
    ("OLLAMA_NUM_PARALLEL", "slots", SLOTS_MAX),
    ("OLLAMA_MAX_LOADED_MODELS", "resident_max", RESIDENT_MAX),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong. `path` is empty where the whole file is meant."""

    source: str
    path: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, self.path, self.text) if part)


class ConfigProblems(Exception):
    """The configuration cannot be used. `problems` are all that were found, one line each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def load(file: Path | None, env: Mapping[str, str]) -> Config:
    """The effective configuration of `file` (None: none) and `env`. Else ConfigProblems."""
    document = {} if file is None else _read(file)
    problems: list[Problem] = []
    from_environment = _apply_environment(document, env, problems)
    config, wrong, found = _validate(document)

    def report(path: KeyPath, text: str) -> None:
        # Blamed is who wrote it: a variable that gave a default, not the file that is silent.
        variable = from_environment.get(path)
        if variable is None:
            source = "defaults" if file is None else str(file)
            problems.append(Problem(source=source, path=show_path(path), text=text))
        else:
            problems.append(Problem(source=ENVIRONMENT, path=variable, text=text))

    for path, text in found:
        report(path, text)
    for each in contradictions(config):
        if not any(_touches(path, bad) for path in each.involved for bad in wrong):
            report(each.path, each.problem)
    if problems:
        raise ConfigProblems(problems)
    return config


def _read(file: Path) -> dict[str, Any]:
    def problem(text: str) -> ConfigProblems:
        return ConfigProblems([Problem(source=str(file), path="", text=text)])

    try:
        with file.open("rb") as stream:
            data = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise problem(f"cannot be read: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise problem(f"is larger than {FILE_BYTES_MAX} bytes")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise problem(f"is not UTF-8 (at line {line})") from error
    except RecursionError as error:
        raise problem("is not TOML: its arrays or tables are nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise problem(f"is not TOML: {error}") from error


def _apply_environment(
    document: dict[str, Any], env: Mapping[str, str], problems: list[Problem]
) -> dict[KeyPath, str]:
    """Fills what the document leaves open for a backend without a url; where each came from."""
    values: dict[str, tuple[str, str | int]] = {}
    host = _setting(env, "OLLAMA_HOST")
    if host:
        values["url"] = ("OLLAMA_HOST", host)
    for variable, field, limit in _COUNTS:
        text = _setting(env, variable)
        if not text or text == "0":
            continue
        if text.isascii() and text.isdigit() and 1 <= int(text) <= limit:
            values[field] = (variable, int(text))
        else:
            wrong = f"is {show_value(text)}; must be a whole number from 0 to {limit}"
            problems.append(Problem(source=ENVIRONMENT, path=variable, text=wrong))
    backends = document.setdefault("backends", [{}])
    given: dict[KeyPath, str] = {}
    for index, each in enumerate(backends if isinstance(backends, list) else []):
        if not isinstance(each, dict) or "url" in each:
            continue
        for field, (variable, value) in values.items():
            if field not in each:
                each[field] = value
                given["backends", index, field] = variable
    return given


def _setting(env: Mapping[str, str], variable: str) -> str:
    """As Ollama reads any of its variables: without spaces and quotes around it."""
    return env.get(variable, "").strip().strip("\"'")


def _validate(
    document: dict[str, Any],
) -> tuple[Config, list[KeyPath], list[tuple[KeyPath, str]]]:
    """The configuration without what is wrong, the paths left out, and what is wrong with them.

    Leaving out lets the rules between settings speak of everything else in the same report.
    """
    try:
        return Config.model_validate(document), [], []
    except ValidationError as error:
        faults = _own(error.errors(include_url=False))
    rest = copy.deepcopy(document)
    wrong: list[KeyPath] = []
    found: list[tuple[KeyPath, str]] = []
    for fault in faults:
        # The library marks a fault of a table's key, not of what it holds, with one part more.
        path = tuple(part for part in fault["loc"] if part != "[key]")
        found.append((path, explain(fault, path)))
        wrong.append(path)
        _leave_out(rest, path)
    # Everything wrong is out: a fault now is one of this module, and shows itself as such.
    return Config.model_validate(rest), wrong, found


def _own(faults: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without "too short" where it only means that entries of the array are wrong themselves."""
    paths = [fault["loc"] for fault in faults]
    return [
        fault
        for fault in faults
        if fault["type"] != "too_short"
        or not any(len(p) > len(fault["loc"]) and _touches(p, fault["loc"]) for p in paths)
    ]


def _leave_out(document: dict[str, Any], path: KeyPath) -> None:
    """Takes the setting at `path` out; array entries keep their index, others are named by it."""
    if path[:2] == ("agents", "types") and len(path) > 2:
        index = path[2]
        document["agents"]["types"][index] = {"name": f"unread-{index}", "match": ["*"]}
        return
    if path[0] == "backends" and len(path) == 2:
        document["backends"][path[1]] = {}
        return
    holder: Any = document
    for part in path[:-1]:
        if isinstance(holder, dict) and part not in holder:
            return  # the table around it is out already
        holder = holder[part]
    if isinstance(holder, dict):
        holder.pop(path[-1], None)
    elif isinstance(holder, list):  # of plain values: without one the others say something else
        _leave_out(document, path[:-1])


def _touches(one: KeyPath, other: KeyPath) -> bool:
    """Is one of them the other, or around it?"""
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]
