"""The list of models as the file has it: the seeds' form, to which each of our own keys is added
where its readers look for none.

    {base: {"downloaded", "variants": {"base:tag": {"downloaded", "size_str", "context_window",
    "modified_at"}}}}

Ours: in a base `capabilities` (always, so that our files are told from others), `description` and
`mark`; in a variant `size` in bytes, `digest`, `listed` and `backends`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from broker.core.kept_models import KeptModel, KeptVariant
from broker.core.model_name import canonical
from broker.core.model_sizes import bytes_of, size_str
from broker.core.ports import ModelFacts
from broker.state.disk import NO_SUCH_JSON

_OURS: Final = "capabilities"


class _Variant(msgspec.Struct, frozen=True, gc=False):
    """As the seeds write it, and perhaps with what is ours."""

    downloaded: bool = False
    size_str: str | None = None
    context_window: int | None = None
    modified_at: str | None = None
    size: int | None = None
    digest: str = ""
    listed: bool = True
    backends: dict[str, ModelFacts] = {}


class _Base(msgspec.Struct, frozen=True, gc=False):
    downloaded: bool = False
    variants: dict[str, msgspec.Raw] = {}
    capabilities: tuple[str, ...] | None = None
    description: str = ""
    mark: str = ""


_file: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_base: Final = msgspec.json.Decoder(_Base)
_variant: Final = msgspec.json.Decoder(_Variant)
_encoder: Final = msgspec.json.Encoder()


def decoded(content: bytes) -> dict[str, msgspec.Raw]:
    """The bases, not yet looked into. NO_SUCH_JSON where it is no such file."""
    try:
        return _file.decode(content)
    except RecursionError as error:
        raise msgspec.DecodeError("it is nested too deep") from error


def is_ours(bases: dict[str, msgspec.Raw]) -> bool:
    """Was it written by a broker, and not by another program of the same form?"""
    first = next(iter(bases.values()), None)
    if first is None:
        return True
    try:
        return _base.decode(first).capabilities is not None
    except NO_SUCH_JSON:
        return False


class Reading:
    """The models of a file, one after the other. What makes no sense is left out and counted."""

    def __init__(self, bases: dict[str, msgspec.Raw]) -> None:
        self._bases = bases
        self.left_out = 0

    def __iter__(self) -> Iterator[KeptModel]:
        self.left_out = 0
        for name, raw in self._bases.items():
            model = self._model(name, raw)
            if model is not None:
                yield model

    def _model(self, name: str, raw: msgspec.Raw) -> KeptModel | None:
        try:
            base = _base.decode(raw)
        except NO_SUCH_JSON:
            self.left_out += 1
            return None
        variants = [self._variant(key, each) for key, each in base.variants.items()]
        good = tuple(each for each in variants if each is not None)
        return KeptModel(
            name=name,
            variants=good,
            downloaded=base.downloaded,
            capabilities=frozenset(base.capabilities or ()),
            description=base.description,
            # Without its sign the library is asked again for what is no longer whole.
            mark=base.mark if len(good) == len(variants) else "",
        )

    def _variant(self, name: str, raw: msgspec.Raw) -> KeptVariant | None:
        try:
            found = _variant.decode(raw)
        except NO_SUCH_JSON:
            self.left_out += 1
            return None
        size = bytes_of(found.size_str or "") if found.size is None else found.size
        return KeptVariant(
            name=canonical(name) or name,
            downloaded=found.downloaded,
            size_bytes=size or 0,
            context_window=found.context_window or 0,
            modified_at=found.modified_at or "",
            digest=found.digest,
            listed=found.listed,
            backends=found.backends,
        )


def encoded(model: KeptModel) -> bytes:
    """One base, as a member of the file's object."""
    base: dict[str, Any] = {
        "downloaded": model.downloaded,
        "variants": {each.name: _written(each) for each in model.variants},
        _OURS: sorted(model.capabilities),
    }
    if model.description:
        base["description"] = model.description
    if model.mark:
        base["mark"] = model.mark
    return _encoder.encode(model.name) + b":" + _encoder.encode(base)


def _written(variant: KeptVariant) -> dict[str, Any]:
    written: dict[str, Any] = {
        "downloaded": variant.downloaded,
        "size_str": size_str(variant.size_bytes),
        "context_window": variant.context_window,
        "modified_at": variant.modified_at,
        "size": variant.size_bytes,
    }
    if variant.digest:
        written["digest"] = variant.digest
    if not variant.listed:
        written["listed"] = False
    if variant.backends:
        written["backends"] = variant.backends
    return written
