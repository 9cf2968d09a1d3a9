"""Models as the broker knows them: which there are, and what they do on each backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broker_client.events import word_of
from broker_client.pb.broker.v1 import models_pb2

# 500 is the largest page there is; a catalogue beyond 100 such pages is a fault, not a catalogue.
PAGE_SIZE: Final = 500
PAGES_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlace:
    """A model on one backend.

    `state` is "absent", "loading", "resident", "draining", "unloading", "freeing" or, where its
    backend does not answer and all else is what was known last, "unknown". `num_ctx` is in tokens,
    0 where it is not resident or not known. `managed`: the broker loaded it and may unload it.
    `expires_ms` until the backend lets it go by itself, as it last said; None: it does not say, or
    never will.
    """

    backend: str
    state: str
    slots: int
    running: int
    num_ctx: int
    memory_bytes: int
    gpu_memory_bytes: int
    managed: bool
    expires_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model, on every backend that has it. `context_length_train` 0: unknown, as is a
    `size_bytes` of 0. No `capabilities`: its backends do not tell what it can do."""

    name: str
    capabilities: tuple[str, ...]
    size_bytes: int
    parameter_size: str
    quantization: str
    family: str
    context_length_train: int
    places: tuple[ModelPlace, ...]

    @property
    def may_generate(self) -> bool:
        """Does it generate text, or may it: one of which nothing is told is let through by the
        broker, too?"""
        return not self.capabilities or "completion" in self.capabilities


def place_of(message: models_pb2.ModelPlace) -> ModelPlace:
    """The wire's place, typed."""
    return ModelPlace(
        backend=message.backend,
        state=word_of(models_pb2.ModelState.DESCRIPTOR, message.state, "MODEL_STATE_"),
        slots=message.slots,
        running=message.running,
        num_ctx=message.num_ctx,
        memory_bytes=message.memory_bytes,
        gpu_memory_bytes=message.gpu_memory_bytes,
        managed=message.managed,
        expires_ms=message.expires_ms if message.HasField("expires_ms") else None,
    )


def model_of(message: models_pb2.Model) -> Model:
    """The wire's model, typed."""
    return Model(
        name=message.name,
        capabilities=tuple(message.capabilities),
        size_bytes=message.size_bytes,
        parameter_size=message.parameter_size,
        quantization=message.quantization,
        family=message.family,
        context_length_train=message.context_length_train,
        places=tuple(place_of(each) for each in message.places),
    )
