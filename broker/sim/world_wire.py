"""What lies between the broker and one simulated server: what gets lost or spoiled on the way.

Each switch stands for a fault of the network or of the answers' bytes; what it comes to is told in
the words of the Ollama backend, which reads the real ones. Source: backends/ollama_transport.py,
ollama_wire.py and ollama_errors.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from broker.core.errors import (
    BackendBusy,
    BackendFailed,
    BackendRefused,
    BrokerError,
    ModelUnknown,
)
from broker.core.ports import Resident
from broker.sim.ollama_work import Failed

CONNECT_TIMEOUT_NS: Final = 5_000_000_000  # as the Ollama backend has it
IN_STREAM: Final = 200  # the status of an answer that broke after its head
BUSY: Final = 503


@dataclass(slots=True)
class Wire:
    """`refusal`: no connection is taken, and why not. `is_half_open`: nothing passes any more, and
    nothing ends. `resets`: every call is cut as soon as it is made. `is_busy`: every call but an
    unload is answered 503. `spoils`: each answer breaks off with this after its first token, or
    before it if `spoils_first`. `digest`: what every resident is listed with. `hides`: what is not
    listed though it is there, a name or "" for all. `remembers`: what was listed once is listed on,
    there or not."""

    refusal: str = ""
    is_half_open: bool = False
    resets: bool = False
    is_busy: bool = False
    spoils: str = ""
    spoils_first: bool = False
    digest: str = ""
    hides: str | None = None
    remembers: bool = False
    seen: dict[str, Resident] = field(default_factory=dict)  # since it remembers

    def told(self, held: tuple[Resident, ...]) -> tuple[Resident, ...]:
        """What a list says of what is held."""
        if self.digest:
            held = tuple(replace(each, digest=self.digest) for each in held)
        if self.hides is not None:
            held = tuple(each for each in held if self.hides not in ("", each.name))
        if not self.remembers:
            return held
        self.seen.update((each.name, each) for each in held)
        return tuple(self.seen.values())


def error_of(failed: Failed, model: str) -> BrokerError:
    """The error that the Ollama backend makes of this answer."""
    status = failed.status
    if status == IN_STREAM:
        return BackendFailed(failed.text)
    if status == BUSY:
        return BackendBusy(failed.text, status=status)
    if status == 404:
        return ModelUnknown(model, ())
    if 400 <= status < 500:
        return BackendRefused(failed.text, status=status)
    return BackendFailed(failed.text, status=status)
