"""Models between the words of the broker and those of the wire."""

from __future__ import annotations

from typing import Final

from broker.core.residency import ResidencyState
from broker.core.snapshot import ResidencyView
from broker.services.models import ModelView
from broker_client.pb.broker.v1 import models_pb2 as pb

INT32_MAX: Final = 2**31 - 1
INT64_MAX: Final = 2**63 - 1

_STATE: Final = {each: pb.ModelState.Value(f"MODEL_STATE_{each.name}") for each in ResidencyState}


def _in(number: int, number_max: int) -> int:
    """What a backend says of itself, as near as the wire can carry it: one odd number must not
    cost the whole answer."""
    return max(0, min(number, number_max))


def encode_model(view: ModelView, unix_s: float) -> pb.Model:
    """A model and its places, at a moment of the wall's clock."""
    facts = view.entry.facts
    return pb.Model(
        name=facts.name,
        capabilities=sorted(facts.capabilities),
        size_bytes=_in(facts.size_bytes, INT64_MAX),
        parameter_size=facts.parameter_size,
        quantization=facts.quantization,
        family=facts.family,
        context_length_train=_in(facts.context_length_train, INT32_MAX),
        places=[
            encode_place(each.backend, each.residency, unix_s, is_up=each.is_up)
            for each in view.places
        ],
    )


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
