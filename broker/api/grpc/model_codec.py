"""Models between the words of the broker and those of the wire."""

from __future__ import annotations

from typing import Final

from broker.api.grpc.level_codec import LEVEL_OF_NUMBER
from broker.core.model_sizes import MemoryNeed, spaced, status_text
from broker.core.residency import ResidencyState
from broker.core.snapshot import ResidencyView
from broker.core.usage import ModelUse
from broker.models.query import Availability, ModelQuery, Order, SourceState
from broker.services.model_judge import ModelPlace, Wanted
from broker.services.model_news import ModelChange
from broker.services.models import ModelView
from broker_client.pb.broker.v1 import models_pb2 as pb

INT32_MAX: Final = 2**31 - 1
INT64_MAX: Final = 2**63 - 1
DESCRIPTION_CHARACTERS_MAX: Final = 512
ALIASES_MAX: Final = 64

_STATE: Final = {each: pb.ModelState.Value(f"MODEL_STATE_{each.name}") for each in ResidencyState}
_AVAILABILITY: Final = {
    pb.AVAILABILITY_UNSPECIFIED: Availability.DOWNLOADED,
    pb.AVAILABILITY_DOWNLOADED: Availability.DOWNLOADED,
    pb.AVAILABILITY_DOWNLOADABLE: Availability.DOWNLOADABLE,
    pb.AVAILABILITY_ALL: Availability.ALL,
}
_ORDER: Final = {
    pb.MODEL_ORDER_UNSPECIFIED: Order.NAME,
    pb.MODEL_ORDER_NAME: Order.NAME,
    pb.MODEL_ORDER_SIZE: Order.SIZE,
    pb.MODEL_ORDER_USE: Order.USE,
}


def decode_wanted(request: pb.ListRequest | pb.WatchRequest) -> Wanted:
    """Which models a valid request means, and in which order."""
    wanted = request.filter
    return Wanted(
        query=ModelQuery(
            search=wanted.search,
            availability=_AVAILABILITY[wanted.availability],
            capabilities=frozenset(wanted.capabilities),
            size_bytes_max=wanted.size_bytes_max,
            context_min=wanted.context_min,
            exclude_guards=wanted.exclude_guards,
            exclude_dynamic=wanted.exclude_dynamic,
        ),
        order=_ORDER[request.order],
        memory_bytes_max=wanted.memory_bytes_max,
        fits=wanted.fits,
        resident=wanted.resident,
        level=LEVEL_OF_NUMBER.get(wanted.level),
    )


def encode_source(source: SourceState) -> pb.ModelSource:
    """Where models are known from; of one that was never heard no age is told."""
    return pb.ModelSource(
        name=source.name,
        up=source.up,
        age_ms=None if source.age_ms is None else _in(source.age_ms, INT64_MAX),
        freshness=source.freshness.value,
        problem=source.problem,
    )


def encode_change(change: ModelChange) -> pb.ModelChange:
    return pb.ModelChange(name=change.name, kind=change.kind.value)


def _in(number: int, number_max: int) -> int:
    """What a backend says of itself, as near as the wire can carry it: one odd number must not
    cost the whole answer."""
    return max(0, min(number, number_max))


def encode_model(view: ModelView, unix_s: float) -> pb.Model:
    """A model and its places, at a moment of the wall's clock."""
    known = view.known
    return pb.Model(
        name=known.name,
        capabilities=sorted(known.capabilities),
        size_bytes=_in(known.size_bytes, INT64_MAX),
        parameter_size=known.parameter_size,
        quantization=known.quantization,
        family=known.family,
        context_length_train=_in(known.context_window, INT32_MAX),
        places=[_encode_view(each, unix_s) for each in view.places],
        downloaded=known.downloaded,
        size_text=spaced(known.size_str),
        status_text=status_text(known.downloaded, known.size_str),
        modified_at=known.modified_at,
        base=known.base,
        digest=known.digest,
        guard=known.is_guard,
        dynamic=known.is_dynamic,
        memory=[_encode_need(each) for each in view.memory],
        fits=view.fits,
        small=view.small,
        use=_encode_use(view.use, unix_s),
        description=known.description[:DESCRIPTION_CHARACTERS_MAX],
        aliases=view.aliases[:ALIASES_MAX],
    )


def _encode_need(need: MemoryNeed) -> pb.MemoryNeed:
    return pb.MemoryNeed(
        num_ctx=_in(need.num_ctx, INT32_MAX),
        bytes=_in(need.memory_bytes, INT64_MAX),
        measured=need.measured,
    )


def _encode_use(use: ModelUse, unix_s: float) -> pb.ModelUse:
    idle_ms = round(unix_s * 1000) - use.last_unix_ms if use.last_unix_ms else None
    return pb.ModelUse(
        requests=_in(use.requests, INT64_MAX),
        output_tokens=_in(use.output_tokens, INT64_MAX),
        loads=_in(use.loads, INT64_MAX),
        idle_ms=None if idle_ms is None else _in(idle_ms, INT64_MAX),
    )


def _encode_view(place: ModelPlace, unix_s: float) -> pb.ModelPlace:
    return encode_place(place.backend, place.residency, unix_s, is_up=place.is_up)


def encode_place(
    backend: str,
    residency: ResidencyView | None,
    unix_s: float | None = None,
    *,
    is_up: bool = True,
) -> pb.ModelPlace:
    """Where a model is, and how it is there; at a moment of the wall's clock also how long yet. A
    backend that should have let it go by then will when its work has ended: that is in no time. Of
    one that does not answer nobody knows."""
    if residency is None:
        state = pb.MODEL_STATE_ABSENT if is_up else pb.MODEL_STATE_UNKNOWN
        return pb.ModelPlace(backend=backend, state=state)
    expires_unix_s = residency.expires_unix_s
    left_ms: int | None = None
    if expires_unix_s is not None and unix_s is not None:
        left_ms = _in(round((expires_unix_s - unix_s) * 1000), INT64_MAX)
    return pb.ModelPlace(
        backend=backend,
        state=_STATE[residency.state] if is_up else pb.MODEL_STATE_UNKNOWN,
        slots=residency.slots,
        running=residency.running,
        num_ctx=_in(residency.num_ctx, INT32_MAX),
        memory_bytes=_in(residency.memory_bytes, INT64_MAX),
        gpu_memory_bytes=_in(residency.gpu_memory_bytes, INT64_MAX),
        managed=residency.managed,
        expires_ms=left_ms,
    )
