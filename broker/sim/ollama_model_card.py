"""A model as a simulated Ollama server knows it: what tags, show, ps and the scheduler see of it.

Rules: data only; nothing here knows of requests, time or loading. Two models over one `blob` share
one runner, as in Ollama. Sources: reference/OLLAMA.md §1.6, §3.1, §3.3, §7.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

# sched.go: the families whose runner takes one request at a time, whatever was asked for.
SINGLE_SLOT_FAMILIES = frozenset(
    (
        *("mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next"),
        *("lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "nemotron_h_omni"),
    )
)


class Capability(Enum):
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    TOOLS = "tools"
    INSERT = "insert"
    VISION = "vision"
    THINKING = "thinking"


class Template(Enum):
    """Which engine renders a chat and reads its answer (OLLAMA.md §1.4)."""

    GO = "go"  # rendered by Ollama: tool calls come in earlier chunks, repeats are guarded
    NATIVE = "native"  # rendered by the runner: tool calls come in the last object


class SaysKind(Enum):
    SEEDED = "seeded"  # words drawn from the seed, as many as the length range allows
    SCRIPT = "script"  # `thinking`, then `pieces`, then the end, the same every time
    LOOP = "loop"  # `pieces` over and over, for ever
    TOLD = "told"  # words as of SEEDED, as many tokens as the first number in the prompt says


class BrokenFile(Enum):
    """What is wrong with the file of a model that cannot be loaded (OLLAMA.md §2)."""

    MAGIC = "magic"  # not a model file at all: found by Ollama within milliseconds
    TRUNCATED = "truncated"  # a tensor lies past the end: found by Ollama too
    RUNNER = "runner"  # Ollama accepts it, the runner exits with status 1 while it loads
    MISSING = "missing"  # the manifest is there, the blob is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallScript:
    """The call a model makes when the request offers tools; `arguments` is a JSON object."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Says:
    """What a model says. Pieces are bytes, one per token, because a character may span tokens.

    `thinking` are the pieces between the thinking marks, without the marks. The token ranges
    hold for SEEDED only; the shell draws from them, never the scheduler.
    """

    kind: SaysKind = SaysKind.SEEDED
    pieces: tuple[bytes, ...] = ()
    thinking: tuple[bytes, ...] = ()
    tool_call: ToolCallScript | None = None
    output_tokens_min: int = 24
    output_tokens_max: int = 240
    thinking_tokens_min: int = 0
    thinking_tokens_max: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast one runner of a model works when it is alone on its machine.

    `batch_slowdown` is the beta of OLLAMA.md §7.6: with b slots busy a runner makes
    b / (1 + beta·(b-1)) times the tokens of one slot. About 0.2 on a GPU, about 1 on a CPU.
    `is_apart`: no request slows another at all, not even by its prompt (`ollama_runner_apart.py`).
    """

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    batch_slowdown: float = 0.2
    load_bytes_per_s: float = 2.0e9  # from disk
    load_cached_bytes_per_s: float = 6.0e9  # from the page cache
    spawn_ms: float = 350.0  # process start until the weights are read, whatever their size
    restore_ms: float = 0.0  # to bring an older prompt back from the runner's host memory
    embed_call_ms: float = 0.0  # what one embedding input costs besides its tokens
    is_apart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SimModel:
    """One model as tags, show, ps and the scheduler see it.

    `name` is the canonical short name with its tag ("llama3.2:1b"). `parameters` are the
    Modelfile's, in order; their values are numbers, booleans, strings or tuples of strings. The
    shell merges them under the request's options, the scheduler sees only the outcome.
    """

    name: str
    blob: str  # 64 hex digits; what a loaded model is keyed by
    digest: str  # 64 hex digits, of the manifest
    size_bytes: int  # of manifest, weights and layers, as tags reports it
    parameter_count: int
    architecture: str
    speed: Speed
    says: Says = field(default_factory=Says)
    family: str = ""  # empty means the architecture
    quantization: str = "Q4_K_M"
    file_type: int = 15  # general.file_type of the GGUF, 15 is Q4_K_M
    layers: int = 16
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    embedding_length: int = 2048
    feed_forward_length: int = 8192
    vocab_size: int = 32000
    context_length_train: int = 8192
    compute_bytes: int = 300_000_000  # what a runner takes besides weights and KV
    capabilities: frozenset[Capability] = frozenset({Capability.COMPLETION})
    template: Template = Template.GO
    template_text: str = "{{ .Prompt }}"
    system: str = ""
    license: str = ""
    parent_model: str = ""
    adapters: tuple[str, ...] = ()  # blobs laid on the weights, each of 64 hex digits
    projectors: tuple[str, ...] = ()  # blobs that read images or sound
    parameters: tuple[tuple[str, int | float | bool | str | tuple[str, ...]], ...] = ()
    model_info: Mapping[str, object] = field(default_factory=dict)  # added to what the figures give
    modified_unix_ns: int = 1_767_225_600_000_000_000
    shift: bool = True  # context shift when the request does not say; false for deepseek2
    broken: BrokenFile | None = None

    @property
    def is_embedding(self) -> bool:
        return Capability.EMBEDDING in self.capabilities

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one position, two bytes each (OLLAMA.md §3.3)."""
        if self.is_embedding:
            return 0
        return 2 * self.layers * self.kv_heads * self.head_dim * 2

    def slots(self, num_parallel: int) -> int:
        """How many requests one runner of this model computes at once (OLLAMA.md §3.1)."""
        if self.is_embedding or self.family in SINGLE_SLOT_FAMILIES:
            return 1
        return max(1, num_parallel)
