"""The documents about models rather than text: tags, show, ps, version, status.

Rules: fields in Go's order; what a real server reads from the model file is worked out from the
catalogue's figures, so that keys, types and magnitudes are those of a model of that size.

Source: reference/OLLAMA.md §1.6 and §5; recordings 00_, 01_, 03_, 11_ps_three, 18_ps_two_slots.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from broker.sim.ollama_answers import local_stamp
from broker.sim.ollama_asked import ShowAsked
from broker.sim.ollama_catalogue import Capability, Catalogue, SimModel, Template
from broker.sim.ollama_gojson import Json, go_quote, marshal

VERSION: Final = b'{"version":"0.0.0"}'  # what a build from source says
STATUS: Final = b'{"cloud":{"disabled":true,"source":"env"}}'
_FLOAT16_TYPES: Final = frozenset({"F16", "BF16", "F32"})
_BLOBS: Final = "<OLLAMA_MODELS>/blobs/sha256-"
_SPECIAL_TOKENS: Final = ("<unk>", "<s>", "</s>")


def parameter_size(count: int) -> str:
    """A number of parameters as format.HumanNumber prints it."""
    for scale, mark, decimals in ((1_000_000_000, "B", 1), (1_000_000, "M", 2)):
        if count >= scale:
            if count % scale == 0:
                return f"{count // scale}{mark}"
            return f"{count / scale:.{decimals}f}{mark}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


def details(model: SimModel) -> dict[str, Json]:
    family = model.family or model.architecture
    families: list[Json] = [family]
    return {
        "parent_model": model.parent_model,
        "format": "gguf",
        "family": family,
        "families": families,
        "parameter_size": parameter_size(model.parameter_count),
        "quantization_level": model.quantization,
    }


def _capabilities(model: SimModel) -> list[Json]:
    return [capability.value for capability in Capability if capability in model.capabilities]


def tags_document(catalogue: Catalogue) -> bytes:
    """GET /api/tags: newest first by whole seconds."""
    newest = sorted(catalogue, key=lambda model: -(model.modified_unix_ns // 1_000_000_000))
    entries: list[Json] = [
        {
            "name": model.name,
            "model": model.name,
            "modified_at": local_stamp(model.modified_unix_ns),
            "size": model.size_bytes,
            "digest": model.digest,
            "details": {
                **details(model),
                "context_length": model.context_length_train,
                "embedding_length": model.embedding_length,
            },
            "capabilities": _capabilities(model),
        }
        for model in newest
    ]
    return marshal({"models": entries}).encode()


def ps_entry(
    model: SimModel,
    name: str,
    *,
    size_bytes: int,
    vram_bytes: int,
    expires_at: str,
    num_ctx: int,
) -> Json:
    """One resident model; `name` is the name that loaded it."""
    return {
        "name": name,
        "model": name,
        "size": size_bytes,
        "digest": model.digest,
        "details": details(model),
        "expires_at": expires_at,
        "size_vram": vram_bytes,
        "context_length": num_ctx,
    }


def ps_document(entries: Iterable[Json]) -> bytes:
    return marshal({"models": list(entries)}).encode()


def show_document(asked: ShowAsked) -> bytes:
    """POST /api/show: long arrays are null unless it is to be verbose."""
    model = asked.model
    document: dict[str, Json] = {}
    if model.license:
        document["license"] = model.license
    document["modelfile"] = _modelfile(model)
    if model.parameters:
        document["parameters"] = "\n".join(_parameter_lines(model))
    document["template"] = model.template_text
    if asked.system:
        document["system"] = asked.system
    document["details"] = details(model)
    document["model_info"] = _model_info(model, verbose=asked.verbose)
    document["tensors"] = _tensors(model)
    document["capabilities"] = _capabilities(model)
    document["modified_at"] = local_stamp(model.modified_unix_ns)
    return marshal(document).encode()


def _shown_values(value: object) -> Sequence[object]:
    return value if isinstance(value, tuple) else (value,)


def _parameter_lines(model: SimModel) -> list[str]:
    """Name and value as Go's `%-30s %#v` prints them."""
    return [
        f"{key:<30} {go_quote(shown) if isinstance(shown, str) else marshal_plain(shown)}"
        for key, value in sorted(model.parameters)
        for shown in _shown_values(value)
    ]


