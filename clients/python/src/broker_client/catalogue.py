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
class MemoryNeed:
    """What a model takes in memory with so many tokens of context per slot. Not `measured` on a
    backend, it is an estimate by the model's own figures."""

    num_ctx: int
    bytes: int
    measured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUse:
    """How much a model was used, as far as that is kept. `idle_ms` since its last request; None:
    none is known."""

    requests: int = 0
    output_tokens: int = 0
    loads: int = 0
    idle_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model, on every backend that has it. `context_length_train` 0: unknown, as is a
    `size_bytes` of 0. No `capabilities`: its backends do not tell what it can do.

    `downloaded`: on the disk of a backend. `size_text` and `status_text` are for people: "5.2 GB",
    "✓ Downloaded (5.2 GB)". `guard`: it judges texts instead of answering. `dynamic`: merely found,
    and not named in the broker's configuration. `memory` has the usual context first; empty: not
    known. `fits` into the memory of a backend; None: not known. `small`: of the class that answers
    at level 2.
    """

    name: str
    capabilities: tuple[str, ...]
    size_bytes: int
    parameter_size: str
    quantization: str
    family: str
    context_length_train: int
    places: tuple[ModelPlace, ...]
    downloaded: bool = True
    size_text: str = ""
    status_text: str = ""
    modified_at: str = ""
    base: str = ""
    digest: str = ""
    guard: bool = False
    dynamic: bool = False
    memory: tuple[MemoryNeed, ...] = ()
    fits: bool | None = None
    small: bool = False
    use: ModelUse = ModelUse()
    description: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def may_generate(self) -> bool:
        """Does it generate text, or may it: one of which nothing is told is let through by the
        broker, too?"""
        return not self.capabilities or "completion" in self.capabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where models are known from: a backend by its name, or "library". `up`: it answered when it
    was last asked; `problem` says why it did not. `freshness` is "fresh", "stale", "expired" or
    "empty", by `age_ms`, which counts since it last answered; None: never, as far as is known."""

    name: str
    up: bool
    age_ms: int | None
    freshness: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChange:
    """What became of one model: "added" to its first disk, "removed" from its last, "changed" (its
    digest, size or abilities, or where it lies), or "state" (what it does in memory)."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelList:
    """Models in their order, of `total` that are meant. `changed_unix_ms` is when what is known
    last changed. `loading`: it is being refreshed, and what there is too old to go by, or nothing
    yet. `changes` since the list before, where lists are watched."""

    models: tuple[Model, ...]
    total: int
    changed_unix_ms: int
    loading: bool
    sources: tuple[ModelSource, ...]
    changes: tuple[ModelChange, ...] = ()


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
        # A broker of before this field lists what it has, and nothing else.
        downloaded=message.downloaded or bool(message.places),
        size_text=message.size_text,
        status_text=message.status_text,
        modified_at=message.modified_at,
        base=message.base,
        digest=message.digest,
        guard=message.guard,
        dynamic=message.dynamic,
        memory=tuple(
            MemoryNeed(num_ctx=each.num_ctx, bytes=each.bytes, measured=each.measured)
            for each in message.memory
        ),
        fits=message.fits if message.HasField("fits") else None,
        small=message.small,
        use=use_of(message.use),
        description=message.description,
        aliases=tuple(message.aliases),
    )


def use_of(message: models_pb2.ModelUse) -> ModelUse:
    """The wire's use, typed."""
    return ModelUse(
        requests=message.requests,
        output_tokens=message.output_tokens,
        loads=message.loads,
        idle_ms=message.idle_ms if message.HasField("idle_ms") else None,
    )


def source_of(message: models_pb2.ModelSource) -> ModelSource:
    """The wire's source, typed."""
    return ModelSource(
        name=message.name,
        up=message.up,
        age_ms=message.age_ms if message.HasField("age_ms") else None,
        freshness=message.freshness,
        problem=message.problem,
    )


def model_list_of(
    message: models_pb2.ListResponse, changes: tuple[ModelChange, ...] = ()
) -> ModelList:
    """The wire's page, typed."""
    return ModelList(
        models=tuple(model_of(each) for each in message.models),
        total=message.total,
        changed_unix_ms=message.changed_unix_ms,
        loading=message.loading,
        sources=tuple(source_of(each) for each in message.sources),
        changes=changes,
    )


def watched_of(message: models_pb2.WatchResponse) -> ModelList:
    """What a watch tells, typed."""
    changes = (ModelChange(name=each.name, kind=each.kind) for each in message.changes)
    return model_list_of(message.list, tuple(changes))
