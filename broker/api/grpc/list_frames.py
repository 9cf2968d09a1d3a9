"""First pages that many watch are made once for all who watch the same."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from broker.api.grpc.list_pages import ListPages
from broker.api.grpc.model_codec import decode_wanted
from broker.api.grpc.validation import PAGE_SIZE_DEFAULT
from broker.services.models import ModelsService
from broker_client.pb.broker.v1 import models_pb2 as pb

# Different things to watch whose first page is kept, those asked for last.
FRAMES_MAX: Final = 64
# Ages in a page are told as of when it was made: it is believed no longer.
AGE_S_MAX: Final = 0.1


class ListFrames:
    """See the module."""

    def __init__(self, service: ModelsService, pages: ListPages) -> None:
        self._service = service
        self._pages = pages
        self._kept: OrderedDict[bytes, tuple[int, float, pb.ListResponse]] = OrderedDict()

    async def present(self, request: pb.WatchRequest) -> pb.ListResponse:
        """The first page of what a valid request wants, as it is now."""
        key = request.SerializeToString(deterministic=True)
        revision, unix_s = self._service.revision, self._service.unix_s()
        kept = self._kept.get(key)
        if kept is not None and kept[0] == revision and 0 <= unix_s - kept[1] <= AGE_S_MAX:
            return kept[2]
        size = request.page_size or PAGE_SIZE_DEFAULT
        made = self._pages.encode(await self._service.page(decode_wanted(request), "", size))
        self._kept[key] = revision, unix_s, made
        self._kept.move_to_end(key)
        if len(self._kept) > FRAMES_MAX:
            self._kept.popitem(last=False)
        return made