def marshal_plain(value: object) -> str:
    """A number or truth value as Go prints it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _modelfile(model: SimModel) -> str:
    native = model.template is Template.NATIVE
    template = "{{ .Prompt }}" if native else model.template_text
    if "\n" in template or '"' in template:
        template = f'"""{template}"""'
    lines = [
        '# Modelfile generated by "ollama show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        f"# FROM {model.name}",
        "",
        f"FROM {_BLOBS}{model.blob}",
        *(f"ADAPTER {_BLOBS}{adapter}" for adapter in model.adapters),
        *(f"FROM {_BLOBS}{projector}" for projector in model.projectors),
        f"TEMPLATE {template}",
    ]
    if model.system:
        lines.append(f"SYSTEM {model.system}")
    for key, value in model.parameters:
        lines += [f"PARAMETER {key} {marshal_plain(shown)}" for shown in _shown_values(value)]
    return "\n".join(lines) + "\n"


def _model_info(model: SimModel, *, verbose: bool) -> dict[str, Json]:
    arch = model.architecture
    info: dict[str, Json] = {
        "general.architecture": arch,
        "general.file_type": model.file_type,
        "general.parameter_count": model.parameter_count,
        "general.quantization_version": 2,
        f"{arch}.attention.head_count": model.heads,
        f"{arch}.block_count": model.layers,
        f"{arch}.context_length": model.context_length_train,
        f"{arch}.embedding_length": model.embedding_length,
        f"{arch}.feed_forward_length": model.feed_forward_length,
        f"{arch}.vocab_size": model.vocab_size,
        "tokenizer.ggml.token_type": [1] * model.vocab_size if verbose else None,
        "tokenizer.ggml.tokens": _tokens(model) if verbose else None,
    }
    info.update(_embedding_info(arch) if model.is_embedding else _decoder_info(model))
    if verbose and not model.is_embedding:
        info["tokenizer.ggml.scores"] = [-rank for rank in range(model.vocab_size)]
    for key, value in model.model_info.items():
        if isinstance(value, bool | int | float | str):
            info[key] = value
    return dict(sorted(info.items()))


def _decoder_info(model: SimModel) -> dict[str, Json]:
    arch = model.architecture
    # Written where it is not what the width of the model divided by its heads gives.
    is_usual = model.head_dim * model.heads == model.embedding_length
    lengths = () if is_usual else ("key_length", "value_length")
    return {
        **{f"{arch}.attention.{each}": model.head_dim for each in lengths},
        f"{arch}.attention.head_count_kv": model.kv_heads,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-05,
        f"{arch}.rope.dimension_count": model.head_dim,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.scores": None,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def _embedding_info(arch: str) -> dict[str, Json]:
    return {
        f"{arch}.attention.causal": False,
        f"{arch}.attention.layer_norm_epsilon": 1e-12,
        f"{arch}.pooling_type": 1,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.mask_token_id": 4,
        "tokenizer.ggml.model": arch,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.unknown_token_id": 1,
    }


def _tokens(model: SimModel) -> list[Json]:
    tokens: list[Json] = [*_SPECIAL_TOKENS, *(f"<0x{octet:02X}>" for octet in range(256))]
    tokens += [f"\u2581w{rank}" for rank in range(len(tokens), model.vocab_size)]
    return tokens[: model.vocab_size]


def _tensors(model: SimModel) -> list[Json]:
    width, inner, vocab = (
        model.embedding_length,
        model.feed_forward_length,
        model.vocab_size,
    )
    square, norm = [width, width], [width]
    if model.is_embedding:
        top = {
            "position_embd.weight": [width, model.context_length_train],
            "token_embd.weight": [width, vocab],
            "token_embd_norm.bias": norm,
            "token_embd_norm.weight": norm,
            "token_types.weight": [width, 2],
        }
        block = {
            **{f"attn_{part}.weight": square for part in ("k", "output", "q", "v")},
            **{f"attn_{part}.bias": norm for part in ("k", "output", "q", "v")},
            **{f"{part}_norm.weight": norm for part in ("attn_output", "layer_output")},
            **{f"{part}_norm.bias": norm for part in ("attn_output", "layer_output")},
            "ffn_down.weight": [inner, width],
            "ffn_down.bias": norm,
            "ffn_up.weight": [width, inner],
            "ffn_up.bias": [inner],
        }
    else:
        kv_width = model.kv_heads * model.head_dim
        top = {
            "output.weight": [width, vocab],
            "output_norm.weight": norm,
            "token_embd.weight": [width, vocab],
        }
        block = {
            "attn_k.weight": [width, kv_width],
            "attn_norm.weight": norm,
            "attn_output.weight": square,
            "attn_q.weight": square,
            "attn_v.weight": [width, kv_width],
            "ffn_down.weight": [inner, width],
            "ffn_gate.weight": [width, inner],
            "ffn_norm.weight": norm,
            "ffn_up.weight": [width, inner],
        }
    shapes = dict(top)
    for layer in range(model.layers):
        shapes.update({f"blk.{layer}.{name}": block[name] for name in sorted(block)})
    return [_tensor(model, name, shape) for name, shape in shapes.items()]


def _tensor(model: SimModel, name: str, shape: Sequence[int]) -> Json:
    weights = model.quantization if model.quantization in _FLOAT16_TYPES else "Q4_K"
    small = len(shape) == 1 or name.startswith(("position_embd", "token_types"))
    return {"name": name, "type": "F32" if small else weights, "shape": list(shape)}
