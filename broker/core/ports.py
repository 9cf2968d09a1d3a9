"""The ports: what the core and its shell need from the world, filled by adapters.

Adapters (`broker/backends` and, later, monitors, state, security, observability) are strangers to
each other; `broker/daemon/wiring.py` alone knows the concrete classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from broker.core.content import Completion, EmbedContent, Embeddings, GenerateContent, Piece

# Between the files that make a runner.
FILES_JOINED: Final = "+"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a backend says of a model that it has on disk.

    `runner` names what is really loaded: models of the same files share one runner. It is the
    digests of these where the backend tells, the weights first, joined by `FILES_JOINED`; else the
    model's own. Of several on the same weights a server holds only one at a time (OLLAMA.md §3.5).
    `capabilities` empty means that the backend does not tell. `context_length_train` 0 means
    unknown. `num_ctx_default` is the context that the model itself asks for when a request does
    not, 0 where it leaves that to the server. `modified_at` is RFC 3339, "" where it is not told.
    `parent` is the model that it says it was made from. `blobs` are the digests of its weights,
    `adapters` those of what is laid on them. `kv_bytes_per_token`: bytes of cache that each token
    of context takes in each slot, worked out from the model's own figures; 0 where these are not
    told.
    """

    name: str
    runner: str
    digest: str
    size_bytes: int
    capabilities: frozenset[str] = frozenset()
    parameter_size: str = ""
    quantization: str = ""
    family: str = ""
    context_length_train: int = 0
    num_ctx_default: int = 0
    modified_at: str = ""
    parent: str = ""
    blobs: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    kv_bytes_per_token: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A model that occupies memory now. `num_ctx` is per slot, 0 where it is not told.
    `expires_unix_s`: when it will be let go, in seconds since 1970 by this host's clock."""

    name: str
    digest: str
    memory_bytes: int
    gpu_memory_bytes: int
    num_ctx: int
    expires_unix_s: float | None = None  # None: not told, or never


class PullStep(Enum):
    """What a download does."""

    MANIFEST = "manifest"  # it asks what there is to come
    PULLING = "pulling"
    VERIFYING = "verifying"
    WRITING = "writing"


@dataclass(frozen=True, slots=True, kw_only=True)
class PullProgress:
    """How far a download is. `total_bytes` counts what was told so far: it may grow. Of what is
    there, `fetched_bytes` came in this call; the rest was on the disk before."""

    step: PullStep
    completed_bytes: int = 0
    total_bytes: int = 0
    fetched_bytes: int = 0


class DiskSpace(Protocol):
    """The disks on which backends keep their models."""

    async def free_bytes(self, backend: str) -> int | None:
        """What is free there; None where it is not known."""
        ...


class Backend(Protocol):
    """One server that runs models. Methods raise the backend errors of `core/errors.py`.

    Cancelling the task that awaits `generate`, `embed`, `load` or `pull` closes the connection in
    one step; when the cancelled call has returned, no byte of it will be read or sent any more.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def url(self) -> str: ...

    @property
    def keeps_models(self) -> bool:
        """Can it neither load nor unload? Then `residents` is all that it has, `load` does nothing,
        and `unload`, `pull` and `delete` raise BackendRefused."""
        ...

    async def version(self) -> str:
        """The server's version: also the cheapest proof that it answers."""
        ...

    async def models(self) -> tuple[ModelFacts, ...]:
        """Everything on disk. Facts that cost a call per model are cached by digest."""
        ...

    async def residents(self) -> tuple[Resident, ...]:
        """What is loaded now. May take 20 s on a server with a frozen runner."""
        ...

    async def generate(
        self,
        model: str,
        content: GenerateContent,
        *,
        num_ctx: int | None,
        on_pieces: Callable[[Sequence[Piece]], None],
    ) -> Completion:
        """Streams one generation. `on_pieces` gets one or more pieces per read, in order, never
        an empty sequence. Returns when the terminator came; an end without it is BackendFailed."""
        ...

    async def embed(
        self, model: str, content: EmbedContent, *, num_ctx: int | None
    ) -> Embeddings: ...

    async def load(self, model: str, *, num_ctx: int | None, keep_alive_s: int) -> None:
        """Makes the model resident, or renews its keep_alive; returns when it is ready."""
        ...

    async def unload(self, model: str) -> None:
        """Asks the model to leave. Returns before it has left: only `residents` proves that."""
        ...

    async def pull(self, model: str, on_progress: Callable[[PullProgress], None]) -> None:
        """Downloads the model; returns when it is there. PullFailed, DiskFull. A download that was
        cut off goes on from where it was when it is asked for again. May say nothing for long."""
        ...

    async def delete(self, model: str) -> None:
        """Deletes the model's name, and what no other name needs. One that is loaded stays so, and
        cannot be unloaded by this name afterwards. ModelUnknown."""
        ...

    async def close(self) -> None: ...
