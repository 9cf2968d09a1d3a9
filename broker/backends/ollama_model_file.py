"""What /api/show tells of a model's files: which blobs it is made of, and what its context costs.

Rules: pure; what is absent, odd or beyond belief is as if it were not told. Long arrays are null in
an answer that is not verbose (reference/OLLAMA.md §1.6), and then nothing is known of their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from broker.backends.figures import told_count

_DIGEST_HEX: Final = 64
_HEX: Final = frozenset("0123456789abcdef")
_BLOB_MARK: Final = "sha256-"
# Files of one model that are remembered: weights, projectors, drafts; and adapters.
FILES_MAX: Final = 64
# After one of these come texts over several lines, any of which may look like a line of files.
_TEXTS: Final = ("TEMPLATE", "SYSTEM", "LICENSE", "MESSAGE", "PARAMETER")

_CACHE_BYTES: Final = 2  # of one number: f16, whatever OLLAMA_KV_CACHE_TYPE says (§3.3)
_LAYERS_MAX: Final = 4_096
# A token of the largest models known takes 5 MB; beyond this somebody's figures are wrong.
_PER_TOKEN_BYTES_MAX: Final = 64 * 1024 * 1024


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """Digests in the order of the Modelfile. `weights` are of FROM lines, the first of them the
    model's own and the others projectors and the like."""

    weights: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()


def files(modelfile: str) -> Files:
    """The blobs that a Modelfile names. Models of several tensors files have no such lines."""
    found: dict[str, list[str]] = {"FROM": [], "ADAPTER": []}
    for line in modelfile.splitlines():
        word, _, rest = line.partition(" ")
        if word in _TEXTS:
            break
        if word in found and len(found[word]) < FILES_MAX:
            found[word].append(_digest(rest))
    weights = found["FROM"]
    # What follows a first line without a blob is no weights of this model's own.
    return Files(
        weights=_told(weights) if weights and weights[0] else (),
        adapters=_told(found["ADAPTER"]),
    )


def _told(digests: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each for each in digests if each))


def _digest(path: str) -> str:
    """The digest at the end of a path to a blob, "" where there is none."""
    _, mark, digest = path.rpartition(_BLOB_MARK)
    digest = digest.strip().strip('"')
    is_digest = mark and len(digest) == _DIGEST_HEX and _HEX.issuperset(digest)
    return digest if is_digest else ""


def kv_bytes_per_token(info: Mapping[str, object]) -> int:
    """Bytes of keys and values of one token in all layers; 0 where the figures do not tell.

    Layers with a sliding window hold fewer tokens than the context, which is not counted here: then
    this is what it takes at most.
    """
    arch = info.get("general.architecture")
    if info.get(f"{arch}.attention.causal") is False:
        return 0  # it reads a text at once and keeps nothing of it
    layers = _figure(info, f"{arch}.block_count")
    heads = _figure(info, f"{arch}.attention.head_count")
    width = _figure(info, f"{arch}.embedding_length") // heads if heads else 0
    numbers = _figure(info, f"{arch}.attention.key_length", width)
    numbers += _figure(info, f"{arch}.attention.value_length", width)
    told = _kv_heads(info, f"{arch}.attention.head_count_kv", heads, layers)
    # In these models most layers have no cache that grows: only each so-manieth has.
    interval = _figure(info, f"{arch}.full_attention_interval", 1)
    per_token = told * numbers * _CACHE_BYTES // max(1, interval)
    return per_token if 0 < per_token <= _PER_TOKEN_BYTES_MAX else 0


def _kv_heads(info: Mapping[str, object], key: str, heads: int, layers: int) -> int:
    """Heads with a cache of their own, over all layers."""
    if not 0 < layers <= _LAYERS_MAX:
        return 0
    told = info.get(key, heads)
    if isinstance(told, list):  # a figure for each layer, 0 for layers without a cache
        return sum(told_count(each) for each in told) if len(told) == layers else 0
    return told_count(told) * layers


def _figure(info: Mapping[str, object], key: str, default: int = 0) -> int:
    return told_count(info.get(key, default))
