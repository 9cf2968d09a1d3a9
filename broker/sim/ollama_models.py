"""The models that `ollama-sim` holds when nothing else is asked for.

Sizes and figures are those that the public registry shows for these names; rates are what one
consumer GPU of 24 GB makes of them, rounded. `llama3.2:latest` and `llama3.2:3b` lie over one blob.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

from broker.sim.ollama_model_card import Capability, Says, SimModel, Speed, Template

_TALKS: Final = frozenset({Capability.COMPLETION})
_TALKS_WITH_TOOLS: Final = frozenset({Capability.COMPLETION, Capability.TOOLS})
_GO_CHAT: Final = (
    "{{ if .System }}system {{ .System }}\n{{ end }}"
    "{{ range .Messages }}{{ .Role }} {{ .Content }}\n{{ end }}assistant:"
)
_GO_TOOLS: Final = "{{ if .Tools }}Tools{{ range .Tools }} {{ . }}{{ end }}\n{{ end }}" + _GO_CHAT
_GO_THINKING: Final = _GO_TOOLS.replace(
    "{{ .Content }}", "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}"
)


def hash_of(text: str) -> str:
    """A stand-in for the sha256 of a file that is not here: 64 hex digits, always the same."""
    return hashlib.sha256(text.encode()).hexdigest()


_LLAMA_1B: Final = SimModel(
    name="llama3.2:1b",
    blob=hash_of("blob llama3.2:1b"),
    digest=hash_of("manifest llama3.2:1b"),
    size_bytes=1_321_098_329,
    parameter_count=1_235_814_432,
    architecture="llama",
    quantization="Q8_0",
    file_type=7,
    layers=16,
    heads=32,
    kv_heads=8,
    head_dim=64,
    embedding_length=2048,
    feed_forward_length=8192,
    vocab_size=128_256,
    context_length_train=131_072,
    capabilities=_TALKS_WITH_TOOLS,
    template_text=_GO_TOOLS,
    speed=Speed(prefill_tokens_per_s=9000.0, decode_tokens_per_s=180.0),
)

_LLAMA_3B: Final = SimModel(
    name="llama3.2:3b",
    blob=hash_of("blob llama3.2:3b"),
    digest=hash_of("manifest llama3.2:3b"),
    size_bytes=2_019_393_189,
    parameter_count=3_212_749_888,
    architecture="llama",
    layers=28,
    heads=24,
    kv_heads=8,
    head_dim=128,
    embedding_length=3072,
    feed_forward_length=8192,
    vocab_size=128_256,
    context_length_train=131_072,
    compute_bytes=400_000_000,
    capabilities=_TALKS_WITH_TOOLS,
    template_text=_GO_TOOLS,
    speed=Speed(prefill_tokens_per_s=5000.0, decode_tokens_per_s=100.0),
)

_QWEN_7B: Final = SimModel(
    name="qwen2.5:7b",
    blob=hash_of("blob qwen2.5:7b"),
    digest=hash_of("manifest qwen2.5:7b"),
    size_bytes=4_683_087_332,
    parameter_count=7_615_616_512,
    architecture="qwen2",
    layers=28,
    heads=28,
    kv_heads=4,
    head_dim=128,
    embedding_length=3584,
    feed_forward_length=18_944,
    vocab_size=152_064,
    context_length_train=32_768,
    compute_bytes=500_000_000,
    capabilities=_TALKS_WITH_TOOLS,
    template_text=_GO_TOOLS,
    speed=Speed(prefill_tokens_per_s=2800.0, decode_tokens_per_s=60.0),
)

_QWEN_8B: Final = SimModel(
    name="qwen3:8b",
    blob=hash_of("blob qwen3:8b"),
    digest=hash_of("manifest qwen3:8b"),
    size_bytes=5_225_388_164,
    parameter_count=8_190_735_360,
    architecture="qwen3",
    layers=36,
    heads=32,
    kv_heads=8,
    head_dim=128,
    embedding_length=4096,
    feed_forward_length=12_288,
    vocab_size=151_936,
    context_length_train=40_960,
    compute_bytes=600_000_000,
    capabilities=_TALKS_WITH_TOOLS | {Capability.THINKING},
    template_text=_GO_THINKING,
    says=Says(thinking_tokens_min=16, thinking_tokens_max=160),
    speed=Speed(prefill_tokens_per_s=2400.0, decode_tokens_per_s=52.0),
)

_TINYLLAMA: Final = SimModel(
    name="tinyllama:latest",
    blob=hash_of("blob tinyllama:latest"),
    digest=hash_of("manifest tinyllama:latest"),
    size_bytes=637_700_138,
    parameter_count=1_100_048_384,
    architecture="llama",
    quantization="Q4_0",
    file_type=2,
    layers=22,
    heads=32,
    kv_heads=4,
    head_dim=64,
    embedding_length=2048,
    feed_forward_length=5632,
    vocab_size=32_000,
    context_length_train=2048,
    compute_bytes=200_000_000,
    capabilities=_TALKS,
    template=Template.NATIVE,
    speed=Speed(prefill_tokens_per_s=9000.0, decode_tokens_per_s=200.0),
)

_NOMIC: Final = SimModel(
    name="nomic-embed-text:latest",
    blob=hash_of("blob nomic-embed-text:latest"),
    digest=hash_of("manifest nomic-embed-text:latest"),
    size_bytes=274_302_450,
    parameter_count=136_727_040,
    architecture="nomic-bert",
    quantization="F16",
    file_type=1,
    layers=12,
    heads=12,
    kv_heads=12,
    head_dim=64,
    embedding_length=768,
    feed_forward_length=3072,
    vocab_size=30_522,
    context_length_train=2048,
    compute_bytes=60_000_000,
    capabilities=frozenset({Capability.EMBEDDING}),
    speed=Speed(prefill_tokens_per_s=12_000.0, decode_tokens_per_s=500.0, embed_call_ms=2.0),
)

DEFAULT_MODELS: Final = (
    _LLAMA_1B,
    _LLAMA_3B,
    replace(_LLAMA_3B, name="llama3.2:latest"),
    _QWEN_7B,
    _QWEN_8B,
    _TINYLLAMA,
    _NOMIC,
)
