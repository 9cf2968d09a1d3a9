"""What a server of OpenAI's dialect says of its models, and its vectors.

Rules: pure; an answer that is not what its endpoint promises is BackendFailed. The dialect tells
little more than names: contexts and sizes come from the fields that vLLM (`max_model_len`) and
llama-server (`meta`) add, and are unknown elsewhere. What is listed is taken to be loaded: such a
server cannot be told to load. Sources: vllm/entrypoints/openai/models; llama.cpp tools/server;
recorded 40_v1_models, 40_v1_embeddings.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from broker.backends.figures import Bytes, Count, check_listed, check_listing
from broker.backends.openai_errors import EMBEDDINGS, MODELS
from broker.core.content import Embeddings
from broker.core.errors import BackendFailed
from broker.core.ports import ModelFacts, Resident

_BILLION: Final = 1_000_000_000
_MILLION: Final = 1_000_000

_Answer = TypeVar("_Answer")


class _Meta(msgspec.Struct):
    """What llama-server adds. It is null while the model is being loaded."""

    n_ctx: Count | None = 0  # of one slot
    n_ctx_train: Count | None = 0
    n_params: Bytes | None = 0
    size: Bytes | None = 0


class ListedModel(msgspec.Struct):
    id: str
    max_model_len: Count | None = None
    meta: _Meta | None = None


class _Models(msgspec.Struct):
    data: list[ListedModel] | None  # null where Ollama has none


class _Version(msgspec.Struct):
    version: str = ""


class _Vector(msgspec.Struct):
    embedding: tuple[float, ...]
    index: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: Count | None = 0


class _Embedded(msgspec.Struct):
    data: list[_Vector]
    usage: _Usage | None = None


def listed_models(body: bytes) -> tuple[ListedModel, ...]:
    """The models of /v1/models, each name once, in its order."""
    check_listing(MODELS, body)
    listed = _decoded(body, _Models, MODELS).data or []
    check_listed(MODELS, listed)
    return tuple({model.id: model for model in listed if model.id}.values())


def facts(model: ListedModel) -> ModelFacts:
    """The name is the runner and the digest: nothing else tells one model from another."""
    meta = model.meta or _Meta()
    num_ctx = model.max_model_len or meta.n_ctx or 0
    return ModelFacts(
        name=model.id,
        runner=model.id,
        digest=model.id,
        size_bytes=meta.size or 0,
        parameter_size=_size(meta.n_params or 0),
        context_length_train=num_ctx or meta.n_ctx_train or 0,
        num_ctx_default=num_ctx,
    )


def resident(model: ListedModel) -> Resident:
    """Memory that nobody tells counts as none: nothing is ever loaded beside it by the broker."""
    meta = model.meta or _Meta()
    return Resident(
        name=model.id,
        digest=model.id,
        memory_bytes=meta.size or 0,
        gpu_memory_bytes=0,
        num_ctx=model.max_model_len or meta.n_ctx or 0,
    )


def version(body: bytes) -> str:
    """Of vLLM's /version; "" where the answer holds none."""
    try:
        return msgspec.json.decode(body, type=_Version).version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def embeddings(body: bytes, inputs: int) -> Embeddings:
    """The vectors by their index; BackendFailed unless there is one for each of the inputs."""
    answer = _decoded(body, _Embedded, EMBEDDINGS)
    vectors = sorted(answer.data, key=lambda each: each.index)
    if [each.index for each in vectors] != list(range(inputs)):
        raise BackendFailed(f"{EMBEDDINGS} answered {len(vectors)} vectors to {inputs} inputs")
    usage = answer.usage or _Usage()
    return Embeddings(
        vectors=tuple(each.embedding for each in vectors),
        prompt_tokens=usage.prompt_tokens or 0,
    )


def _size(parameters: int) -> str:
    """As Ollama writes it: 7.6B, 137M; "" where it is not told."""
    if parameters >= _BILLION:
        return f"{parameters / _BILLION:.1f}B"
    return f"{parameters / _MILLION:.0f}M" if parameters else ""


def _decoded(body: bytes, kind: type[_Answer], path: str) -> _Answer:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BackendFailed(f"{path} answered what cannot be read: {error}") from error
