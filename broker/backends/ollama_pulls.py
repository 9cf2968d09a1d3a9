"""What Ollama says of a download: lines of progress in, how far it is as a whole out.

Rules: pure. A layer is told once it is begun, so that the total grows while they come. Only
`success` ends a download well, whatever the HTTP status was; a line with an `error` is a failure.
Sources: reference/OLLAMA.md §1.7, recorded 50_pull_unreachable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from broker.backends.error_text import text_of_error
from broker.backends.figures import Bytes
from broker.backends.ollama_wire import LineSplitter, LineTooLong
from broker.core.errors import BackendFailed, BrokerError, DiskFull, PullFailed
from broker.core.ports import PullProgress, PullStep

# A model has some ten; one with more than this is none.
LAYERS_MAX: Final = 10_000
LINE_BYTES_MAX: Final = 65_536

_NO_SPACE: Final = ("no space left", "not enough space", "disk quota exceeded", "disk is full")
# The registry's own no: the same tomorrow.
_FINAL: Final = (
    "file does not exist",
    "invalid model name",
    "requires a newer version",
    "unauthorized",
    "insecure protocol",
    "model name is not valid",
)

_STEPS: Final = {
    "pulling": PullStep.PULLING,
    "verifying": PullStep.VERIFYING,
    "writing": PullStep.WRITING,
    "removing": PullStep.WRITING,
}


class _Line(msgspec.Struct):
    status: str = ""
    digest: str = ""
    total: Bytes = 0
    completed: Bytes = 0
    error: object = None


class PullReader:
    """One download. `on_progress` hears of each line that says how far it is."""

    def __init__(self, model: str, on_progress: Callable[[PullProgress], None]) -> None:
        self._model = model
        self._on_progress = on_progress
        self._lines = LineSplitter(LINE_BYTES_MAX)
        self._layers: dict[str, tuple[int, int]] = {}  # digest -> (completed, total)
        # Of all layers; a sum over them for each line would grow with the square of their number.
        self._completed_bytes = self._total_bytes = 0
        self._found_bytes = 0  # what was there of each when it was first told of
        self._step = PullStep.MANIFEST
        self.is_done = False

    def feed(self, data: bytes) -> None:
        """Bytes of the answer, cut anywhere. Raises the failure that a line tells of."""
        try:
            lines = self._lines.feed(data)
        except LineTooLong:
            raise BackendFailed(f"a line of the download of {self._model} is too long") from None
        for line in lines:
            self._read(line)

    def end(self) -> None:
        """The answer is over; raises where it did not end well."""
        rest = self._lines.end()
        if rest:
            self._read(rest)
        if not self.is_done:
            raise BackendFailed(f"the download of {self._model} ended without a word")

    def _read(self, text: bytes) -> None:
        try:
            line = msgspec.json.decode(text, type=_Line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BackendFailed(f"a line of the download makes no sense: {error}") from error
        if line.error is not None:
            raise error_of_pull(self._model, text_of_error(line.error))
        if line.status == "success":
            self.is_done = True
            return
        if line.digest:
            if line.digest not in self._layers and len(self._layers) >= LAYERS_MAX:
                raise BackendFailed(f"{self._model} has more than {LAYERS_MAX} layers")
            completed = min(line.completed, line.total)
            before = self._layers.get(line.digest)
            if before is None:
                self._found_bytes += completed
            was_completed, was_total = before or (0, 0)
            self._layers[line.digest] = completed, line.total
            self._completed_bytes += completed - was_completed
            self._total_bytes += line.total - was_total
        word = line.status.partition(" ")[0]
        is_manifest = line.status == "pulling manifest"
        self._step = PullStep.MANIFEST if is_manifest else _STEPS.get(word, self._step)
        self._on_progress(
            PullProgress(
                step=self._step,
                completed_bytes=self._completed_bytes,
                total_bytes=self._total_bytes,
                fetched_bytes=max(0, self._completed_bytes - self._found_bytes),
            )
        )


def error_of_pull(model: str, text: str) -> BrokerError:
    """What a download's error means: whether there is the disk, and whether it may work later."""
    said = text or "an error without a word"
    lower = said.lower()
    if any(mark in lower for mark in _NO_SPACE):
        return DiskFull(f"there is not the disk for {model}: {said}")
    is_final = any(mark in lower for mark in _FINAL)
    return PullFailed(f"{model} could not be downloaded: {said}", is_final=is_final)
