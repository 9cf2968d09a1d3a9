"""What somebody means who names a model, and perhaps a backend, without a request."""

from __future__ import annotations

from collections.abc import Mapping

from broker.core.errors import ModelUnknown
from broker.core.model_name import comparison_key, nearest
from broker.core.placement import BackendState


class Meant:
    """See the module."""

    def __init__(self, backends: Mapping[str, BackendState]) -> None:
        self._backends = backends

    def backends(self, name: str) -> list[BackendState]:
        """The one of this name, or ("") all that are to stay."""
        return [
            each
            for each in self._backends.values()
            if name in ("", each.name) and not each.is_leaving
        ]

    def unknown(self, model: str, backend: str) -> ModelUnknown | None:
        """ModelUnknown where no backend that is meant has the model, with the nearest names."""
        key = comparison_key(model)
        meant = self.backends(backend)
        if any(key in each.models for each in meant):
            return None
        names = [spec.name for each in meant for spec in each.models.values()]
        return ModelUnknown(model, nearest(model, names))
