"""A catalogue from a TOML file: the models that `ollama-sim --models FILE.toml` holds.

Rules: one `[[model]]` table per model, whose keys are the fields of `SimModel`, with
`[model.speed]` and `[model.says]` for its two parts; `name` and `size_bytes` are needed, the rest
has defaults. All problems of a file are told together, each with the model and key it belongs to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
from pathlib import Path
from typing import Final

import msgspec

from broker.sim.ollama_catalogue import Catalogue, Says, SimModel, Speed, parse_name

_SPEED_DEFAULTS: Final = {"prefill_tokens_per_s": 2_000.0, "decode_tokens_per_s": 60.0}
_BYTES_PER_PARAMETER: Final = 0.57  # of the usual 4-bit quantization
_PIECES: Final = ("pieces", "thinking")


class CatalogueFileError(ValueError):
    """A catalogue file that cannot be used; the text has one line per problem."""


def read_catalogue(path: Path) -> Catalogue:
    """The catalogue in a file; raises CatalogueFileError and OSError."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogueFileError(f"{path}: {error}") from None
    problems = [f"{key}: no such table" for key in tables if key != "model"]
    models: list[SimModel] = []
    listed = tables.get("model", [])
    for place, table in enumerate(listed if isinstance(listed, list) else [listed]):
        try:
            models.append(_model(table))
        except CatalogueFileError as error:
            problems.append(f"model[{place}]: {error}")
    if problems:
        raise CatalogueFileError("\n".join(f"{path}: {problem}" for problem in problems))
    return Catalogue(models)


def _known(kind: type[SimModel] | type[Speed] | type[Says]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _model(table: object) -> SimModel:
    if not isinstance(table, dict):
        raise CatalogueFileError("must be a table")
    given = dict(table)
    speed, says = given.pop("speed", {}), given.pop("says", {})
    if not isinstance(speed, dict) or not isinstance(says, dict):
        raise CatalogueFileError("speed and says must be tables")
    unknown = [key for key in given if key not in _known(SimModel)]
    unknown += [f"speed.{key}" for key in speed if key not in _known(Speed)]
    unknown += [f"says.{key}" for key in says if key not in _known(Says)]
    if unknown:
        raise CatalogueFileError(f"no such key: {', '.join(unknown)}")
    name, size = given.get("name"), given.get("size_bytes")
    parsed = parse_name(name) if isinstance(name, str) else None
    if parsed is None:
        raise CatalogueFileError(f"name {name!r}: must be a model name")
    if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
        raise CatalogueFileError(f"size_bytes {size!r}: must be a whole number above 0")
    given["name"] = parsed.short
    given["speed"] = {**_SPEED_DEFAULTS, **speed}
    given["says"] = {
        key: [str(piece).encode() for piece in value]
        if key in _PIECES and isinstance(value, list)
        else value
        for key, value in says.items()
    }
    digest = hashlib.sha256(parsed.key.encode()).hexdigest()
    filled = {
        "blob": digest,
        "digest": hashlib.sha256(digest.encode()).hexdigest(),
        "parameter_count": int(size / _BYTES_PER_PARAMETER),
        "architecture": "llama",
        **given,
    }
    try:
        return msgspec.convert(filled, SimModel, builtin_types=(bytes,))
    except (msgspec.ValidationError, ValueError) as error:
        raise CatalogueFileError(f"{parsed.short}: {error}") from None
