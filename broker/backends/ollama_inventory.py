"""What an Ollama server says of its models: on disk, in memory, and as the answer of a call.

Rules: pure; an answer that is not what its endpoint promises is BackendFailed. Stubs of remote
models are left out: they occupy nothing here and their work leaves the machine, which nobody asked
the broker for. Sources: reference/OLLAMA.md §1.5, §1.6, §5; recorded 03_tags, 03_show, 11_ps_three.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec

from broker.backends.figures import (
    Bytes,
    Count,
    Nanoseconds,
    check_listed,
    check_listing,
    told_count,
)
from broker.backends.ollama_model_file import Files, files, kv_bytes_per_token
from broker.core.content import Embeddings
from broker.core.errors import BackendFailed
from broker.core.model_name import canonical
from broker.core.ports import FILES_JOINED, ModelFacts, Resident

CAPABILITY_COMPLETION: Final = "completion"
CAPABILITY_EMBEDDING: Final = "embedding"

# A keep_alive without an end is written as 292 years from now.
_NEVER_UNIX_S: Final = datetime(2200, 1, 1, tzinfo=UTC).timestamp()
_DATE_CHARACTERS_MAX: Final = 64
_WHOLE: Final = re.compile(r"[0-9]{1,18}")  # more digits can be costly to read

_Answer = TypeVar("_Answer")


class _Details(msgspec.Struct):
    family: str = ""
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: Count = 0
    parent_model: str = ""


class ListedModel(msgspec.Struct):
    """One entry of /api/tags. Servers before v0.30 tell neither capabilities nor context here."""

    name: str
    digest: str
    size: Bytes = 0
    modified_at: object = None  # one odd date must not cost the whole answer
    details: _Details = msgspec.field(default_factory=_Details)
    capabilities: list[str] | None = None
    remote_model: str = ""


class _Tags(msgspec.Struct):
    models: list[ListedModel] | None


class _Show(msgspec.Struct):
    modelfile: str = ""
    capabilities: list[str] | None = None
    model_info: dict[str, object] | None = None
    parameters: str = ""


class _Running(msgspec.Struct):
    name: str
    digest: str
    size: Bytes = 0
    size_vram: Bytes = 0
    context_length: Count = 0  # absent before v0.11
    expires_at: object = None


class _Ps(msgspec.Struct):
    models: list[_Running] | None


class _Version(msgspec.Struct):
    version: str


class _Loaded(msgspec.Struct):
    done: bool
    done_reason: str = ""


class _Embedded(msgspec.Struct):
    embeddings: tuple[tuple[float, ...], ...]
    prompt_eval_count: Count = 0
    total_duration: Nanoseconds = 0
    load_duration: Nanoseconds = 0


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What /api/show adds for one digest. Empty and 0 where it does not tell."""

    files: Files = Files()
    capabilities: frozenset[str] = frozenset()
    context_length_train: int = 0
    num_ctx: int = 0  # of the Modelfile
    kv_bytes_per_token: int = 0


def listed_models(body: bytes) -> tuple[ListedModel, ...]:
    """The local models of /api/tags, in its order."""
    check_listing("/api/tags", body)
    listed = _decoded(body, _Tags, "/api/tags").models or []
    check_listed("/api/tags", listed)
    return tuple(model for model in listed if not model.remote_model)


def shown(body: bytes) -> Shown:
    """The facts of one answer of /api/show."""
    answer = _decoded(body, _Show, "/api/show")
    info = answer.model_info or {}
    context = info.get(f"{info.get('general.architecture')}.context_length")
    return Shown(
        files=files(answer.modelfile),
        capabilities=frozenset(answer.capabilities or ()),
        context_length_train=told_count(context),
        num_ctx=_parameter(answer.parameters, "num_ctx"),
        kv_bytes_per_token=kv_bytes_per_token(info),
    )


def _parameter(parameters: str, name: str) -> int:
    """A whole number among the Modelfile's parameters, one to a line, name first; 0 if absent."""
    for line in parameters.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name and _WHOLE.fullmatch(words[1]):
            return told_count(int(words[1]))
    return 0


def facts(model: ListedModel, details: Shown | None) -> ModelFacts:
    """Both answers as one; `details` is None while /api/show has not told."""
    known = details or Shown()
    weights = known.files.weights
    files = (*weights, *known.files.adapters) if weights else (model.digest,)
    return ModelFacts(
        name=model.name,
        runner=FILES_JOINED.join(files),
        digest=model.digest,
        size_bytes=model.size,
        capabilities=known.capabilities or frozenset(model.capabilities or ()),
        parameter_size=model.details.parameter_size,
        quantization=model.details.quantization_level,
        family=model.details.family,
        context_length_train=known.context_length_train or model.details.context_length,
        num_ctx_default=known.num_ctx,
        modified_at=_date(model.modified_at),
        parent=canonical(model.details.parent_model) or "",
        blobs=weights,
        adapters=known.files.adapters,
        kv_bytes_per_token=known.kv_bytes_per_token,
    )


def _date(told: object) -> str:
    """A date as it was told, "" for what is none."""
    if not isinstance(told, str) or len(told) > _DATE_CHARACTERS_MAX:
        return ""
    try:
        when = datetime.fromisoformat(told)
    except ValueError:
        return ""
    return told if when.tzinfo is not None and when.year > 1 else ""


def residents(body: bytes) -> tuple[Resident, ...]:
    """The models of /api/ps. A runner that died stays listed until somebody asks for it."""
    check_listing("/api/ps", body)
    running = _decoded(body, _Ps, "/api/ps").models or []
    check_listed("/api/ps", running)
    return tuple(
        Resident(
            name=model.name,
            digest=model.digest,
            memory_bytes=model.size,
            gpu_memory_bytes=model.size_vram,
            num_ctx=model.context_length,
            expires_unix_s=_expiry(model.expires_at),
        )
        for model in running
    )


def _expiry(told: object) -> float | None:
    """When it will be let go, in seconds since 1970. None for never, and for what is no date."""
    try:
        when = datetime.fromisoformat(told) if isinstance(told, str) else None
        unix_s = when.timestamp() if when is not None and when.tzinfo is not None else 0.0
    except (ValueError, OverflowError):
        return None
    return unix_s if 0 < unix_s < _NEVER_UNIX_S else None


def version(body: bytes) -> str:
    return _decoded(body, _Version, "/api/version").version


def check_loaded(body: bytes) -> None:
    """Raises BackendFailed unless the answer of a load or unload by /api/generate says done."""
    if not _decoded(body, _Loaded, "/api/generate").done:
        raise BackendFailed("/api/generate answered a call without a prompt, but not as done")


def embeddings(body: bytes, inputs: int) -> Embeddings:
    """The vectors of /api/embed; BackendFailed unless there is one for each of the inputs."""
    answer = _decoded(body, _Embedded, "/api/embed")
    if len(answer.embeddings) != inputs:
        raise BackendFailed(
            f"/api/embed answered {len(answer.embeddings)} vectors to {inputs} inputs"
        )
    return Embeddings(
        vectors=answer.embeddings,
        prompt_tokens=answer.prompt_eval_count,
        total_duration_ns=max(0, answer.total_duration),
        load_duration_ns=max(0, answer.load_duration),
    )


def _decoded(body: bytes, kind: type[_Answer], path: str) -> _Answer:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BackendFailed(f"{path} answered what cannot be read: {error}") from error
