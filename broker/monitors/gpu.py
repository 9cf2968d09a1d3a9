"""The GPUs as NVML tells of them. No library, no driver, no GPU, no permission: normal answers.

A session with the driver is opened at the first look and again after errors, since one that has
seen its driver go or a card fall off the bus does not recover by itself. The cards are found anew
at each look: they and their MIG instances come and go.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import pynvml

from broker.core.sensing import GpuReading, GpuSample, SensorState
from broker.monitors.card import CardLook

# Where there was never a GPU: somebody may still load a driver.
ABSENT_RETRY_NS: Final = 60_000_000_000
# Between two sessions after errors: opening one may take a second of driver work.
FAILING_RETRY_NS: Final = 10_000_000_000

# A card that has told no memory for so long is not waited for any more: it was taken out, or lost
# for good. It comes back as it came.
FORGOTTEN_NS: Final = 600_000_000_000

GPUS_MAX: Final = 256

_WHY_ABSENT: Final = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "there is no NVML library (libnvidia-ml.so.1) here",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "there is no NVIDIA driver, or it is not loaded",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not ask the NVIDIA driver",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the NVIDIA driver was replaced; NVML works again after a restart of the broker, "
        "or of the machine"
    ),
}


@dataclass(frozen=True, slots=True)
class _Card:
    index: int
    name: str
    seen_ns: int

    def words(self) -> str:
        """As the driver's own tools number them."""
        return f"GPU {self.index}" + (f" ({self.name})" if self.name else "")


class GpuReader:
    """Reads the GPUs; `read` and `close` are for one thread. `whose` tells of a process its name
    and whether it is a local backend's."""

    def __init__(
        self, whose: Callable[[int], tuple[str, bool]], monotonic_ns: Callable[[], int]
    ) -> None:
        self._whose = whose
        self._monotonic_ns = monotonic_ns
        self._is_open = False
        self._may_open_ns: int | None = None
        self._closed = SensorState.ABSENT, ""  # how it is while there is no session, and why
        self._known: dict[str, _Card] = {}  # whole cards that were seen, by their ids
        self._lacking_ns: dict[int, int] = {}  # by index: since when it errs on its memory

    def read(self) -> GpuReading:
        """The GPUs now. An error that is not foreseen here is a failing sensor, and raised."""
        now_ns = self._monotonic_ns()
        for uuid, each in list(self._known.items()):
            if now_ns - each.seen_ns >= FORGOTTEN_NS:
                del self._known[uuid]
        if not self._is_open and (self._may_open_ns is None or now_ns >= self._may_open_ns):
            self._open(now_ns)
        if not self._is_open:
            return self._without(now_ns, *self._closed)
        try:
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            self._end(now_ns, error)
            return self._without(now_ns, *self._closed)
        if count > GPUS_MAX:
            problem = f"the driver says that there are {count} GPUs"
            return GpuReading(at_ns=now_ns, state=SensorState.FAILING, problem=problem)
        return self._look(count, now_ns)

    def close(self) -> None:
        """Ends the session with the driver, if there is one."""
        if self._is_open:
            self._is_open = False
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()

    def _open(self, now_ns: int) -> None:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self._end(now_ns, error)
            return
        self._is_open = True
        self._may_open_ns = now_ns + FAILING_RETRY_NS

    def _end(self, now_ns: int, error: pynvml.NVMLError | None = None) -> None:
        """There is no session any more; the next one is opened after a while. Without an error:
        since there is nothing to ask for."""
        self.close()
        state, why = SensorState.ABSENT, "there is a driver, but no GPU"
        if error is not None:
            why = _WHY_ABSENT.get(error.value, "")
            if not why:
                state, why = SensorState.FAILING, f"the NVIDIA driver answers: {error}"
        self._closed = state, why
        is_hopeful = self._known or state is SensorState.FAILING
        self._may_open_ns = now_ns + (FAILING_RETRY_NS if is_hopeful else ABSENT_RETRY_NS)

    def _look(self, count: int, now_ns: int) -> GpuReading:
        samples: list[GpuSample] = []
        problems: list[str] = []
        present, ill, lacking = set(), set(), set()
        for index in range(count):
            card = CardLook(index, self._whose)
            card.read()
            samples += card.samples
            problems += card.problems
            if card.problems:
                ill.add(index)
            if not card.is_whole:
                lacking.add(index)
            present.add(card.uuid)
            if card.uuid and card.samples:
                self._known[card.uuid] = _Card(index, card.name, now_ns)
        for uuid, known in self._known.items():
            if uuid not in present and known.index not in ill:
                problems.append(f"{known.words()} is not there any more")
        is_whole = self._is_whole(lacking, now_ns)
        if problems:
            if self._may_open_ns is not None and now_ns >= self._may_open_ns:
                self.close()  # the next look opens a new session, which may see more
            return GpuReading(
                at_ns=now_ns,
                state=SensorState.FAILING,
                gpus=tuple(samples),
                problem="; ".join(problems),
                is_whole=is_whole,
            )
        if samples:
            return GpuReading(at_ns=now_ns, state=SensorState.OK, gpus=tuple(samples))
        if count == 0:
            self._end(now_ns)
            return self._without(now_ns, *self._closed)
        return self._without(now_ns, SensorState.ABSENT, "no GPU here tells of its memory")

    def _is_whole(self, lacking: set[int], now_ns: int) -> bool:
        """Has each card told its memory, but for those that have not for too long?"""
        known = self._lacking_ns
        self._lacking_ns = {index: known.get(index, now_ns) for index in lacking}
        return all(now_ns - since_ns >= FORGOTTEN_NS for since_ns in self._lacking_ns.values())

    def _without(self, now_ns: int, state: SensorState, why: str) -> GpuReading:
        """There is nothing to read: as ever, or where there was something before."""
        if not self._known:
            return GpuReading(at_ns=now_ns, state=state, problem=why)
        gone = ", ".join(each.words() for each in self._known.values())
        return GpuReading(
            at_ns=now_ns, state=SensorState.FAILING, problem=f"{gone} cannot be read: {why}"
        )
