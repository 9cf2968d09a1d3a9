"""What backends have, in order of the comparison keys: hundreds of models, each an object."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from broker.models.known import KnownModel
from broker.models.library_query import words_of
from broker.models.query import ModelQuery

Keyed = tuple[str, KnownModel]

_NOTHING_ASKED: Final = ModelQuery()


class LocalRows:
    """Never changed once it is made."""

    def __init__(self, models: Iterable[KnownModel] = ()) -> None:
        self.by_key = dict(sorted((each.key, each) for each in models))
        self._texts = [
            f"{each.name}\n{each.family}\n{each.description}".lower()
            for each in self.by_key.values()
        ]

    def __len__(self) -> int:
        return len(self.by_key)

    def meant(self, query: ModelQuery) -> list[Keyed]:
        """All that the query asks, with their keys and in order of these."""
        if query == replace(_NOTHING_ASKED, availability=query.availability):
            return list(self.by_key.items())
        words = words_of(query.search)
        size_max, wanted, admits = query.size_bytes_max, query.capabilities, query.admits
        return [
            pair
            for pair, text in zip(self.by_key.items(), self._texts, strict=True)
            if all(word in text for word in words)
            and wanted <= pair[1].capabilities
            and (size_max <= 0 or 0 < pair[1].size_bytes <= size_max)
            and pair[1].context_window >= query.context_min
            and not (query.exclude_guards and pair[1].is_guard)
            and not (query.exclude_dynamic and pair[1].is_dynamic)
            and (admits is None or admits(pair[1]))
        ]
