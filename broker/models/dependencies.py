"""What models are made of: parents, adapters and shared files, and what comes of deleting one.

Pure. A backend says of a model from which one it was made, and which files its weights and adapters
are, by digest. It does not say how large a file is, only how much a model takes with all of them.
So what deleting one frees is known where it shares nothing, or everything; else it is a bound, and
said to be one.

A model whose parent is deleted goes on working: a server keeps a file for as long as any model
needs it. What is lost is how to make it: its recipe begins with a name that means nothing any more.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import Final

from broker.core.model_name import comparison_key
from broker.core.ports import ModelFacts

_BLOB: Final = re.compile(r"sha256[-:]([0-9a-f]{64})")
# More names of the same weights tell nobody more, and each of thousands would name all others.
TWINS_MAX: Final = 100
_HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """Bytes of disk that deleting a model frees. `is_bound`: that many at least; more is not
    known. Small files (a template, a licence) may be shared as well, and are not told of."""

    bytes: int = 0
    is_bound: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One model on one backend. `parent` is as it says itself, but spelled as the backend lists it
    where it is there; "" where it says none, or itself. `twins` are other names whose weights are
    the same file, the first TWINS_MAX of them."""

    facts: ModelFacts
    backend: str
    parent: str
    is_parent_missing: bool
    children: tuple[str, ...]
    twins: tuple[str, ...]
    freed: Freed


@dataclass(frozen=True, slots=True, kw_only=True)
class Consequences:
    """What comes of deleting a model: bytes that this frees, over all backends that were asked of,
    and the models that were made from it. These go on working and cannot be made anew."""

    freed_bytes: int = 0
    is_bound: bool = False
    breaks: tuple[str, ...] = ()


def nodes(backend: str, facts: Iterable[ModelFacts]) -> tuple[Node, ...]:
    """Every model of a backend, each behind its parent, those of one parent by name. Of models
    that are made from each other in a circle, which no server makes, the first by name leads."""
    return _Backend(facts).nodes(backend)


def consequences(facts_by_backend: Mapping[str, Sequence[ModelFacts]], name: str) -> Consequences:
    """What deleting this name from these backends frees and breaks; nothing where none has it."""
    freed, is_bound = 0, False
    breaks: dict[str, str] = {}
    for facts in facts_by_backend.values():
        books = _Backend(facts)
        key = comparison_key(name)
        if key not in books.by_key:
            continue
        one = books.freed(key)
        freed += one.bytes
        is_bound = is_bound or one.is_bound
        breaks.update((child, books.by_key[child].name) for child in books.children(key))
    return Consequences(
        freed_bytes=freed,
        is_bound=is_bound,
        breaks=tuple(breaks[key] for key in sorted(breaks)),
    )


def family(those: Sequence[Node], name: str) -> tuple[Node, ...]:
    """Of the nodes of one backend those of this model, of what it was made from, of what was made
    from it, and of its twins; in the same order."""
    by_key = {comparison_key(each.facts.name): each for each in those}
    own = by_key.get(comparison_key(name))
    if own is None:
        return ()
    wanted = {comparison_key(each) for each in (own.facts.name, *own.twins)}
    above = own
    while (key := comparison_key(above.parent)) in by_key and key not in wanted:
        wanted.add(key)
        above = by_key[key]
    ahead, seen = [own], set[str]()
    while ahead:
        for child in map(comparison_key, ahead.pop().children):
            if child not in seen:
                seen.add(child)
                ahead.append(by_key[child])
    wanted |= seen
    return tuple(each for each in those if comparison_key(each.facts.name) in wanted)


