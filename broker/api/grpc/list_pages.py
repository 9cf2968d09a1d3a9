"""Pages of models on the wire, put together from models that were written before.

Most models stay as they are from one list to the next. What was written of one is kept, and a page
is these pieces one after the other: protobuf reads a repeated field from pieces just so.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from broker.api.grpc.model_codec import INT32_MAX, encode_model, encode_source
from broker.core.usage import ModelUse
from broker.services.models import ModelList, ModelView
from broker_client.pb.broker.v1 import models_pb2 as pb

# Models whose pieces are kept, those that were listed last: some 2 KB each.
KEPT_MAX: Final = 2_048
_UNUSED: Final = ModelUse()


class ListPages:
    """See the module."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[ModelView, bytes]] = OrderedDict()
        self._last: tuple[tuple[ModelView, ...], bytes] = ((), b"")

    def encode(self, found: ModelList) -> pb.ListResponse:
        """A page, and where it comes from."""
        rest = pb.ListResponse(
            next_page_token=found.next_token,
            changed_unix_ms=found.changed_unix_ms,
            total=max(0, min(found.total, INT32_MAX)),
            sources=[encode_source(each) for each in found.sources],
            loading=found.is_loading,
        )
        views, content = self._last
        if found.models is not views:  # else nothing has changed of any of them
            pieces = [self._piece(each, found.unix_s) for each in found.models]
            content = b"".join(pieces)
            if all(map(_is_timeless, found.models)):
                self._last = found.models, content
        rest.MergeFromString(content)
        return rest

    def _piece(self, view: ModelView, unix_s: float) -> bytes:
        if not _is_timeless(view):
            return _written(view, unix_s)
        name = view.known.name
        kept = self._kept.get(name)
        if kept is None or (kept[0] is not view and kept[0] != view):
            kept = self._kept[name] = view, _written(view, unix_s)
            self._kept.move_to_end(name)
            if len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        return kept[1]


def _is_timeless(view: ModelView) -> bool:
    """Of what is in memory, or was used, times are told that pass."""
    return view.use == _UNUSED and all(each.residency is None for each in view.places)


def _written(view: ModelView, unix_s: float) -> bytes:
    return pb.ListResponse(models=[encode_model(view, unix_s)]).SerializeToString()
