"""What backends and the library say of the same models, as one; and what cannot be so, left out.

Models are the same whose names are, as Ollama compares them. What one backend leaves blank of
weights that another tells of by the same digest is taken from there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from broker.core.guards import is_guard
from broker.core.kept_models import KeptModel, KeptVariant
from broker.core.library import (
    DESCRIPTION_CHARACTERS_MAX,
    LIBRARY_MODELS_MAX,
    LIBRARY_VARIANTS_MAX,
    LibraryModel,
    LibraryVariant,
)
from broker.core.model_name import NAME_LENGTH_MAX, canonical, comparison_key
from broker.core.model_sizes import size_str
from broker.core.ports import ModelFacts
from broker.models.known import KnownModel, base_of, untagged
from broker.models.library_rows import LibraryRows
from broker.models.slices import Steps

# A hundred times the largest model there is; and a context that no server could hold.
SIZE_BYTES_MAX: Final = 100 * 10**12
CONTEXT_MAX: Final = 2**31 - 1
CAPABILITIES_MAX: Final = 32
_WORD_LENGTH_MAX: Final = 64
_LATEST: Final = ":latest"
# Of what a backend tells of a model, what people read.
_TEXTS: Final = ("digest", "parameter_size", "quantization", "family", "modified_at")

# One backend's models, by comparison key.
FactsByKey = Mapping[str, ModelFacts]


@dataclass(slots=True)
class Oddities:
    """What was told and cannot be so: how often, and the first of it."""

    count: int = 0
    first: str = ""

    def note(self, what: str) -> None:
        self.count += 1
        self.first = self.first or what


@dataclass(slots=True)
class Checked:
    """Looks at what sources tell, and keeps count of what makes no sense."""

    oddities: Oddities = field(default_factory=Oddities)

    def number(self, name: str, what: str, value: int, value_max: int) -> int:
        """The number, or 0, which is not known, where it cannot be one."""
        if 0 <= value <= value_max:
            return value
        self.oddities.note(f"{name!r} with {what} {value}")
        return 0

    def text(self, name: str, what: str, value: str) -> str:
        """It, or "" where no list could show it."""
        if len(value) <= NAME_LENGTH_MAX and value.isprintable():
            return value
        self.oddities.note(f"{name!r} with the {what} {value[:_WORD_LENGTH_MAX]!r}")
        return ""

    def words(self, name: str, words: Collection[str]) -> frozenset[str]:
        """What it can do, as far as these are words."""
        good = [each for each in words if 0 < len(each) <= _WORD_LENGTH_MAX and each.isprintable()]
        if len(good) < len(words) or len(good) > CAPABILITIES_MAX:
            self.oddities.note(f"{name!r} with capabilities that are no words, or too many")
        return frozenset(sorted(good)[:CAPABILITIES_MAX])

    def facts(self, facts: Iterable[ModelFacts]) -> dict[str, ModelFacts]:
        """Of one backend, which may give its models any names; of two that are the same name the
        first counts."""
        found: dict[str, ModelFacts] = {}
        for each in facts:
            if not (0 < len(each.name) <= NAME_LENGTH_MAX and each.name.isprintable()):
                self.oddities.note(f"the name {each.name[:_WORD_LENGTH_MAX]!r}")
                continue
            size = self.number(each.name, "bytes", each.size_bytes, SIZE_BYTES_MAX)
            context = self.number(each.name, "context", each.context_length_train, CONTEXT_MAX)
            words = self.words(each.name, each.capabilities)
            texts = {name: getattr(each, name) for name in _TEXTS}
            good = {name: self.text(each.name, name, value) for name, value in texts.items()}
            if (size, context, words, good) != (
                each.size_bytes,
                each.context_length_train,
                each.capabilities,
                texts,
            ):
                each = replace(
                    each,
                    size_bytes=size,
                    context_length_train=context,
                    capabilities=words,
                    digest=good["digest"],
                    parameter_size=good["parameter_size"],
                    quantization=good["quantization"],
                    family=good["family"],
                    modified_at=good["modified_at"],
                )
            found.setdefault(comparison_key(each.name), each)
        return found

    def library(self, models: Iterable[LibraryModel]) -> Iterator[LibraryModel]:
        """The models whose names could be pulled, each once, and of their variants likewise."""
        seen: set[str] = set()
        left = LIBRARY_VARIANTS_MAX
        for each in models:
            base = _base(each.name)
            if not base or base.lower() in seen or len(seen) >= LIBRARY_MODELS_MAX:
                self.oddities.note(f"the model {each.name[:_WORD_LENGTH_MAX]!r}, more than once")
                continue
            seen.add(base.lower())
            variants = self._variants(base, each.variants)
            if len(variants) > left:
                self.oddities.note(f"more than {LIBRARY_VARIANTS_MAX} variants")
            del variants[left:]
            left -= len(variants)
            description = each.description[:DESCRIPTION_CHARACTERS_MAX]
            checked = (
                base,
                tuple(variants),
                self.words(base, each.capabilities),
                description if description.isprintable() else "",
            )
            if checked == (each.name, each.variants, each.capabilities, each.description):
                yield each  # one object less that outlives this
            else:
                name, kept, words, description = checked
                yield replace(
                    each, name=name, variants=kept, capabilities=words, description=description
                )

    def _variants(self, base: str, variants: Sequence[LibraryVariant]) -> list[LibraryVariant]:
        found: dict[str, LibraryVariant] = {}
        for each in variants:
            name = canonical(each.name)
            if name is None or name.rpartition(":")[0].lower() != base.lower():
                self.oddities.note(f"the variant {each.name[:NAME_LENGTH_MAX]!r} of {base!r}")
                continue
            size = self.number(name, "bytes", each.size_bytes, SIZE_BYTES_MAX)
            context = self.number(name, "context", each.context_window, CONTEXT_MAX)
            name = base + name[len(base) :]
            date = self.text(name, "date", each.modified_at)
            digest = self.text(name, "digest", each.digest)
            checked = name, size, context, date, digest
            if checked != (
                each.name,
                each.size_bytes,
                each.context_window,
                each.modified_at,
                each.digest,
            ):
                each = LibraryVariant(
                    name=name,
                    size_bytes=size,
                    context_window=context,
                    modified_at=date,
                    digest=digest,
                )
            found.setdefault(name.lower(), each)
        return list(found.values())


def _base(name: str) -> str:
    """The name as the base of others; "" where it is none."""
    full = canonical(f"{name}{_LATEST}")
    return full.removesuffix(_LATEST) if full else ""


def local_models(
    backends: Mapping[str, FactsByKey], library: LibraryRows, named: Collection[str]
) -> Steps[list[KnownModel]]:
    """What backends have, in the order of these. One without a name is nobody knows where: it is
    told to be downloaded, and on no backend."""
    by_digest = _by_digest(each for facts in backends.values() for each in facts.values())
    first: dict[str, ModelFacts] = {}
    runners: dict[str, dict[str, str]] = {}
    for backend, facts in backends.items():
        for key, each in facts.items():
            first.setdefault(key, each)
            where = runners.setdefault(key, {})
            if backend:
                where[backend] = each.runner
    yield
    found = []
    for key, each in first.items():
        told = by_digest.get(each.digest, each)
        found.append(_known(key, told, each.name, runners[key], library, named))
        yield
    return found


def _by_digest(facts: Iterable[ModelFacts]) -> dict[str, ModelFacts]:
    """All that is told of each digest that more than one tells of."""
    found: dict[str, ModelFacts] = {}
    for each in facts:
        before = found.get(each.digest)
        if each.digest:
            found[each.digest] = each if before is None else _filled(before, each)
    return found


def _filled(facts: ModelFacts, other: ModelFacts) -> ModelFacts:
    """The facts, with those of the other where they are blank."""
    if facts == other:
        return facts
    return replace(
        facts,
        size_bytes=facts.size_bytes or other.size_bytes,
        capabilities=facts.capabilities or other.capabilities,
        parameter_size=facts.parameter_size or other.parameter_size,
        quantization=facts.quantization or other.quantization,
        family=facts.family or other.family,
        context_length_train=facts.context_length_train or other.context_length_train,
        num_ctx_default=facts.num_ctx_default or other.num_ctx_default,
        kv_bytes_per_token=facts.kv_bytes_per_token or other.kv_bytes_per_token,
    )


def _known(
    key: str,
    told: ModelFacts,
    name: str,
    runners: Mapping[str, str],
    library: LibraryRows,
    named: Collection[str],
) -> KnownModel:
    """What backends leave open the library may know. It is called as the first of them calls it."""
    row, base = library.find(key), library.base_of_key(key)
    bare = base_of(name)
    size = told.size_bytes or (0 if row is None else library.sizes[row])
    nothing = frozenset[str]()
    return KnownModel(
        name=name,
        base=bare,
        downloaded=True,
        size_bytes=size,
        size_str=size_str(size),
        context_window=told.context_length_train or (0 if row is None else library.contexts[row]),
        modified_at=told.modified_at,
        capabilities=told.capabilities or (nothing if base is None else library.capabilities[base]),
        digest=told.digest,
        family=told.family,
        parameter_size=told.parameter_size,
        quantization=told.quantization,
        description="" if base is None else library.descriptions[base],
        facts=told if told.name == name else replace(told, name=name),
        runners=MappingProxyType(dict(runners)),
        is_guard=is_guard(bare),
        is_dynamic=key not in named,
    )


def kept_models(backends: Mapping[str, FactsByKey], library: LibraryRows) -> Iterator[KeptModel]:
    """All that is known, as it is kept: below the names without their tags."""
    local: dict[str, dict[str, dict[str, ModelFacts]]] = {}  # by base, variant and backend
    for backend, facts in backends.items():
        for key, each in facts.items():
            of_base = local.setdefault(untagged(key), {})
            of_base.setdefault(key, {})[backend] = each
    for index, key in enumerate(library.keys):
        yield _kept(library.model(index), local.pop(key[:-1], {}))
    for of_base in local.values():
        name = next(iter(next(iter(of_base.values())).values())).name
        yield _kept(LibraryModel(name=base_of(name), variants=()), of_base)


def _kept(model: LibraryModel, local: Mapping[str, Mapping[str, ModelFacts]]) -> KeptModel:
    listed = {each.name.lower(): each for each in model.variants}
    variants = [_kept_variant(each.name, each, local.get(key, {})) for key, each in listed.items()]
    for key, backends in local.items():
        if key not in listed:
            name = next(iter(backends.values())).name
            variants.append(_kept_variant(canonical(name) or name, None, backends))
    return KeptModel(
        name=model.name,
        variants=tuple(variants),
        downloaded=f"{model.name.lower()}{_LATEST}" in local,
        capabilities=model.capabilities,
        description=model.description,
        mark=model.mark,
    )


def _kept_variant(
    name: str, listed: LibraryVariant | None, backends: Mapping[str, ModelFacts]
) -> KeptVariant:
    first = next(iter(backends.values()), None)
    told = listed or LibraryVariant(name=name)
    return KeptVariant(
        name=name,
        downloaded=first is not None,
        size_bytes=(first.size_bytes if first else 0) or told.size_bytes,
        context_window=(first.context_length_train if first else 0) or told.context_window,
        modified_at=(first.modified_at if first else "") or told.modified_at,
        digest=(first.digest if first else "") or told.digest,
        listed=listed is not None,
        backends={backend: each for backend, each in backends.items() if backend},
    )


def library_of(kept: KeptModel) -> LibraryModel | None:
    """What the library said of it; None where it is only on backends."""
    variants = tuple(
        LibraryVariant(
            name=each.name,
            size_bytes=each.size_bytes,
            context_window=each.context_window,
            modified_at=each.modified_at,
            digest=each.digest,
        )
        for each in kept.variants
        if each.listed
    )
    if not variants:
        return None
    return LibraryModel(
        name=kept.name,
        variants=variants,
        capabilities=kept.capabilities,
        description=kept.description,
        mark=kept.mark,
    )


def local_of(kept: KeptModel) -> Iterator[tuple[str, ModelFacts]]:
    """What backends said of it, each with its name; "" where nobody knows which backend."""
    names = set[str]()
    for each in kept.variants:
        names.add(comparison_key(each.name))
        yield from each.backends.items()
        is_latest = comparison_key(each.name) == comparison_key(kept.name)
        if not each.backends and (each.downloaded or (is_latest and kept.downloaded)):
            yield "", _facts_of(each)
    if kept.downloaded and comparison_key(kept.name) not in names:
        yield "", _facts_of(KeptVariant(name=f"{kept.name}{_LATEST}"))


def _facts_of(variant: KeptVariant) -> ModelFacts:
    return ModelFacts(
        name=variant.name,
        runner=variant.digest or variant.name,
        digest=variant.digest,
        size_bytes=variant.size_bytes,
        context_length_train=variant.context_window,
        modified_at=variant.modified_at,
    )