class _Backend:
    """The models of one backend by comparison key, and who shares files with whom."""

    def __init__(self, facts: Iterable[ModelFacts]) -> None:
        self.by_key = {comparison_key(each.name): each for each in facts}
        self._files = {key: _files(each) for key, each in self.by_key.items()}
        self._having = _inverted(self._files.items())
        self._weights = _inverted(
            (key, {_main_file(each)} - {""}) for key, each in self.by_key.items()
        )
        self._first_twins: dict[str, list[str]] = {}
        self._sizes_max: dict[frozenset[str], int] = {}
        self._digests = Counter(each.digest for each in self.by_key.values() if each.digest)
        self._parents = {key: self._parent_key(key) for key in self.by_key}
        self._children: dict[str, list[str]] = {}
        for key in sorted(self.by_key):
            parent = self._parents[key]
            if parent is not None:
                self._children.setdefault(parent, []).append(key)

    def _parent_key(self, key: str) -> str | None:
        """The model of this backend that it was made from; None where it says none, itself, or one
        that is not there."""
        said = self.by_key[key].parent
        if not said:
            return None
        blob = _BLOB.search(said)
        parent = self._first_of(blob[1], key) if blob else comparison_key(said)
        return parent if parent in self.by_key and parent != key else None

    def _first_of(self, blob: str, key: str) -> str:
        """Of several names of a file, that one which was not made from a file itself."""
        others = sorted(self._having.get(blob, set()) - {key})
        by_name = (each for each in others if not _is_path(self.by_key[each].parent))
        return next(by_name, "")

    def children(self, key: str) -> Sequence[str]:
        return self._children.get(key, ())

    def _twins(self, key: str) -> Sequence[str]:
        """Other names for the same weights, the first of them."""
        weights = _main_file(self.by_key[key])
        if not weights:
            return ()
        first = self._first_twins.get(weights)
        if first is None:
            first = nsmallest(TWINS_MAX + 1, self._weights[weights])
            self._first_twins[weights] = first
        return [each for each in first if each != key][:TWINS_MAX]

    def freed(self, key: str) -> Freed:
        """What deleting this name alone frees."""
        facts = self.by_key[key]
        if self._digests[facts.digest] > 1:
            return Freed()  # another name for the same manifest
        shared = frozenset(blob for blob in self._files[key] if len(self._having[blob]) > 1)
        if shared:
            left = facts.size_bytes - self._size_max(shared)
            return Freed(bytes=max(0, left), is_bound=True)
        if any(not (self._files[key] and self._files[each]) for each in self._relatives(key)):
            return Freed(is_bound=True)  # they share, and what is not told
        return Freed(bytes=facts.size_bytes)

    def _relatives(self, key: str) -> Iterable[str]:
        """Its parent and its children."""
        parent = self._parents[key]
        return self.children(key) if parent is None else (parent, *self.children(key))

    def _size_max(self, shared: frozenset[str]) -> int:
        """What these files take at most: each is part of every model that has it."""
        found = self._sizes_max.get(shared)
        if found is None:
            found = self._sizes_max[shared] = self._size_max_anew(shared)
        return found

    def _size_max_anew(self, shared: frozenset[str]) -> int:
        having_all = set.intersection(*(self._having[blob] for blob in shared))
        smallest = min(self.by_key[each].size_bytes for each in having_all)
        if len(having_all) > 1:
            return smallest
        alone = sum(
            min(self.by_key[each].size_bytes for each in self._having[blob]) for blob in shared
        )
        return min(smallest, alone)

    def nodes(self, backend: str) -> tuple[Node, ...]:
        """See the function of the same name."""
        return tuple(self._node(backend, key) for key in self._in_order())

    def _in_order(self) -> Iterable[str]:
        seen: set[str] = set()
        roots = [key for key in sorted(self.by_key) if self._parents[key] is None]
        # What no root leads to is part of a circle, or hangs on one.
        for root in (*roots, *sorted(self.by_key)):
            ahead = [root]
            while ahead:
                key = ahead.pop()
                if key not in seen:
                    seen.add(key)
                    yield key
                    ahead.extend(reversed(self.children(key)))

    def _node(self, backend: str, key: str) -> Node:
        facts, parent = self.by_key[key], self._parents[key]
        said = "" if comparison_key(facts.parent) == key else facts.parent
        is_named = bool(said) and not _is_path(said)
        return Node(
            facts=facts,
            backend=backend,
            parent=self.by_key[parent].name if parent is not None else said,
            is_parent_missing=is_named and parent is None,
            children=self._names(self.children(key)),
            twins=self._names(self._twins(key)),
            freed=self.freed(key),
        )

    def _names(self, keys: Iterable[str]) -> tuple[str, ...]:
        return tuple(self.by_key[key].name for key in keys)


def _is_path(parent: str) -> bool:
    """Was it made from a file instead of a model? Whether that is still there nobody tells."""
    return bool(_BLOB.search(parent)) or parent.startswith(("/", "./", "../", "~"))


def _files(facts: ModelFacts) -> frozenset[str]:
    """All that are told: those of its weights, and of what is laid on them."""
    main = _main_file(facts)
    return frozenset((main, *facts.blobs, *facts.adapters) if main else facts.adapters)


def _main_file(facts: ModelFacts) -> str:
    """The file of its weights, the first where there are several; "" where it is not told. A runner
    is called by it, unless by the model's own digest."""
    if facts.blobs:
        return facts.blobs[0]
    is_file = facts.runner != facts.digest and _HEX_DIGEST.fullmatch(facts.runner)
    return facts.runner if is_file else ""


def _inverted(of: Iterable[tuple[str, Collection[str]]]) -> dict[str, set[str]]:
    """Who has each of them."""
    having: dict[str, set[str]] = {}
    for key, files in of:
        for each in files:
            having.setdefault(each, set()).add(key)
    return having
