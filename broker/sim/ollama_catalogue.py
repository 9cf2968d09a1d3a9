"""The models that a simulated Ollama server holds, and how it finds them by name.

Rules: a `SimModel` is data; nothing here knows of requests, time or loading. Two names over one
`blob` share one runner, as in Ollama. Names keep their case but match whatever their case, and
lack of host, namespace or tag means the defaults (reference/OLLAMA.md §5; sizes §1.6 and §3.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

# types/model/name.go: the first character is a letter, digit or underscore; a host may hold a
# colon, the other parts may not; a host has at most 350 characters, any other part 80.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}\Z")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}\Z")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}\Z")


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
    """

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    batch_slowdown: float = 0.2
    load_bytes_per_s: float = 2.0e9  # from disk
    load_cached_bytes_per_s: float = 6.0e9  # from the page cache
    spawn_ms: float = 350.0  # process start until the weights are read, whatever their size
    restore_ms: float = 0.0  # to bring an older prompt back from the runner's host memory
    embed_call_ms: float = 0.0  # what one embedding input costs besides its tokens


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
    parameters: tuple[tuple[str, int | float | bool | str | tuple[str, ...]], ...] = ()
    model_info: Mapping[str, object] = MappingProxyType({})  # added to what the figures give
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


SINGLE_SLOT_FAMILIES = frozenset(
    "mllama qwen3vl qwen3vlmoe qwen35 qwen35moe qwen3next lfm2 lfm2moe "
    "nemotron_h nemotron_h_moe nemotron_h_omni".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """A name in its four parts, defaults filled in, the caller's case kept."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def short(self) -> str:
        """The name as Ollama displays it: default host and `library` dropped, tag always there."""
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def full(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        return self.full.lower()


def parse_name(text: str) -> ModelName | None:
    """The parts of a name as a request spells it; None where Ollama says `invalid model name`."""
    rest = text.partition("://")[2] if "://" in text else text
    path, slash, last = rest.rpartition("/")
    model, colon, tag = last.rpartition(":")
    if not colon:
        model, tag = last, DEFAULT_TAG
    host, namespace = DEFAULT_HOST, DEFAULT_NAMESPACE
    if slash:
        before, second_slash, namespace = path.rpartition("/")
        host = before if second_slash else DEFAULT_HOST
    fits = _HOST.match(host) and _NAMESPACE.match(namespace)
    if not (fits and _PART.match(model) and _PART.match(tag)):
        return None
    return ModelName(host=host, namespace=namespace, model=model, tag=tag)


class Catalogue:
    """The models of one server by name. Changing it never touches a runner that is loaded."""

    def __init__(self, models: Iterable[SimModel]) -> None:
        self._by_key: dict[str, SimModel] = {}
        for model in models:
            self.put(model)

    def __iter__(self) -> Iterator[SimModel]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def find(self, name: str) -> SimModel | None:
        """The model of this name by Ollama's rules, or None if invalid or not there."""
        parsed = parse_name(name)
        return None if parsed is None else self._by_key.get(parsed.key)

    def find_exact(self, name: str) -> SimModel | None:
        """As `find`, but the case must match: /api/embeddings looks names up this way."""
        model = self.find(name)
        parsed = parse_name(name)
        if model is None or parsed is None or parsed.short != model.name:
            return None
        return model

    def put(self, model: SimModel) -> None:
        """Adds a model or points its name elsewhere, as create and copy do."""
        parsed = parse_name(model.name)
        if parsed is None or parsed.short != model.name:
            raise ValueError(f"not a canonical model name: {model.name!r}")
        self._by_key[parsed.key] = model

    def remove(self, name: str) -> bool:
        """Forgets a name, as delete does; False if there is none."""
        parsed = parse_name(name)
        return parsed is not None and self._by_key.pop(parsed.key, None) is not None
