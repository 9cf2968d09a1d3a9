"""What somebody means who names a model, and perhaps a backend, without a request."""

from __future__ import annotations

from collections.abc import Mapping

from broker.core.errors import BackendNotFound, BrokerError, ModelUnknown, NoBackend
from broker.core.model_name import comparison_key, nearest
from broker.core.placement import BackendState
from broker.core.targets import NO_BACKEND_RETRY_NS


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

    def missing(self, model: str, backend: str) -> BrokerError | None:
        """Why no backend that is meant has the model: BackendNotFound where that one has left,
        NoBackend while one may have it that has not told yet what it has, else ModelUnknown, with
        the nearest names. None where one has it."""
        key = comparison_key(model)
        meant = self.backends(backend)
        if any(key in each.models for each in meant):
            return None
        if backend and not meant:
            return BackendNotFound(
                backend, nearest(backend, [each.name for each in self.backends("")])
            )
        silent = [each for each in meant if not each.up and not each.models]
        if silent:
            why = "; ".join(f"{each.name}: {each.problem}" for each in silent)
            words = f"no backend that may have {model!r} answers ({why})"
            return NoBackend(words, retry_after_ns=NO_BACKEND_RETRY_NS)
        names = [spec.name for each in meant for spec in each.models.values()]
        return ModelUnknown(model, nearest(model, names), backend)
