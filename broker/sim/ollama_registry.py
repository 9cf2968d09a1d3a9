"""The registry that a simulated Ollama pulls from: which models it has, and how their files come.

Rules: a file is downloaded once however many pulls want it; it rests when the last of them leaves
and goes on from there later; files that come at once share the line. Time is handed in, in
nanoseconds of the server's clock. Nothing here knows of requests or of HTTP.

Source: reference/OLLAMA.md §1.7 (pull).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from broker.sim.ollama_catalogue import Catalogue, SimModel
from broker.sim.ollama_models import DEFAULT_MODELS, hash_of

NS_PER_S: Final = 1_000_000_000
BYTES_PER_S_DEFAULT: Final = 100e6
# What a manifest lists besides the weights; the smallest model still has some of each.
_SMALL_FILES: Final = (("template", 1_429), ("license", 7_711), ("params", 96), ("config", 487))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One file of a model, by the sha256 of its content."""

    digest: str  # 64 hex digits
    size_bytes: int


def layers_of(model: SimModel) -> tuple[Layer, ...]:
    """The files of a model, weights first; together they are as large as the model says it is."""
    small = [
        Layer(digest=hash_of(f"{kind} {model.digest}"), size_bytes=min(size, model.size_bytes // 8))
        for kind, size in _SMALL_FILES
    ]
    weights = model.size_bytes - sum(layer.size_bytes for layer in small)
    files = (Layer(digest=model.blob, size_bytes=weights), *small)
    return tuple(layer for layer in files if layer.size_bytes)


@dataclass(slots=True)
class _Coming:
    """A file that is not whole yet."""

    size_bytes: int
    completed_bytes: float = 0.0
    pulls: set[int] = field(default_factory=set)  # which want it now


class Registry:
    """What can be pulled, and what of it is on the way to one server.

    Its cards are those of `models`; what a server has lost or changed can be had again.
    """

    def __init__(
        self, models: Iterable[SimModel], *, bytes_per_s: float = BYTES_PER_S_DEFAULT
    ) -> None:
        self.models = Catalogue(models)
        self.bytes_per_s = bytes_per_s
        self.pulls_started = 0  # calls of /api/pull that found their model
        self.files_started = 0  # downloads that began, or went on after a rest
        self._coming: dict[str, _Coming] = {}
        self._now_ns = 0
        self._last_pull = 0

    @property
    def files_coming(self) -> int:
        """How many files somebody waits for now."""
        return sum(1 for coming in self._coming.values() if coming.pulls)

    def new_pull(self) -> int:
        """A number for a pull, for `join` and `leave`."""
        self._last_pull += 1
        self.pulls_started += 1
        return self._last_pull

    def join(self, pull: int, layer: Layer, now_ns: int) -> None:
        """This pull wants this file from now on."""
        self._run(now_ns)
        coming = self._coming.setdefault(layer.digest, _Coming(layer.size_bytes))
        if not coming.pulls and coming.completed_bytes < coming.size_bytes:
            self.files_started += 1
        coming.pulls.add(pull)

    def leave(self, pull: int, now_ns: int) -> None:
        """This pull wants nothing more: what nobody else wants rests where it is."""
        self._run(now_ns)
        for coming in self._coming.values():
            coming.pulls.discard(pull)

    def completed_bytes(self, layer: Layer, now_ns: int) -> int:
        """How much of a file is there."""
        self._run(now_ns)
        coming = self._coming.get(layer.digest)
        return 0 if coming is None else min(layer.size_bytes, int(coming.completed_bytes))

    def forget(self, digest: str) -> None:
        """Drops what is there of a file that no pull wants: it was deleted, or has become part of
        a model."""
        coming = self._coming.get(digest)
        if coming is not None and not coming.pulls:
            del self._coming[digest]

    def _run(self, now_ns: int) -> None:
        """Lets what is wanted come, the line shared evenly among files that are not whole."""
        while now_ns > self._now_ns:
            wanted = [
                coming
                for coming in self._coming.values()
                if coming.pulls and coming.completed_bytes < coming.size_bytes
            ]
            if not wanted:
                self._now_ns = now_ns
                return
            each = self.bytes_per_s / len(wanted)
            least = min(coming.size_bytes - coming.completed_bytes for coming in wanted)
            step_ns = min(now_ns - self._now_ns, int(least / each * NS_PER_S) + 1)
            for coming in wanted:
                coming.completed_bytes += each * step_ns / NS_PER_S
            self._now_ns += step_ns


def default_registry_models() -> tuple[SimModel, ...]:
    """What can be pulled when nothing else is asked for: what the server had at first, and more."""
    return (*DEFAULT_MODELS, *MORE_MODELS)


def _like(name: str, like: SimModel, size_bytes: int, parameter_count: int) -> SimModel:
    return replace(
        like,
        name=name,
        blob=hash_of(f"blob {name}"),
        digest=hash_of(f"manifest {name}"),
        size_bytes=size_bytes,
        parameter_count=parameter_count,
    )


_BY_NAME: Final = {model.name: model for model in DEFAULT_MODELS}
MORE_MODELS: Final = (
    _like("llama3:8b", _BY_NAME["llama3.2:3b"], 4_661_224_676, 8_030_261_248),
    _like("qwen3:4b", _BY_NAME["qwen3:8b"], 2_497_293_931, 4_022_468_096),
    _like("smollm2:135m", _BY_NAME["tinyllama:latest"], 270_898_672, 134_515_008),
)
