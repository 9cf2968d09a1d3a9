"""One GPU as NVML tells of it: what it does not tell is None, what it tells wrong is said so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pynvml

from broker.core.sensing import GpuProcess, GpuSample

# Answers that mean "not from me": an older driver, a smaller card, a user who may not ask.
SILENT: Final = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_DATA,
        pynvml.NVML_ERROR_NOT_READY,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_DEPRECATED,
        # The list of processes grew while it was read.
        pynvml.NVML_ERROR_INSUFFICIENT_SIZE,
    }
)

# Beyond these a card does not speak of itself: far above every one there is.
MEMORY_BYTES_MAX: Final = 2**50
TEMPERATURE_C_MAX: Final = 250
POWER_MW_MAX: Final = 20_000_000
PROCESSES_MAX: Final = 1_024

# Bits of nvmlClocksEventReasons. That an idle GPU clocks down is no news.
_IDLE: Final = 0x1
THROTTLE_WORDS: Final = {
    0x2: "clocks set by an application",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "clocks in step with other GPUs",
    0x20: "heat, slowed by the driver",
    0x40: "heat, slowed by the hardware",
    0x80: "power brake",
    0x100: "clocks set for a display",
    0x200: "board limit",
    0x400: "reliability limit",
}


@dataclass(slots=True)
class CardLook:
    """One look at the card with this index. `problems` are in words; `samples` is one, or one for
    each MIG instance, or none where the card does not tell its memory. `is_whole`: it is not an
    error that keeps any of that from us."""

    index: int
    whose: Callable[[int], tuple[str, bool]]
    uuid: str = ""
    name: str = ""
    samples: list[GpuSample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_whole: bool = True

    def read(self) -> None:
        """Asks the card. Whatever goes wrong with it is a problem of this card alone."""
        handle = self._need(pynvml.nvmlDeviceGetHandleByIndex, self.index)
        if handle is None:
            return
        self.uuid = self._text("id", pynvml.nvmlDeviceGetUUID, handle)
        self.name = self._text("name", pynvml.nvmlDeviceGetName, handle)
        whole = GpuSample(
            index=self.index,
            uuid=self.uuid,
            name=self.name,
            memory_total_bytes=0,
            memory_used_bytes=0,
            temperature_c=self._number(
                "temperature",
                self._ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
                TEMPERATURE_C_MAX,
            ),
            throttle_reasons=self._throttle_reasons(handle),
        )
        mode = self._ask(pynvml.nvmlDeviceGetMigMode, handle)
        if mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
            self._read_instances(handle, whole)
            return
        power_w = self._watts("power", pynvml.nvmlDeviceGetPowerUsage, handle)
        limit_w = self._watts("power limit", pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        self._add(handle, replace(whole, power_w=power_w, power_limit_w=limit_w))

    def _read_instances(self, handle: Any, whole: GpuSample) -> None:
        """Temperature and throttling are the whole card's; its power cannot be told apart."""
        for index in range(self._need(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            instance = self._need(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
            if instance is not None:
                uuid = self._text("id of an instance", pynvml.nvmlDeviceGetUUID, instance)
                name = self._text("name of an instance", pynvml.nvmlDeviceGetName, instance)
                self._add(instance, replace(whole, uuid=uuid, name=name, is_mig=True))

    def _add(self, handle: Any, known: GpuSample) -> None:
        # Before the memory: what ends in between is then not taken for somebody else's.
        processes = self._processes(handle)
        # The second version keeps apart what the driver itself reserves.
        memory = self._ask(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
        if memory is None:
            memory = self._need(pynvml.nvmlDeviceGetMemoryInfo, handle)
        if memory is None:
            return
        total_bytes, used_bytes = int(memory.total), int(memory.used)
        if not 0 < total_bytes <= MEMORY_BYTES_MAX:
            self._lack("says that it has a size of memory that no GPU has")
            return
        if not 0 <= used_bytes <= total_bytes:
            self._lack("says that more of its memory is used than it has")
            return
        busy = self._ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
        percent = self._number("utilisation", None if busy is None else busy.gpu, 100)
        self.samples.append(
            replace(
                known,
                memory_total_bytes=total_bytes,
                memory_used_bytes=used_bytes,
                utilization=None if percent is None else percent / 100,
                processes=processes,
            )
        )

    def _processes(self, handle: Any) -> tuple[GpuProcess, ...] | None:
        rows = self._ask(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle)
        if rows is None:
            rows = self._ask(pynvml.nvmlDeviceGetComputeRunningProcesses_v2, handle)
        return None if rows is None else tuple(self._process(row) for row in rows[:PROCESSES_MAX])

    def _process(self, row: Any) -> GpuProcess:
        name, is_ours = self.whose(row.pid)
        held_bytes = self._number("memory of a process", row.usedGpuMemory, MEMORY_BYTES_MAX)
        return GpuProcess(
            pid=row.pid,
            name=name,
            memory_bytes=None if held_bytes is None else int(held_bytes),
            is_ours=is_ours,
        )

    def _throttle_reasons(self, handle: Any) -> tuple[str, ...]:
        bits = self._ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
        if bits is None:  # what drivers before 535 call it
            bits = self._ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        return tuple(_throttle_words(bits or 0))

    def _ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What NVML says, or None where it has nothing to say, or an error."""
        return self._answer(self._complain, call, arguments)

    def _need(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """As `_ask`; after an error something of the card's memory is missing."""
        return self._answer(self._lack, call, arguments)

    def _answer(
        self, erred: Callable[[str], None], call: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Any:
        try:
            return call(*arguments)
        except pynvml.NVMLError as error:
            if error.value not in SILENT:
                erred(str(error))
            return None

    def _text(self, what: str, call: Callable[..., Any], handle: Any) -> str:
        """A name; "" where it has none or nobody can read it."""
        try:
            return str(self._ask(call, handle) or "")
        except UnicodeDecodeError:
            self._complain(f"its {what} cannot be read")
            return ""

    def _watts(self, what: str, call: Callable[..., Any], handle: Any) -> float | None:
        milliwatts = self._number(what, self._ask(call, handle), POWER_MW_MAX)
        return None if milliwatts is None else milliwatts / 1_000

    def _number(self, what: str, value: Any, highest: float) -> float | None:
        """A figure that can be true; None where there is none."""
        if value is None:
            return None
        if not 0 <= value <= highest:
            self._complain(f"its {what} cannot be what it says")
            return None
        return float(value)

    def _lack(self, problem: str) -> None:
        """Of its memory."""
        self.is_whole = False
        self._complain(problem)

    def _complain(self, problem: str) -> None:
        """Once: a card that is lost answers each question alike."""
        words = f"GPU {self.index}: {problem}"
        if words not in self.problems:
            self.problems.append(words)


def _throttle_words(bits: int) -> Iterator[str]:
    bits &= ~_IDLE
    for bit, words in THROTTLE_WORDS.items():
        if bits & bit:
            yield words
            bits &= ~bit
    if bits:
        yield f"another reason (0x{bits:x})"
